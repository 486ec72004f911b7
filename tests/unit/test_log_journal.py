import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picosnitch_exporter.errors import StorageBusyError, StorageError
from picosnitch_exporter.log.journal import Journal, JournalFullError, await_release


def replayed(folder: Path, after: int = 0) -> list[bytes]:
    journal = Journal(folder)
    try:
        return list(journal.replay(after))
    finally:
        journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_replay_returns_what_was_appended_in_order_when_reopened(folder: Path) -> None:
    journal = Journal(folder)
    assert list(journal.replay(0)) == []
    journal.append(b"one")
    journal.append(b"")
    assert journal.rotate() == 1
    journal.append(b"three")
    journal.close()

    assert replayed(folder) == [b"one", b"", b"three"]
    assert replayed(folder, after=1) == [b"three"]
    assert replayed(folder) == [b"three"]


def test_rotate_returns_the_last_number_when_nothing_was_appended(folder: Path) -> None:
    journal = Journal(folder)
    assert journal.rotate() == 0
    journal.append(b"one")
    assert journal.rotate() == 1
    assert journal.rotate() == 1


def test_new_segments_come_after_the_committed_one_when_the_folder_was_wiped(folder: Path) -> None:
    journal = Journal(folder)
    journal.replay(17)
    assert journal.rotate() == 17
    journal.append(b"new")
    assert journal.rotate() == 18
    journal.close()
    assert replayed(folder, after=17) == [b"new"]


def test_forget_keeps_the_current_segment_when_asked_for_more(folder: Path) -> None:
    journal = Journal(folder)
    journal.append(b"one")
    journal.rotate()
    journal.append(b"two")
    journal.forget(9)
    assert [path.name for path in folder.iterdir()] == ["0000000002.bin"]
    assert journal.used_bytes == (folder / "0000000002.bin").stat().st_size
    journal.close()
    assert replayed(folder) == [b"two"]


def test_append_is_refused_and_adds_nothing_when_the_bound_is_reached(folder: Path) -> None:
    journal = Journal(folder, limit_bytes=100)
    journal.append(b"x" * 60)
    with pytest.raises(JournalFullError, match="100 bytes"):
        journal.append(b"y" * 60)
    journal.append(b"z")
    journal.rotate()
    journal.forget(1)
    journal.append(b"y" * 60)
    journal.close()
    assert replayed(folder) == [b"y" * 60]


def test_partial_write_is_rolled_back_when_the_disk_is_full(folder: Path) -> None:
    journal = Journal(folder)
    journal.append(b"one")
    before = journal.used_bytes
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + 50, limits[1]))
        with pytest.raises(JournalFullError, match="free some space"):
            journal.append(b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert journal.used_bytes == before == (folder / "0000000001.bin").stat().st_size
    journal.append(b"two")
    journal.close()
    assert replayed(folder) == [b"one", b"two"]


def test_second_journal_is_refused_when_one_is_open(folder: Path) -> None:
    first = Journal(folder)
    with pytest.raises(StorageBusyError, match="another exporter"):
        Journal(folder)
    first.close()
    Journal(folder).close()


def test_files_are_private_when_made(folder: Path) -> None:
    journal = Journal(folder)
    journal.append(b"one")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "0000000001.bin").stat().st_mode & 0o777 == 0o600


def test_symlinks_are_refused_when_they_stand_where_files_belong(
    folder: Path,
    tmp_path: Path,
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    journal = Journal(folder)
    (folder / "0000000001.bin").symlink_to(victim)
    with pytest.raises(StorageError):
        journal.append(b"one")
    assert victim.read_bytes() == b"precious"
    journal.close()
    (tmp_path / "elsewhere").symlink_to(folder)
    with pytest.raises(StorageError, match="symlink"):
        Journal(tmp_path / "elsewhere")


@given(
    payloads=st.lists(st.binary(max_size=40), max_size=8),
    cut=st.integers(min_value=0, max_value=400),
)
@settings(deadline=None)
def test_whole_frames_survive_when_the_tail_is_torn(
    tmp_path_factory: pytest.TempPathFactory,
    payloads: list[bytes],
    cut: int,
) -> None:
    folder = tmp_path_factory.mktemp("torn") / "journal"
    journal = Journal(folder)
    ends = []
    for payload in payloads:
        journal.append(payload)
        ends.append(journal.used_bytes)
    journal.close()
    segment = folder / "0000000001.bin"
    if payloads:
        os.truncate(segment, min(cut, ends[-1]))

    again = Journal(folder)
    expected = [payload for payload, end in zip(payloads, ends, strict=True) if end <= cut]
    assert list(again.replay(0)) == expected
    assert again.corrupt_segments == 0
    again.append(b"next")
    again.close()
    assert replayed(folder) == [*expected, b"next"]


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    position=st.integers(min_value=0),
    flip=st.integers(min_value=1, max_value=255),
)
@settings(deadline=None)
def test_frames_before_the_damage_survive_when_a_byte_is_flipped(
    tmp_path_factory: pytest.TempPathFactory,
    payloads: list[bytes],
    position: int,
    flip: int,
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "journal"
    journal = Journal(folder)
    ends = []
    for payload in payloads:
        journal.append(payload)
        ends.append(journal.used_bytes)
    journal.rotate()
    journal.append(b"the next segment")
    journal.close()
    segment = folder / "0000000001.bin"
    damaged = bytearray(segment.read_bytes())
    damaged[position % len(damaged)] ^= flip
    segment.write_bytes(damaged)

    again = Journal(folder)
    expected = [
        payload
        for payload, end in zip(payloads, ends, strict=True)
        if end <= position % len(damaged)
    ]
    assert list(again.replay(0)) == [*expected, b"the next segment"]
    assert again.corrupt_segments + again.torn_tails == 1
    again.close()


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(folder: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from picosnitch_exporter.log.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        number = sum(1 for _ in journal.replay(0))
        while True:
            journal.append(number.to_bytes(8, "little") * 500)
            number += 1
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
            if number % 7 == 0:
                journal.rotate()
        """,
    )
    acknowledged = 0
    for lines in (5, 50, 11, 23):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _line in range(lines):
                acknowledged = int(process.stdout.readline())
            process.kill()
        frames = replayed(folder)
        assert len(frames) >= acknowledged
        assert frames == [n.to_bytes(8, "little") * 500 for n in range(len(frames))]


def test_a_start_waits_when_the_exporter_before_is_about_to_end(folder: Path) -> None:
    journal = Journal(folder)
    ending = threading.Timer(0.2, journal.close)
    ending.start()
    await_release(folder, timeout_seconds=60)

    Journal(folder).close()
    ending.join()


def test_a_start_waits_no_longer_than_it_may_when_the_other_stays(folder: Path) -> None:
    journal = Journal(folder)
    await_release(folder, timeout_seconds=0)

    with pytest.raises(StorageBusyError, match="another exporter"):
        Journal(folder)
    journal.close()


def test_a_start_waits_for_nobody_when_there_is_no_journal_yet(folder: Path) -> None:
    await_release(folder, timeout_seconds=60)
    assert not folder.exists()
