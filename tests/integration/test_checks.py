"""VirusTotal and notifications as the exporter process has them."""

import contextlib
import hashlib
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter.identity.hashing import Hasher
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import (
    HOST,
    Commit,
    Executable,
    FileIdentity,
    KnownExecutable,
    KnownVerdict,
    Persisted,
    Sha256,
    Verdict,
    VirusTotalResult,
)
from picosnitch_exporter.service.checking import Checks, unjudged
from picosnitch_exporter.settings import Settings, StorageSettings, VirusTotalSettings
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import ExecutableSeen
from picosnitch_exporter.terminal import import_record
from tests.virustotal_server import KEY, VirusTotalServer, serve

CONTENT = b"\x7fELF of a program"
SHA = Sha256(hashlib.sha256(CONTENT).hexdigest())
NOTHING = Commit(
    rows=(),
    totals=(),
    executables=(),
    files=(),
    journal_segment=0,
    ring_instance=0,
    ring_position=0,
)


@pytest.fixture
def server() -> Iterator[VirusTotalServer]:
    with serve() as state:
        yield state


class Exporter:
    """A store with its checks."""

    def __init__(self, settings: Settings) -> None:
        self.failures: list[BaseException] = []
        self.store = Store(
            health=Health(),
            max_executables=10,
            stale_after_seconds=60,
            unjudged=unjudged(settings),
        )
        self.checks = Checks(
            settings,
            store=self.store,
            health=Health(),
            failed=self.failures.append,
            desktop=None,
        )

    def see(self, sha256: Sha256) -> KnownExecutable:
        executable = Executable(sha256=sha256, exe="/bin/x")
        nobody = Executable(sha256=Sha256(""), exe="")
        self.store.see(
            executable, HOST, name="x", parent=nobody, size_bytes=1, time_seconds=time.time()
        )
        (known,) = self.store.changed_executables()
        return known

    def verdict(self) -> Verdict:
        (fact,) = self.store.snapshot(time.time()).executables
        return fact.virustotal.verdict

    def run_until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not is_true():
            self.checks.tick()
            assert not self.failures
            assert time.monotonic() < deadline


def settings(folder: Path, url: str = "", **changes: object) -> Settings:
    virustotal = VirusTotalSettings(
        api_key=KEY if url else "", base_url=url, request_limit_seconds=0
    )
    return Settings(
        storage=StorageSettings(path=folder),
        virustotal=replace(virustotal, **changes),  # type: ignore[arg-type]
    )


def test_verdict_is_disabled_when_there_is_no_key(tmp_path: Path) -> None:
    exporter = Exporter(settings(tmp_path))
    old = KnownVerdict(sha256=SHA, exe="x", result=VirusTotalResult(verdict=Verdict.CLEAN))
    exporter.checks.start(Persisted(verdicts=(old,)))
    exporter.checks.discovered((exporter.see(SHA),))
    exporter.checks.tick()
    assert exporter.verdict() is Verdict.DISABLED
    assert exporter.checks.keeper is None
    assert exporter.checks.take_verdicts() == ()
    exporter.checks.close()


def test_verdict_outlives_the_process_when_it_was_committed(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    server.add(SHA, malicious=4)
    exporter = Exporter(settings(tmp_path, server.url))
    exporter.checks.start(Persisted())
    known = exporter.see(SHA)
    assert exporter.verdict() is Verdict.PENDING
    exporter.checks.discovered((known,))
    exporter.run_until(lambda: exporter.verdict() is Verdict.MALICIOUS)
    database = Database(tmp_path / "snitch.db", boot_id="boot")
    verdicts = exporter.checks.take_verdicts()
    database.commit(replace(NOTHING, executables=(known,), verdicts=verdicts))
    exporter.checks.close()
    persisted = database.load()
    database.close()
    again = Exporter(settings(tmp_path, server.url))
    again.checks.start(persisted)
    again.see(SHA)
    again.checks.tick()
    assert again.verdict() is Verdict.MALICIOUS
    again.checks.close()
    assert len(server.requests) == 1


def test_question_is_asked_when_nobody_discovered_the_executable(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    server.add(SHA)
    exporter = Exporter(settings(tmp_path, server.url))
    exporter.checks.start(Persisted())
    exporter.see(SHA)
    exporter.run_until(lambda: exporter.verdict() is Verdict.CLEAN)
    exporter.checks.close()


def test_file_is_uploaded_when_the_registry_has_hashed_it(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    exporter = Exporter(settings(tmp_path, server.url, file_upload=True))
    exporter.checks.start(Persisted())
    path = tmp_path / "program"
    path.write_bytes(CONTENT)
    with Hasher() as hasher:
        registry = Registry(hasher, keeper=exporter.checks.keeper)
        descriptor = os.open(path, os.O_RDONLY)
        status = os.fstat(descriptor)
        frame = ExecutableSeen(
            identity=FileIdentity(device=1, inode=status.st_ino, generation=0),
            tgid=1,
            seen_ns=1,
            size_bytes=status.st_size,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
            links=1,
            path=os.fsencode(path),
            reason="",
        )
        registry.seen(frame, descriptor)
        path.unlink()
        while not registry.poll():
            select.select([hasher], [], [], 5)
    exporter.checks.discovered((exporter.see(SHA),))
    exporter.run_until(lambda: SHA in server.uploads)
    assert server.uploads[SHA] == CONTENT
    exporter.checks.close()
    assert not [name for name in open_files() if name.startswith(str(path))]


def open_files() -> list[str]:
    names = []
    for link in Path("/proc/self/fd").iterdir():
        # The one of this listing is closed by now.
        with contextlib.suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return names


def test_record_is_in_the_database_when_it_was_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.json"
    stats = "{'malicious': 0, 'suspicious': 0, 'harmless': 1, 'undetected': 60}"
    path.write_text(
        f'{{"Executables": {{"/bin/x": ["x"]}}, "SHA256": {{"/bin/x": {{"{SHA}": "{stats}"}}}}}}'
    )
    for expected in ("1 of them new", "0 of them new"):
        assert import_record.run(settings(tmp_path), import_record.read(path)) == 0
        assert expected in capsys.readouterr().out
    database = Database(tmp_path / "snitch.db", boot_id="boot")
    persisted = database.load()
    (known,) = persisted.executables
    assert known.executable == Executable(sha256=SHA, exe="/bin/x")
    assert persisted.verdicts[0].result.verdict is Verdict.CLEAN
    # What picosnitch knew is not new: nobody is told, and the question is answered.
    seen = replace(known, last_seen_seconds=time.time())
    assert database.commit(replace(NOTHING, executables=(seen,))) == ()
    database.close()
