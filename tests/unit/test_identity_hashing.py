import hashlib
import os
import select
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.identity import hashing
from picosnitch_exporter.identity.hashing import Hasher, HashingError, HashOutcome
from tests.identity_samples import is_open

DEADLINE_SECONDS = 20.0


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    hasher = Hasher()
    yield hasher
    hasher.close()


def submit(hasher: Hasher, path: Path, ticket: int, *, urgency: int = 1) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stat = os.fstat(descriptor)
    hasher.submit(
        descriptor,
        ticket=ticket,
        size_bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        urgency=urgency,
    )
    return descriptor


def wait(hasher: Hasher, count: int) -> list[HashOutcome]:
    outcomes: list[HashOutcome] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(outcomes) < count and time.monotonic() < deadline:
        select.select([hasher], [], [], 0.5)
        outcomes += hasher.completed()
    return outcomes


@pytest.mark.parametrize("size_bytes", [0, 1, 262_144, hashing.SLICE_BYTES, 9_000_001])
def test_outcome_is_the_files_hash_when_it_stays_as_it_is(
    hasher: Hasher, tmp_path: Path, size_bytes: int
) -> None:
    content = os.urandom(size_bytes)
    path = tmp_path / "file"
    path.write_bytes(content)
    descriptor = submit(hasher, path, 5)
    (outcome,) = wait(hasher, 1)
    assert (hashlib.sha256(content).hexdigest(), "", 5) == (
        outcome.sha256,
        outcome.reason,
        outcome.ticket,
    )
    assert path.stat().st_ctime_ns == outcome.changed_ns
    assert not is_open(descriptor)
    assert hasher.pending == 0


