"""A storage folder as an exporter leaves it that has seen much, to measure at its size."""

import os
import time
from itertools import product
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import (
    HOST,
    Commit,
    CounterTotal,
    Executable,
    KnownExecutable,
    Scope,
    SeriesLabels,
    Sha256,
)

SERIES_OF_EACH = 20
"""Of an executable: 16 of bytes, and 4 that say what it is."""
_SCOPES = (Scope.LOOPBACK, Scope.PRIVATE, Scope.LINK_LOCAL, Scope.PUBLIC)


def write(storage: Path, *, series: int) -> None:
    """Makes the folder, with so many series."""
    storage.mkdir(mode=0o700)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    database = Database(storage / "snitch.db", boot_id=boot_id)
    database.load()  # notes which boot the totals are of
    executables = [_executable(number) for number in range(series // SERIES_OF_EACH)]
    database.commit(
        Commit(
            rows=(),
            totals=tuple(total for one in executables for total in _totals(one)),
            executables=tuple(_known(one) for one in executables),
            files=(),
            journal_segment=0,
            ring_instance=0,
            ring_position=0,
        )
    )
    database.close()
    account = privileges.find_account(None)
    for path in (storage, *storage.iterdir()):
        os.chown(path, account.uid, account.gid)


def _executable(number: int) -> Executable:
    return Executable(sha256=Sha256(f"{number:064x}"), exe=f"/usr/lib/example/program-{number}")


def _totals(executable: Executable) -> list[CounterTotal]:
    return [
        CounterTotal(
            metric=metric,
            labels=SeriesLabels(
                executable=executable, workload=HOST, protocol=protocol, scope=scope
            ),
            value=1_234_567,
            created_seconds=time.time(),
        )
        for metric, protocol, scope in product(
            ("transmit_bytes", "receive_bytes"), ("tcp", "udp"), _SCOPES
        )
    ]


def _known(executable: Executable) -> KnownExecutable:
    return KnownExecutable(
        executable=executable,
        workload=HOST,
        name=Path(executable.exe).name,
        parent=_executable(0),
        size_bytes=123_456,
        first_seen_seconds=time.time(),
        last_seen_seconds=time.time(),
    )
