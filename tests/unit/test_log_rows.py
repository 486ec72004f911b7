from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.log import rows as rows_module
from picosnitch_exporter.log.ignore import IgnoreRules
from picosnitch_exporter.log.rows import Hiding, Windows
from picosnitch_exporter.model import (
    NO_PROGRAM,
    AttributedFlow,
    Direction,
    Executable,
    LogRow,
    ProcessKey,
    Sha256,
)
from tests.log_samples import CURL, SHELL, flow, row


class KnownDomain:
    def __init__(self) -> None:
        self.domain = ""

    def domain_of(self, _flow: AttributedFlow, /) -> str:
        return self.domain


def test_flows_of_one_connection_become_one_row_when_in_one_window() -> None:
    windows = Windows()
    windows.add(flow(send=10, recv=0, connections=1))
    windows.add(flow(send=5, recv=7))
    (only,) = windows.close(1_700_000_010.0)
    assert (only.send_bytes, only.receive_bytes) == (15, 7)
    assert only.events == 1 + 1 + 2
    assert only.contime == 1_700_000_010.0
    assert only.program == CURL
    assert windows.close(1_700_000_020.0) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"cookie": 2},
        {"owner": ProcessKey(tgid=43, start_ns=1, exec_id=1)},
        {"remote_address": "1.1.1.1"},
        {"remote_port": 80},
        {"protocol": "udp"},
        {"program": replace(CURL, sha256=Sha256("ef" * 32))},
    ],
)
def test_flows_stay_apart_when_the_connection_differs(change: dict[str, object]) -> None:
    windows = Windows()
    windows.add(flow())
    windows.add(replace(flow(), **change))  # type: ignore[arg-type]
    assert len(windows.close(0.0)) == 2


def test_connection_is_a_row_when_it_moved_nothing() -> None:
    windows = Windows()
    windows.add(flow(send=0, recv=0, connections=1))
    windows.add(replace(flow(cookie=2, send=0, recv=0), connect_failures=1))
    assert [(each.send_bytes, each.receive_bytes, each.events) for each in windows.close(0.0)] == [
        (0, 0, 1),
        (0, 0, 1),
    ]


def test_nothing_is_a_row_when_a_flow_says_nothing() -> None:
    windows = Windows()
    windows.add(flow(send=0, recv=0))
    assert windows.close(0.0) == ()


def test_local_address_is_kept_when_a_later_flow_has_none() -> None:
    windows = Windows()
    windows.add(replace(flow(), local_address=""))
    windows.add(flow())
    windows.add(replace(flow(), local_address=""))
    assert windows.close(0.0)[0].local_address == "10.0.0.2"


def test_domain_is_found_when_it_becomes_known_within_the_window() -> None:
    domains = KnownDomain()
    windows = Windows(domains=domains)
    windows.add(flow())
    domains.domain = "com.example"
    assert windows.close(0.0)[0].domain == "com.example"


def test_domain_is_kept_when_it_is_forgotten_within_the_window() -> None:
    domains = KnownDomain()
    windows = Windows(domains=domains)
    domains.domain = "com.example"
    windows.add(flow())
    domains.domain = ""
    assert windows.close(0.0)[0].domain == "com.example"


def test_executions_of_one_lineage_are_one_row_when_in_one_window() -> None:
    windows = Windows()
    for _ in range(3):
        windows.add_execution(CURL, parent=SHELL, uid=7)
    windows.add_execution(SHELL, uid=7)
    first, second = windows.close(5.0)
    assert (first.local_port, first.remote_port, first.events, first.uid) == (-1, -1, 3, 7)
    assert (first.program, first.parent, first.grandparent) == (CURL, SHELL, NO_PROGRAM)
    assert first.direction is Direction.UNKNOWN
    assert second.program == SHELL


def test_rows_are_left_out_and_counted_when_ignored() -> None:
    windows = Windows(ignore=IgnoreRules([443]))
    windows.add(flow())
    windows.add(replace(flow(cookie=2), remote_port=80))
    assert [each.remote_port for each in windows.close(0.0)] == [80]
    assert windows.ignored_rows == 1


def test_window_says_that_it_is_full_when_it_has_too_many_rows() -> None:
    windows = Windows(max_rows=2)
    states = []
    for cookie in (1, 2):
        windows.add(flow(cookie=cookie))
        states.append(windows.is_full)
    windows.close(0.0)
    states.append(windows.is_full)
    assert states == [False, True, False]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(0, 9), st.booleans())))
