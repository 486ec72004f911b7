"""Rates and sums of what the exporter tells `top`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.terminal.live_tables import ConnectionTable, ExecutableTable, Rates


def executable(sent: int) -> dict[str, object]:
    entry = {"exe": "/bin/a", "sha256": "ab", "workload": "", "parent": "", "verdict": ""}
    numbers = {"received": 0, "connections": 1, "failures": 0, "active": 1, "domains": 0}
    return {"executables": [{**entry, **numbers, "sent": sent, "last_seen": 1.5}]}


def connection(window: int, *, last: int, current: int) -> dict[str, object]:
    texts = {"protocol": "tcp", "direction": "outbound", "domain": "com.example.www"}
    texts |= {"address": "2001:db8::1", "command": "a b", "parent": "/bin/sh"}
    numbers = {"port": 443, "local_port": 5, "pid": 7, "uid": 0}
    entry = {"id": "x", **texts, **numbers, "last": [last, 0], "open": [current, 0]}
    return {"window": window, "connections": [entry]}


def test_rate_is_the_difference_over_the_time_between() -> None:
    table = ExecutableTable()
    table.lines(executable(1000), 10.0)

    (line,) = table.lines(executable(5000), 12.0)

    assert (line.sent_rate, line.received_rate, line.sent) == (2000.0, 0.0, 5000)


def test_rate_is_zero_when_a_counter_began_anew() -> None:
    table = ExecutableTable()
    table.lines(executable(1000), 10.0)

    assert table.lines(executable(5), 11.0)[0].sent_rate == 0


def test_rate_is_zero_when_there_is_one_sample() -> None:
    rates = Rates()
    rates.add(1.0, {"a": (5, 5)})

    assert rates.of("a") == (0.0, 0.0)
    assert rates.of("b") == (0.0, 0.0)


def test_connection_is_named_as_people_write_it() -> None:
    (line,) = ConnectionTable().lines(connection(1, last=1, current=2), 1.0)

    assert (line.peer, line.domain) == ("[2001:db8::1]:443", "www.example.com")


@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=5), min_size=1, max_size=8))
def test_connection_sums_up_over_all_windows_when_none_is_missed(windows: list[list[int]]) -> None:
    """Each inner list is what moves between two looks in the same window."""
    table = ConnectionTable()
    last = moved = 0
    for number, steps in enumerate(windows):
        current = 0
        for step in steps:
            current += step
            moved += step
            (line,) = table.lines(connection(number, last=last, current=current), moved)
            assert moved == line.sent
        last = current


def test_connection_counts_both_windows_when_looks_were_missed() -> None:
    table = ConnectionTable()
    table.lines(connection(1, last=0, current=10), 1.0)

    (line,) = table.lines(connection(4, last=3, current=4), 2.0)

    assert line.sent == 17


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"executables": None},
        {"executables": [3]},
        {"executables": [{"exe": 1}]},
        {"executables": [{**executable(0), "sent": "many"}]},
    ],
)
def test_answer_of_another_version_is_an_error(answer: dict[str, object]) -> None:
    with pytest.raises(PicosnitchError, match="of another version"):
        ExecutableTable().lines(answer, 1.0)
