import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageFullError
from picosnitch_exporter.log.journal import Journal, JournalFullError
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.writer import LogWriter
from picosnitch_exporter.settings import LogSettings, TextSettings
from picosnitch_exporter.state.health import Health
from tests.log_samples import CURL, commit, row, total

DEADLINE_SECONDS = 30


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return filler


def test_commit_is_whole_or_not_there_when_the_disk_is_full(disk: Path) -> None:
    database = Database(disk / "snitch.db", boot_id="b")
    database.load()
    database.commit(replace(commit(row(), segment=1), totals=(total(1),)))
    filler = fill(disk)
    programs = [replace(CURL, cmdline=f"curl {'x' * 200} {n}") for n in range(1000)]
    rows = [row(program=program) for program in programs]
    big = replace(commit(*rows, segment=2), totals=(total(2),))
    with pytest.raises(StorageFullError, match="free some space"):
        database.commit(big)
    filler.unlink()
    persisted = database.load()
    assert (1, (total(1),)) == (persisted.journal_segment, persisted.totals)
    database.commit(big)
    database.close()
    again = Database(disk / "snitch.db", boot_id="b")
    persisted = again.load()
    again.close()
    assert (2, (total(2),)) == (persisted.journal_segment, persisted.totals)
    with closing(sqlite3.connect(disk / "snitch.db")) as connection:
        assert connection.execute("SELECT count(*) FROM connection_log").fetchone() == (1001,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_every_log_goes_on_when_the_disk_has_room_again(disk: Path) -> None:
    health = Health()
    committed: list[int] = []
    database = Database(disk / "snitch.db", boot_id="b", retention_days=36_500)
    writer = LogWriter(
        database,
        settings=LogSettings(text=TextSettings(enabled=True)),
        storage=disk,
        health=health,
        committed=lambda each: committed.append(each.journal_segment),
        failed=lambda error: pytest.fail(str(error)),
    )

    def full() -> float:
        for family in health.collect():
            if family.metric is catalog.LOG_ERRORS:
                return sum(each.value for each in family.readings if each.labels[1] == "full")
        return 0

    writer.start()
    filler = fill(disk)
    programs = [replace(CURL, cmdline=f"curl {'x' * 200} {n}") for n in range(1000)]
    writer.submit(commit(*(row(program=program) for program in programs), segment=1))
    wait_for(lambda: full() >= 3)
    assert committed == []
    filler.unlink()
    wait_for(lambda: committed == [1])
    writer.close(timeout_seconds=5)
    database.close()
    with closing(sqlite3.connect(disk / "snitch.db")) as connection:
        assert connection.execute("SELECT count(*) FROM connection_log").fetchone() == (1000,)
    lines = (disk / "conn.log").read_text().splitlines()
    assert len(lines) == 1000
    assert all(line.count(",") == 16 for line in lines)


def test_journal_keeps_what_it_took_when_the_disk_is_full(disk: Path) -> None:
    journal = Journal(disk / "journal")
    journal.append(b"before")
    filler = fill(disk)
    with pytest.raises(JournalFullError, match="free some space"):
        journal.append(b"x" * 10_000)
    filler.unlink()
    journal.append(b"after")
    journal.close()
    again = Journal(disk / "journal")
    assert list(again.replay(0)) == [b"before", b"after"]
    assert (again.torn_tails, again.corrupt_segments) == (0, 0)
    again.close()
