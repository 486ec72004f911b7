import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.outputs.otlp.answers import (
    MAX_RETRY_AFTER_SECONDS,
    Answer,
    Result,
    Watch,
    of_partial_success,
    of_status,
    parse_retry_after,
)

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (302, Result.DENIED),
        (400, Result.REFUSED),
        (401, Result.DENIED),
        (404, Result.DENIED),
        (413, Result.TOO_LARGE),
        (422, Result.REFUSED),
        (429, Result.UNAVAILABLE),
        (500, Result.UNAVAILABLE),
        (501, Result.DENIED),
        (503, Result.UNAVAILABLE),
    ],
)
def test_status_says_what_became_of_a_request(status: int, expected: Result) -> None:
    answer = of_status(status, "Why", None, now=NOW)

    assert (answer.result, answer.reason) == (expected, f"{status} Why")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("-5", 0.0),
        ("7", 7.0),
        ("1000000", MAX_RETRY_AFTER_SECONDS),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, expected: float) -> None:
    assert parse_retry_after(text, now=NOW) == expected


@given(text=st.text())
def test_retry_after_is_within_bounds_whatever_it_says(text: str) -> None:
    assert 0.0 <= parse_retry_after(text, now=NOW) <= MAX_RETRY_AFTER_SECONDS


def test_warning_alone_is_a_success() -> None:
    assert of_partial_success(0, " old names ") == Answer(result=Result.SUCCESS, reason="old names")
    assert of_partial_success(-1, "") == Answer(result=Result.SUCCESS)
    assert of_partial_success(3, "x" * 1000) == Answer(
        result=Result.PARTIAL, reason="x" * 300, rejected=3
    )


def test_only_what_was_taken_has_arrived() -> None:
    assert [result for result in Result if result.has_arrived] == [Result.SUCCESS, Result.PARTIAL]


def test_time_out_is_not_longer_than_the_deadline_leaves() -> None:
    watch = Watch()
    assert watch.bounded(7.0) == 7.0

    watch.deadline = time.monotonic() + 2
    assert 1.0 < watch.bounded(None) <= 2.0
    assert 1.0 < watch.bounded(7.0) <= 2.0

    watch.deadline = -math.inf
    assert watch.bounded(7.0) == 0.001