def test_file_is_hashed_when_it_was_unlinked(hasher: Hasher, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    descriptor = os.open(path, os.O_RDONLY)
    stat = os.fstat(descriptor)
    path.unlink()
    hasher.submit(descriptor, ticket=1, size_bytes=7, modified_ns=stat.st_mtime_ns, urgency=0)
    (outcome,) = wait(hasher, 1)
    assert hashlib.sha256(b"content").hexdigest() == outcome.sha256


def test_position_stays_when_the_descriptor_is_shared(hasher: Hasher, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb", buffering=0) as shared:
        shared.seek(3)
        stat = os.fstat(shared.fileno())
        hasher.submit(
            os.dup(shared.fileno()),
            ticket=1,
            size_bytes=7,
            modified_ns=stat.st_mtime_ns,
            urgency=0,
        )
        (outcome,) = wait(hasher, 1)
        assert hashlib.sha256(b"content").hexdigest() == outcome.sha256
        assert shared.tell() == 3


@pytest.mark.parametrize(("size_change", "time_change"), [(1, 0), (-1, 0), (0, 1)])
def test_outcome_is_modified_when_the_stamps_differ(
    hasher: Hasher, tmp_path: Path, size_change: int, time_change: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    stat = path.stat()
    hasher.submit(
        os.open(path, os.O_RDONLY),
        ticket=1,
        size_bytes=stat.st_size + size_change,
        modified_ns=stat.st_mtime_ns + time_change,
        urgency=0,
    )
    (outcome,) = wait(hasher, 1)
    assert (outcome.sha256, outcome.reason) == ("", "modified")


def test_outcome_is_modified_when_the_file_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    read = os.preadv

    def read_then_change(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        length = read(descriptor, buffers, offset)
        path.write_bytes(b"contenu")
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        return length

    monkeypatch.setattr(os, "preadv", read_then_change)
    hasher = Hasher(workers=1)
    submit(hasher, path, 1)
    (outcome,) = wait(hasher, 1)
    hasher.close()
    assert (outcome.sha256, outcome.reason) == ("", "modified")


def test_file_is_read_again_when_only_its_change_time_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    modes = iter((0o700, 0o755))
    read = os.preadv
    before_ns = path.stat().st_ctime_ns

    def read_then_chmod(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        mode = next(modes, None)
        while mode is not None:
            path.chmod(mode)
            if path.stat().st_ctime_ns != before_ns:
                break
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_then_chmod)
    with Hasher(workers=1) as hasher:
        submit(hasher, path, 1)
        (outcome,) = wait(hasher, 1)
    assert hashlib.sha256(b"content").hexdigest() == outcome.sha256


@pytest.mark.parametrize("is_written", [False, True])
def test_readings_have_to_agree_when_the_change_time_never_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    modified_ns = path.stat().st_mtime_ns
    contents = iter((b"CONTENT", b"Content", b"contenT") if is_written else (b"content",) * 3)
    read = os.preadv

    def read_then_write(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        length = read(descriptor, buffers, offset)
        content = next(contents)
        before_ns = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == before_ns:
            path.write_bytes(content)
            os.utime(path, ns=(0, modified_ns))
        return length

    monkeypatch.setattr(os, "preadv", read_then_write)
    with Hasher(workers=1) as hasher:
        submit(hasher, path, 1)
        (outcome,) = wait(hasher, 1)
    sha256 = "" if is_written else hashlib.sha256(b"content").hexdigest()
    assert (sha256, "modified" if is_written else "") == (outcome.sha256, outcome.reason)
    assert outcome.changed_ns == 0


def test_giant_is_closed_when_the_end_comes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    entered = threading.Event()
    read = os.preadv

    def read_once_open(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        entered.set()
        gate.wait(DEADLINE_SECONDS)
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_once_open)
    monkeypatch.setattr(hashing, "SLICE_BYTES", 4)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    hasher = Hasher(workers=1)
    descriptor = submit(hasher, path, 1)
    entered.wait(DEADLINE_SECONDS)
    closing = threading.Thread(target=hasher.close)
    closing.start()
    while not hasher._is_closed:
        time.sleep(0)
    gate.set()
    closing.join(DEADLINE_SECONDS)
    assert not is_open(descriptor)


def test_small_files_are_done_first_when_a_sparse_giant_is_read(
    hasher: Hasher, tmp_path: Path
) -> None:
    giants = []
    for number in range(3):
        giant = tmp_path / f"giant{number}"
        with giant.open("wb") as file:
            file.truncate(4 * 1024**3)
        giants.append(submit(hasher, giant, number, urgency=0))
    small = tmp_path / "small"
    small.write_bytes(b"content")
    for ticket in range(100, 150):
        submit(hasher, small, ticket, urgency=1)
    outcomes = wait(hasher, 50)
    assert set(range(100, 150)) == {outcome.ticket for outcome in outcomes}
    hasher.close()
    assert not any(is_open(descriptor) for descriptor in giants)


def giant(folder: Path, number: int) -> Path:
    """Sparse, of 8 EiB, which takes 200 years; it needs a tmpfs."""
    path = folder / f"giant{number}"
    with path.open("wb") as file:
        file.truncate(2**63 - 4096)
    return path


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_giants_leave_room_for_others_when_they_fill_the_queue(
    memory: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"content")
    with Hasher(capacity=4) as hasher:
        for ticket in range(3):
            submit(hasher, giant(memory, ticket), ticket)
        assert [(one.ticket, one.reason) for one in wait(hasher, 1)] == [(2, "queue_full")]
        assert hasher.is_crowded
        submit(hasher, small, 9)
        assert [(one.ticket, one.reason) for one in wait(hasher, 1)] == [(9, "")]


def test_giant_is_let_go_of_when_it_is_cancelled(memory: Path) -> None:
    with Hasher(capacity=4) as hasher:
        opened = [submit(hasher, giant(memory, ticket), ticket) for ticket in range(2)]
        hasher.cancel(0)
        hasher.cancel(1)
        hasher.cancel(2)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while hasher.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (hasher.pending, hasher.is_crowded) == (0, False)
        assert not any(is_open(descriptor) for descriptor in opened)
        assert hasher.completed() == []


def test_urgent_files_are_done_first_when_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    entered = threading.Event()
    read = os.preadv

    def read_once_open(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        entered.set()
        gate.wait(DEADLINE_SECONDS)
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_once_open)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with Hasher(workers=1) as hasher:
        submit(hasher, path, 1)
        entered.wait(DEADLINE_SECONDS)
        for ticket, urgency in ((2, 1), (3, 1), (4, 0), (5, 1)):
            submit(hasher, path, ticket, urgency=urgency)
        hasher.hurry(5, urgency=0)
        hasher.hurry(99, urgency=0)
        gate.set()
        outcomes = wait(hasher, 5)
    assert [outcome.ticket for outcome in outcomes] == [1, 4, 5, 2, 3]


def test_descriptor_is_refused_when_the_queue_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(os, "preadv", lambda *_arguments: gate.wait(DEADLINE_SECONDS) and 0)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with Hasher(workers=1, capacity=1) as hasher:
        submit(hasher, path, 1)
        descriptor = submit(hasher, path, 2)
        assert not is_open(descriptor)
        (outcome,) = wait(hasher, 1)
        assert (outcome.ticket, outcome.sha256, outcome.reason) == (2, "", "queue_full")
        gate.set()
        (outcome,) = wait(hasher, 1)
        assert (outcome.ticket, outcome.reason) == (1, "modified")


def test_reason_is_said_when_the_file_can_not_be_read(hasher: Hasher, tmp_path: Path) -> None:
    stat = tmp_path.stat()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    hasher.submit(
        descriptor, ticket=1, size_bytes=stat.st_size, modified_ns=stat.st_mtime_ns, urgency=0
    )
    (outcome,) = wait(hasher, 1)
    assert (outcome.sha256, outcome.reason) == ("", "not_a_file")
    assert not is_open(descriptor)


def test_main_loop_hears_of_it_when_a_thread_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_arguments: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(os, "preadv", explode)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    hasher = Hasher(workers=1)
    submit(hasher, path, 1)
    assert select.select([hasher], [], [], DEADLINE_SECONDS)[0]
    with pytest.raises(HashingError, match="ZeroDivisionError"):
        hasher.completed()
    hasher.close()


def test_nothing_is_said_when_nothing_was_hashed(hasher: Hasher) -> None:
    assert hasher.completed() == []
    assert select.select([hasher], [], [], 0)[0] == []


def test_descriptor_is_closed_when_submitted_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    gate = threading.Event()
    gate.set()
    hasher = Hasher(workers=1)
    hasher._is_closed = True
    descriptor = submit(hasher, path, 1)
    assert not is_open(descriptor)
    hasher._is_closed = False
    hasher.close()
    hasher.close()