def test_bytes_add_up_when_windows_are_closed_anywhere(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    windows = Windows()
    rows: list[LogRow] = []
    for cookie, send, recv, closes in steps:
        windows.add(flow(cookie=cookie, send=send, recv=recv))
        if closes:
            rows += windows.close(0.0)
    rows += windows.close(0.0)
    assert sum(step[1] for step in steps) == sum(each.send_bytes for each in rows)
    assert sum(step[2] for step in steps) == sum(each.receive_bytes for each in rows)


def test_rows_stay_as_they_are_when_nothing_is_hidden() -> None:
    rows = (row(),)
    assert rows is Hiding().apply(rows)


def test_values_are_empty_when_hidden() -> None:
    (hidden,) = Hiding(addresses=True, commands=True, ports=True).apply((row(),))
    assert (hidden.local_address, hidden.remote_address, hidden.domain) == ("", "", "")
    assert (hidden.program.cmdline, hidden.parent.cmdline) == ("", "")
    assert (hidden.local_port, hidden.remote_port) == (0, 0)
    assert (CURL.exe, 10) == (hidden.program.exe, hidden.send_bytes)


def test_execution_keeps_its_port_when_ports_are_hidden() -> None:
    windows = Windows()
    windows.add_execution(CURL, uid=0)
    (hidden,) = Hiding(ports=True).apply(windows.close(0.0))
    assert (hidden.local_port, hidden.remote_port) == (-1, -1)


def test_new_connections_are_dropped_and_counted_when_nobody_closes_a_full_window() -> None:
    windows = Windows(max_rows=4)
    for cookie in range(8):
        windows.add(flow(cookie=cookie, send=10))
    windows.add(flow(cookie=0, send=1))

    assert windows.is_full
    assert windows.dropped_rows == 3
    windows.add_execution(CURL, uid=0)
    assert (len(windows), windows.dropped_rows) == (5, 4)
    rows = windows.close(1_700_000_010.0)
    assert [row.send_bytes for row in rows] == [11, 10, 10, 10, 10]


CURL_EXECUTABLE = Executable(sha256=CURL.sha256, exe=CURL.exe)


def test_connection_is_recent_for_two_windows() -> None:
    windows = Windows()
    windows.add(flow(send=1, recv=2))
    (first,) = windows.recent(CURL_EXECUTABLE, 1.0)
    windows.close(1.0)
    windows.add(flow(send=10, recv=20))
    (second,) = windows.recent(CURL_EXECUTABLE, 2.0)
    windows.close(2.0)
    (third,) = windows.recent(CURL_EXECUTABLE, 3.0)
    windows.close(3.0)

    assert (first.last_bytes, first.open_bytes) == ((0, 0), (1, 2))
    assert (second.last_bytes, second.open_bytes) == ((1, 2), (10, 20))
    assert (second.row.send_bytes, second.row.receive_bytes) == (11, 22)
    assert (third.last_bytes, third.open_bytes) == ((10, 20), (0, 0))
    assert first.id == second.id == third.id
    assert tuple(windows.recent(CURL_EXECUTABLE, 4.0)) == ()
    assert windows.closed == 3


def test_row_is_added_to_without_a_flow_when_its_connection_is_known() -> None:
    windows = Windows()
    connection = windows.add(flow(send=1, recv=2))
    assert connection is not None
    connection.send_bytes += 10
    (first,) = windows.close(1.0)
    assert (connection.is_open, connection.is_remembered) == (False, True)
    connection.open()
    connection.open()
    connection.receive_bytes += 20
    assert windows.add(flow(send=3, recv=0)) is connection
    (recent,) = windows.recent(CURL_EXECUTABLE, 2.0)
    (second,) = windows.close(2.0)

    assert (first.send_bytes, first.receive_bytes) == (11, 2)
    assert (recent.last_bytes, recent.open_bytes) == ((11, 2), (3, 20))
    assert (second.send_bytes, second.receive_bytes) == (3, 20)
    assert windows.close(3.0) == ()
    assert not connection.is_remembered


def test_row_is_not_lost_when_its_connection_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "MAX_REMEMBERED", 0)
    windows = Windows()
    connection = windows.add(flow(send=1, recv=0))
    assert connection is not None
    windows.close(1.0)
    assert not connection.is_remembered
    connection.open()
    connection.send_bytes += 10
    windows.add(flow(send=5, recv=0))
    assert sum(row.send_bytes for row in windows.close(2.0)) == 15


def test_recent_connections_are_those_of_the_executable_that_is_asked_for() -> None:
    windows = Windows()
    windows.add(flow(cookie=1))
    windows.add(replace(flow(cookie=2), program=replace(CURL, exe="/other")))
    windows.add(replace(flow(cookie=3), program=replace(CURL, sha256=Sha256("ef" * 32))))

    assert len(tuple(windows.recent(CURL_EXECUTABLE, 1.0))) == 1
    assert windows.count_recent() == {
        CURL_EXECUTABLE: (1, 0),
        Executable(sha256=CURL.sha256, exe="/other"): (1, 0),
        Executable(sha256=Sha256("ef" * 32), exe=CURL.exe): (1, 0),
    }


def test_recent_connection_is_left_out_when_it_is_ignored() -> None:
    windows = Windows(ignore=IgnoreRules((443,)))
    windows.add(flow())

    assert tuple(windows.recent(CURL_EXECUTABLE, 1.0)) == ()


def test_last_window_is_forgotten_when_it_was_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_REMEMBERED", 1)
    windows = Windows()
    for cookie in (1, 2):
        windows.add(flow(cookie=cookie))
    assert len(windows.close(1.0)) == 2

    assert windows.count_recent() == {}


def test_domains_are_counted_once_each() -> None:
    domain = KnownDomain()
    windows = Windows(domains=domain)
    for cookie, name in enumerate(("com.example", "com.example", "org.example", "")):
        domain.domain = name
        windows.add(flow(cookie=cookie))

    assert windows.count_recent() == {CURL_EXECUTABLE: (4, 2)}
