import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.checks.held_files import HeldFiles
from picosnitch_exporter.checks.pace import (
    BAD_KEY_SECONDS,
    FIRST_BACKOFF_SECONDS,
    LAST_BACKOFF_SECONDS,
    Pace,
)
from picosnitch_exporter.checks.questions import Known, Question, Questions
from picosnitch_exporter.model import KnownVerdict, Sha256, Verdict, VirusTotalResult
from tests.clock import Clock

DAY = 86_400.0


def sha(number: int) -> Sha256:
    return Sha256(f"{number:064x}")


def pace(path: Path, clock: Clock, *, wall: float = 1e9, limit: float = 15.0) -> Pace:
    return Pace(path, limit_seconds=limit, clock=lambda: wall + clock.now, monotonic=clock)


def test_first_request_is_made_at_once_when_there_was_none(tmp_path: Path) -> None:
    assert pace(tmp_path / "next", Clock()).wait_seconds == 0


def test_rest_of_the_pause_is_kept_when_the_process_is_new(tmp_path: Path) -> None:
    clock = Clock()
    pace(tmp_path / "next", clock).begin()
    clock.now += 5
    assert pace(tmp_path / "next", clock).wait_seconds == pytest.approx(10)
    clock.now += 60
    assert pace(tmp_path / "next", clock).wait_seconds == 0


def test_pause_is_bounded_when_the_clock_was_set_back(tmp_path: Path) -> None:
    clock = Clock()
    pace(tmp_path / "next", clock).begin()
    again = pace(tmp_path / "next", clock, wall=1e9 - 365 * DAY)
    assert again.wait_seconds == LAST_BACKOFF_SECONDS


@pytest.mark.parametrize("content", [b"", b"nan?", b"\xff" * 100])
def test_there_is_no_pause_when_the_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "next").write_bytes(content)
    assert pace(tmp_path / "next", Clock()).wait_seconds == 0


def test_pause_is_kept_when_the_file_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "next").symlink_to(tmp_path / "other")
    target = pace(tmp_path / "next", Clock())
    target.begin()
    assert target.wait_seconds == 15
    assert "virustotal_pace_lost" in caplog.text
    assert not (tmp_path / "other").exists()


def test_pause_doubles_when_requests_keep_failing(tmp_path: Path) -> None:
    target = pace(tmp_path / "next", Clock())
    pauses = [target.failed("timeout") for _ in range(20)]
    assert pauses[:3] == [FIRST_BACKOFF_SECONDS * factor for factor in (1, 2, 4)]
    assert pauses[-1] == LAST_BACKOFF_SECONDS
    target.succeeded()
    assert target.failed("timeout") == FIRST_BACKOFF_SECONDS
    assert target.failed("bad_key") == BAD_KEY_SECONDS
    assert target.failed("quota", retry_after_seconds=9999) == 9999


def test_questions_come_in_order_when_they_are_due() -> None:
    questions = Questions()
    for number, due in ((1, 5.0), (2, 3.0), (3, 5.0)):
        questions.add(Question(sha256=sha(number), exe=""), due=due)
    assert questions.next_due() == 3.0
    first = questions.pop()
    questions.add(first, due=5.0)
    # It keeps its place: it came after the first and before the third.
    assert [questions.pop().sha256 for _ in range(3)] == [sha(1), sha(2), sha(3)]
    assert questions.next_due() is None
    assert sha(1) in questions
    questions.close(first)
    assert sha(2) not in questions


def test_descriptor_is_closed_when_questions_are_cleared(tmp_path: Path) -> None:
    descriptor = opened(tmp_path)
    questions = Questions(capacity=1)
    questions.add(Question(sha256=sha(1), exe="", descriptor=descriptor), due=0.0)
    assert not questions.has_room
    questions.clear()
    assert len(questions) == 0
    assert_closed(descriptor)


