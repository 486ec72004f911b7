"""A new program uses the network: VirusTotal is asked, and people are told."""

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.exporter import COMMAND, Exporter, Settings, poll
from tests.kernel.generator import Generator, Program
from tests.session_bus import NotificationServer, session_bus
from tests.virustotal_server import KEY, VirusTotalServer, serve
from tests.webhook_receiver import Receiver

USER = "nobody"
VERDICT = "picosnitch_executable_virustotal_verdict"
SECONDS = 30.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def desktop() -> Iterator[NotificationServer]:
    """Somebody's desktop, where systemd puts it."""
    account = pwd.getpwnam(USER)
    folder = Path(f"/run/user/{account.pw_uid}")
    folder.mkdir(parents=True)
    try:
        with session_bus(folder) as address:
            os.chown(folder, account.pw_uid, account.pw_gid)
            folder.chmod(0o700)
            server = NotificationServer(address)
            yield server
            server.close()
    finally:
        shutil.rmtree(folder)


def secret(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


@contextmanager
def running(
    folder: Path, state: VirusTotalServer, receiver: Receiver, known: Program
) -> Iterator[Exporter]:
    """An exporter that has run before, as far as it knows: otherwise all is one summary."""
    settings: Settings = {
        "log": {"write_limit_seconds": 1},
        "virustotal": {
            "api_key_file": secret(folder, "key", KEY),
            "base_url": state.url,
            "request_limit_seconds": 0,
            "file_upload": True,
        },
        "notifications": {
            "desktop": True,
            "user": USER,
            "webhook_url_file": secret(folder, "url", receiver.url),
        },
    }
    exporter = Exporter(command=COMMAND, settings=settings)
    record = folder / "record.json"
    hashes = {str(known.path): {known.sha256: "VT Pending"}}
    record.write_text(json.dumps({"Executables": {str(known.path): ["x"]}, "SHA256": hashes}))
    command = [*COMMAND, "import-record", str(record), f"--storage.path={exporter.storage}"]
    try:
        subprocess.run(command, check=True, capture_output=True)
        exporter.launch()
        with exporter:
            yield exporter
    finally:
        exporter.kill()


def shoot(program: Program, port: int) -> None:
    with program.start("oneshot", port=port, bytes=10) as shot:
        assert shot.done().sent == 10


def verdict(exporter: Exporter, sha256: str) -> str:
    with urllib.request.urlopen(f"http://{exporter.address}/metrics", timeout=10) as response:
        text = response.read().decode()
    samples = (
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == VERDICT and sample.labels["sha256"] == sha256
    )
    return next((sample.labels["verdict"] for sample in samples), "")


def events(receiver: Receiver) -> set[tuple[str, str]]:
    found = set()
    for document in receiver.documents:
        assert isinstance(document["events"], list)
        found |= {(each["event"], each.get("sha256", "")) for each in document["events"]}
    return found


@pytest.mark.usefixtures("privileges")
def test_program_is_told_and_judged_when_it_is_new(
    shared_generator: Generator, receiver: Receiver, desktop: NotificationServer, tmp_path: Path
) -> None:
    bad, unknown, known = (shared_generator.copy(name) for name in ("bad", "unknown", "known"))
    newer = shared_generator.copy("newer")
    content = unknown.path.read_bytes()
    with serve() as state:
        state.add(bad.sha256, malicious=5)
        with (
            running(tmp_path, state, receiver, known) as exporter,
            shared_generator.copy("sink").start("udp-server", via="recvfrom") as server,
        ):
            port = server.ready().port
            for program in (bad, unknown, known):
                shoot(program, port)
            unknown.path.unlink()
            newer.path.rename(known.path)
            shoot(Program(path=known.path, sha256=newer.sha256), port)

            is_judged = poll(lambda: verdict(exporter, bad.sha256) == "malicious", seconds=SECONDS)
            assert is_judged, exporter.said()
            expected = {
                ("new_executable", bad.sha256),
                ("new_executable", unknown.sha256),
                ("new_hash", newer.sha256),
                ("verdict", bad.sha256),
            }
            assert poll(lambda: expected <= events(receiver), seconds=SECONDS), receiver.documents
            assert ("new_executable", known.sha256) not in events(receiver)
            assert poll(lambda: unknown.sha256 in state.uploads, seconds=SECONDS), state.requests
            titles = {"VirusTotal warns", "New content of a known program"}
            shown = poll(
                lambda: titles <= {each.title for each in list(desktop.shown)}, seconds=SECONDS
            )
            assert shown, desktop.shown
            log = (exporter.storage / "exe.log").read_text()
    assert hashlib.sha256(state.uploads[unknown.sha256]).hexdigest() == unknown.sha256
    assert state.uploads[unknown.sha256] == content
    assert f"{bad.sha256[:16]} {bad.path} (malicious)" in log
    assert KEY not in log
