"""Executables whose file is deleted while they talk, and ones that only get a new one."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.exporter import Exporter, poll

SECONDS = 60.0
TALK = 'exec 3<>/dev/udp/127.0.0.1/$0; while read -r line; do echo "$line" >&3; done'


class Talker:
    """A shell that nobody else has; it sends a datagram when it is told to."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        path.write_bytes(Path("/bin/bash").read_bytes() + os.urandom(16))
        path.chmod(0o755)
        self.sha256 = sha256(path.read_bytes()).hexdigest()
        self._process = subprocess.Popen(
            [path, "-c", TALK, str(port)], stdin=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def talk(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("hello\n")
        self._process.stdin.flush()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="picosnitch-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def deleted(exporter: Exporter) -> dict[str, str]:
    """Path by hash."""
    return {
        sample.labels["sha256"]: sample.labels["exe"]
        for family in text_string_to_metric_families(exporter.page("/metrics"))
        for sample in family.samples
        if sample.name == "picosnitch_executable_deleted"
    }


def test_executable_is_called_deleted_when_its_file_has_gone_and_not_when_it_was_replaced(
    exporter: Exporter, folder: Path
) -> None:
    with ExitStack() as stack:
        sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.bind(("127.0.0.1", 0))
        names = ("gone", "replaced", "kept")
        talkers = [
            stack.enter_context(Talker(folder / name, sink.getsockname()[1])) for name in names
        ]
        gone, replaced, kept = talkers

        def is_deleted(one: Talker) -> bool:
            for talker in talkers:
                talker.talk()
            return one.sha256 in deleted(exporter)

        hashes = {talker.sha256 for talker in talkers}
        assert not is_deleted(gone)
        exporter.await_scrape(
            lambda scrape: hashes <= set(scrape.by_hash()), "all of them", seconds=SECONDS
        )
        gone.path.unlink()
        shutil.copy("/bin/true", folder / "new")
        (folder / "new").rename(replaced.path)
        assert poll(lambda: is_deleted(gone), seconds=SECONDS), exporter.said()

        # Meanwhile the others are looked at as well.
        assert not is_deleted(kept)
        kept.path.unlink()
        assert poll(lambda: is_deleted(kept), seconds=SECONDS), exporter.said()
        found = deleted(exporter)
        paths = {one.sha256: exporter.scrape().paths(one.sha256) for one in talkers}

    assert {one: found[one] for one in hashes & set(found)} == {
        gone.sha256: str(gone.path),
        kept.sha256: str(kept.path),
    }
    # Each is still counted under the path and the hash that it had.
    assert paths == {one.sha256: {str(one.path)} for one in talkers}


def test_executable_is_called_deleted_when_it_deletes_itself_before_it_talks(
    exporter: Exporter, folder: Path
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        with Talker(folder / "dropper", sink.getsockname()[1]) as dropper:
            dropper.path.unlink()

            def is_deleted() -> bool:
                dropper.talk()
                return dropper.sha256 in deleted(exporter)

            assert poll(is_deleted, seconds=SECONDS), exporter.said()