@pytest.mark.parametrize(
    ("expected", "verdict", "age_seconds"),
    [
        (True, Verdict.PENDING, 3600),
        (False, Verdict.PENDING, 3599),
        (True, Verdict.UNKNOWN, 7 * DAY),
        (False, Verdict.UNKNOWN, 7 * DAY - 1),
        (True, Verdict.CLEAN, 7 * DAY),
        (True, Verdict.CLEAN, -7 * DAY),
        (False, Verdict.SUSPICIOUS, 999 * DAY),
        (False, Verdict.MALICIOUS, 999 * DAY),
    ],
)
def test_content_is_due_when_its_verdict_is_old(
    *, expected: bool, verdict: Verdict, age_seconds: float
) -> None:
    known = Known(recheck_days=7)
    assert known.is_due(sha(1), now_seconds=0)
    known.note(judged(1, verdict))
    assert expected is known.is_due(sha(1), now_seconds=1e9 + age_seconds)


def test_nothing_is_due_again_when_rechecks_are_off() -> None:
    known = Known(recheck_days=0)
    known.note(judged(1, Verdict.CLEAN))
    assert not known.is_due(sha(1), now_seconds=2e9)


def test_oldest_verdict_goes_when_there_are_too_many() -> None:
    known = Known(recheck_days=7, capacity=2)
    for number in (1, 2, 3):
        known.note(judged(number, Verdict.CLEAN))
    final = [known.is_final(sha(number)) for number in (1, 2, 3)]
    assert final == [False, True, True]


def judged(number: int, verdict: Verdict) -> KnownVerdict:
    result = VirusTotalResult(verdict=verdict, checked_seconds=1e9)
    return KnownVerdict(sha256=sha(number), exe="", result=result)


def opened(folder: Path) -> int:
    path = folder / "file"
    path.touch()
    return os.open(path, os.O_RDONLY)


def assert_closed(descriptor: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_descriptor_is_kept_when_the_question_is_open(tmp_path: Path) -> None:
    held = HeldFiles(is_open_question=lambda sha256: sha256 == sha(1))
    refused, kept = opened(tmp_path), opened(tmp_path)
    held.offer(sha(2), refused)
    assert_closed(refused)
    held.offer(sha(1), kept)
    again = opened(tmp_path)
    held.offer(sha(1), again)
    assert_closed(again)
    assert held.take(sha(1)) == kept
    assert held.take(sha(1)) is None
    os.close(kept)


def test_descriptor_is_closed_when_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    held = HeldFiles(is_open_question=lambda _: True, held_seconds=10, clock=clock)
    descriptor = opened(tmp_path)
    held.offer(sha(1), descriptor)
    clock.now += 9
    held.tick()
    os.fstat(descriptor)
    clock.now += 1
    held.tick()
    assert_closed(descriptor)
    assert held.take(sha(1)) is None


@given(wanted=st.sets(st.integers(0, 9)), offered=st.permutations(range(10)))
def test_bound_holds_when_more_is_offered(
    tmp_path_factory: pytest.TempPathFactory, wanted: set[int], offered: list[int]
) -> None:
    held = HeldFiles(is_open_question=lambda _: True, capacity=4)
    folder = tmp_path_factory.getbasetemp()
    before = open_descriptors()
    for number in offered:
        held.offer(sha(number), opened(folder))
        if number in wanted:
            held.want(sha(number))
        assert len(held) <= 4
        assert open_descriptors() == before + len(held)
    kept = {number: held.take(sha(number)) for number in range(10)}
    present = {number for number, descriptor in kept.items() if descriptor is not None}
    assert len(present) == 4
    assert len(present & wanted) >= min(len(wanted), 3)
    for descriptor in kept.values():
        if descriptor is not None:
            os.close(descriptor)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_everything_is_closed_when_it_ends(tmp_path: Path) -> None:
    held = HeldFiles(is_open_question=lambda _: True)
    descriptor, other = opened(tmp_path), opened(tmp_path)
    held.offer(sha(1), descriptor)
    held.offer(sha(2), other)
    held.drop(sha(2))
    held.drop(sha(3))
    assert_closed(other)
    held.close()
    assert_closed(descriptor)
