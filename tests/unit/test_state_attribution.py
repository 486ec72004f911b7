from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import WireError
from picosnitch_exporter.identity.processes import Process, ProcessTable
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.log.rows import Windows
from picosnitch_exporter.model import (
    HOST,
    NO_PROGRAM,
    AttributedFlow,
    Direction,
    Executable,
    FileIdentity,
    ProcessKey,
    Program,
    Scope,
    SeriesLabels,
    Workload,
)
from picosnitch_exporter.runs import who_of
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.known import Known, Owner
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import CommandLine, ExecutableSeen
from picosnitch_exporter.wire import (
    FlowFlag,
    FlowRecord,
    ProcessFlag,
    UnseenRecord,
    decode,
    encode_flow,
)
from tests.identity_samples import (
    NOW_NS,
    OLD_NS,
    PEER,
    SECOND_NS,
    FakeClock,
    FakeHasher,
    FakeHealth,
    descriptor,
    digest,
    file,
    flow,
    key,
    process,
    seen,
)

INIT, SHELL, CURL = key(1), key(10), key(100)
EXEC = int(ProcessFlag.EXEC)
MISSING = int(ProcessFlag.CMDLINE_MISSING)


@dataclass
class Execution:
    program: Program
    parent: Program
    grandparent: Program
    uid: int
    container: str


@dataclass
class FakeRow:
    """What is added to it later is added to the flow that it began with."""

    flow: AttributedFlow
    events: int = 0
    is_open: bool = True
    is_remembered: bool = True

    @property
    def send_bytes(self) -> int:
        return self.flow.transmit_bytes

    @send_bytes.setter
    def send_bytes(self, value: int) -> None:
        assert self.is_open
        self.flow.transmit_bytes = value

    @property
    def receive_bytes(self) -> int:
        return self.flow.receive_bytes

    @receive_bytes.setter
    def receive_bytes(self, value: int) -> None:
        assert self.is_open
        self.flow.receive_bytes = value

    def open(self) -> None:
        assert not self.is_open
        self.is_open = True


@dataclass
class FakeRows:
    flows: list[AttributedFlow] = field(default_factory=list)
    rows: list[FakeRow] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)

    def add(self, flow: AttributedFlow, /) -> FakeRow:
        self.flows.append(flow)
        self.rows.append(FakeRow(flow))
        return self.rows[-1]

    def close(self, *, remembers: bool = True) -> None:
        for row in self.rows:
            row.is_remembered = remembers and row.is_open
            row.is_open = False

    def add_execution(
        self,
        program: Program,
        *,
        parent: Program,
        grandparent: Program,
        uid: int,
        container: str,
    ) -> None:
        self.executions.append(Execution(program, parent, grandparent, uid, container))


class Pods:
    """Every process is in a pod."""

    is_late = False

    def workload_of(self, _process: Process, /) -> tuple[Workload, str]:
        return Workload(namespace="shop", pod="cart", container="web"), "c0ffee"

    def is_pending(self, _process: Process, /) -> bool:
        return self.is_late


class Bench:
    def __init__(self, *, max_held: int = 1000, pods: Pods | None = None) -> None:
        self.clock = FakeClock()
        self.hasher = FakeHasher()
        self.health = FakeHealth()
        self.rows = FakeRows()
        self.registry = Registry(self.hasher, clock=self.clock, wall_clock=lambda: NOW_NS)
        self.store = Store(health=self.health, max_executables=100, stale_after_seconds=1e9)
        self.attributor = Attributor(
            registry=self.registry,
            processes=ProcessTable(is_running=lambda _tgid: True),
            store=self.store,
            rows=self.rows,
            health=self.health,
            clock=self.clock,
            to_unix=lambda boot_ns: boot_ns / SECOND_NS,
            workloads=pods,
            max_held=max_held,
        )

    def show(self, frame: ExecutableSeen) -> None:
        self.attributor.executable(frame, None if frame.reason else descriptor())

    def hash_all(self, reason: str = "") -> None:
        for ticket in list(self.hasher.jobs):
            inode = self.registry._tickets[ticket].identity.inode
            self.hasher.finish(ticket, "" if reason else digest(str(inode)), reason)
        self.attributor.settled()

    def show_hashed(self, executable: FileIdentity | None = None, path: bytes = b"/bin/x") -> None:
        self.show(seen(executable, path=path))
        self.hash_all()

    def introduce_all(self) -> None:
        """Init, a shell and a curl, files 1, 10 and 7."""
        self.attributor.process(process(CURL, parent=SHELL))
        self.attributor.process(
            process(SHELL, parent=INIT, executable=file(10), generation=1, comm=b"sh")
        )
        self.attributor.process(process(INIT, executable=file(1), generation=2, comm=b"init"))

    def take(self, *records: FlowRecord) -> int:
        """As the intake does; how many of them were looked at one by one."""
        looked_at = 0
        for piece in self.attributor.flows(memoryview(b"".join(map(encode_flow, records)))):
            record = decode(piece)
            assert isinstance(record, FlowRecord)
            self.attributor.flow(record)
            looked_at += 1
        return looked_at

    def close_window(self, *, remembers: bool = True) -> None:
        self.rows.close(remembers=remembers)
        self.attributor.window_closed()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.attributor.tick()

    def transmitted(self) -> dict[Executable, int]:
        sums: Counter[Executable] = Counter()
        column = self.store.snapshot(0.0).transmit_bytes
        for labels, value in zip(column.labels, column.values, strict=True):
            sums[labels.executable] += value
        return dict(sums)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.hasher.close()


def hashed(inode: int, path: str = "/bin/x") -> Executable:
    return Executable(sha256=digest(str(inode)), exe=path)


def test_flow_has_everybodys_name_when_all_is_known(bench: Bench) -> None:
    for inode, path in ((1, b"/sbin/init"), (10, b"/bin/sh"), (7, b"/bin/curl")):
        bench.show_hashed(file(inode), path)
    bench.introduce_all()
    bench.attributor.flow(
        flow(CURL, transmit_bytes=10, receive_bytes=4, connections=1, flags=FlowFlag.FINAL)
    )
    (row,) = bench.rows.flows
    assert row == AttributedFlow(
        time_seconds=50.0,
        cookie=1,
        owner=CURL,
        program=Program(exe="/bin/curl", name="curl", cmdline="curl -v", sha256=digest("7")),
        parent=Program(exe="/bin/sh", name="sh", cmdline="curl -v", sha256=digest("10")),
        grandparent=Program(exe="/sbin/init", name="init", cmdline="curl -v", sha256=digest("1")),
        uid=1000,
        protocol="tcp",
        direction=Direction.OUTBOUND,
        local_address="192.168.0.2",
        remote_address="8.8.8.8",
        local_port=40_000,
        remote_port=443,
        netns=1,
        container="",
        transmit_bytes=10,
        receive_bytes=4,
        transmit_calls=1,
        receive_calls=1,
        connections=1,
        connect_failures=0,
    )
    snapshot = bench.store.snapshot(0.0)
    labels = SeriesLabels(
        executable=hashed(7, "/bin/curl"), workload=HOST, protocol="tcp", scope=Scope.PUBLIC
    )
    assert (labels,) == snapshot.transmit_bytes.labels
    assert (replace(labels, direction=Direction.OUTBOUND),) == snapshot.connections.labels
    (fact,) = snapshot.executables
    assert (fact.name, fact.size_bytes, fact.last_seen_seconds) == ("curl", 4, 50.0)
    assert hashed(10, "/bin/sh") == fact.parent
    assert bench.attributor.held == 0


def test_metrics_wait_for_the_hash_when_it_comes_late(bench: Bench) -> None:
    bench.attributor.process(process())
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.show(seen(path=b"/bin/x"))
    bench.attributor.flow(flow(transmit_bytes=1, flags=FlowFlag.FINAL))
    bench.wait(60)
    assert bench.transmitted() == {}
    assert [held.transmit_bytes for held in bench.attributor.uncounted()] == [11]
    bench.hash_all()
    assert bench.transmitted() == {hashed(7): 11}
    assert [row.transmit_bytes for row in bench.rows.flows] == [11]
    assert bench.health.observed == [catalog.HASH_DURATION.name]


def test_row_waits_for_the_parents_hash_when_the_own_one_is_known(bench: Bench) -> None:
    bench.show_hashed()
    bench.introduce_all()
    bench.show(seen(file(10), path=b"/bin/sh"))
    bench.show(seen(file(1), path=b"/sbin/init"))
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.attributor.flow(flow(transmit_bytes=1))
    assert bench.transmitted() == {hashed(7): 11}
    assert bench.rows.flows == []
    assert list(bench.attributor.uncounted()) == []
    bench.hash_all()
    (row,) = bench.rows.flows
    assert (row.transmit_bytes, row.parent.sha256) == (11, digest("10"))
    assert row.grandparent.sha256 == digest("1")
    assert bench.transmitted() == {hashed(7): 11}


def test_row_is_handed_over_when_a_commit_wants_it(bench: Bench) -> None:
    bench.show_hashed()
    bench.introduce_all()
    bench.show(seen(file(10), path=b"/bin/sh"))
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.attributor.flow(flow(key(55), executable=file(8), transmit_bytes=5))
    bench.attributor.finish_counted()
    (row,) = bench.rows.flows
    assert (row.parent.exe, row.parent.sha256) == ("/bin/sh", "")
    assert [held.cookie for held in bench.attributor.uncounted()] == [1]
    bench.hash_all()
    assert len(bench.rows.flows) == 1


def test_label_is_the_name_in_brackets_when_the_file_is_gone(bench: Bench) -> None:
    bench.attributor.process(process())
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.wait(1.9)
    assert bench.attributor.held == 1
    bench.wait(0.1)
    assert bench.transmitted() == {Executable(sha256=digest(""), exe="[curl]"): 10}
    assert bench.health.counts[catalog.UNHASHED_EXECUTABLES.name, "gone"] == 1


def test_label_has_the_path_when_the_file_can_not_be_read(bench: Bench) -> None:
    bench.attributor.process(process())
    bench.show(seen(reason="denied", path=b"/secret"))
    bench.attributor.flow(flow(transmit_bytes=10))
    assert bench.transmitted() == {Executable(sha256=digest(""), exe="/secret"): 10}
    assert bench.health.counts[catalog.UNHASHED_EXECUTABLES.name, "denied"] == 1


def test_later_flows_have_the_hash_when_the_file_was_given_up_too_early(bench: Bench) -> None:
    bench.attributor.process(process())
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.wait(2)
    bench.show_hashed()
    bench.attributor.flow(flow(transmit_bytes=1))
    unhashed = Executable(sha256=digest(""), exe="[curl]")
    assert bench.transmitted() == {unhashed: 10, hashed(7): 1}
    assert [row.program.sha256 for row in bench.rows.flows] == ["", digest("7")]


def test_parent_has_its_hash_in_later_rows_when_reading_had_stalled(bench: Bench) -> None:
    bench.show_hashed()
    bench.show_hashed(file(1), b"/sbin/init")
    bench.introduce_all()
    bench.show(seen(file(10), path=b"/bin/sh"))
    bench.wait(120)
    bench.attributor.flow(flow(transmit_bytes=1))
    bench.hash_all()
    bench.wait(3)
    bench.attributor.flow(flow(transmit_bytes=1))
    assert [row.parent.sha256 for row in bench.rows.flows] == ["", digest("10")]


def test_flow_is_attributed_without_name_when_its_process_never_comes(bench: Bench) -> None:
    bench.show_hashed()
    bench.attributor.flow(flow(transmit_bytes=10))
    assert bench.attributor.held == 1
    bench.wait(0.9)
    assert bench.attributor.held == 1
    bench.wait(0.1)
    assert bench.transmitted() == {hashed(7): 10}
    (row,) = bench.rows.flows
    assert (row.program.name, row.program.exe, row.parent) == ("", "/bin/x", NO_PROGRAM)


def test_label_is_unknown_when_neither_file_nor_process_comes(bench: Bench) -> None:
    bench.attributor.flow(flow(transmit_bytes=10))
    bench.wait(1)
    bench.wait(2)
    assert bench.transmitted() == {Executable(sha256=digest(""), exe="[unknown]"): 10}
    assert bench.attributor.held == 0


def test_content_is_that_of_the_exec_when_the_file_was_written_since(bench: Bench) -> None:
    bench.show_hashed()
    bench.show(seen(seen_ns=20 * SECOND_NS, modified_ns=OLD_NS + 1, path=b"/bin/new"))
    for ticket in list(bench.hasher.jobs):
        bench.hasher.finish(ticket, digest("new"))
    bench.attributor.settled()
    old, new, nameless = key(100), key(101), key(102)
    bench.attributor.process(process(old, exec_ns=10 * SECOND_NS))
    bench.attributor.process(process(new, exec_ns=20 * SECOND_NS))
    for owner in (old, new, nameless):
        bench.attributor.flow(flow(owner, transmit_bytes=10))
    bench.wait(1)
    assert bench.transmitted() == {
        hashed(7): 10,
        Executable(sha256=digest("new"), exe="/bin/new"): 20,
    }


def test_content_is_told_by_the_change_time_when_the_exec_was_close_to_the_write(
    bench: Bench,
) -> None:
    bench.show_hashed()
    bench.show(seen(seen_ns=1, modified_ns=OLD_NS + 5, changed_ns=OLD_NS + 5, path=b"/bin/new"))
    for ticket in list(bench.hasher.jobs):
        bench.hasher.finish(ticket, digest("new"))
    bench.attributor.settled()
    bench.attributor.process(replace(process(), changed_ns=OLD_NS + 4))
    bench.attributor.process(replace(process(key(101)), changed_ns=OLD_NS + 5))
    bench.attributor.flow(flow(transmit_bytes=1))
    bench.attributor.flow(flow(key(101), transmit_bytes=2))
    assert bench.transmitted() == {
        hashed(7): 1,
        Executable(sha256=digest("new"), exe="/bin/new"): 2,
    }


def test_content_is_that_of_the_record_when_the_process_has_another_file(bench: Bench) -> None:
    bench.show_hashed(file(7))
    bench.show_hashed(file(8))
    bench.attributor.process(process())
    bench.attributor.flow(flow(executable=file(8), transmit_bytes=10))
    assert bench.transmitted() == {hashed(8): 10}
    assert bench.rows.flows[0].program.sha256 == digest("8")


def test_connection_is_counted_when_no_byte_has_moved(bench: Bench) -> None:
    bench.show_hashed()
    bench.attributor.process(process())
    bench.attributor.flow(flow(connections=2, connect_failures=1))
    snapshot = bench.store.snapshot(0.0)
    assert len(snapshot.transmit_bytes.labels) == 0
    assert list(snapshot.connections.values) == [2]
    assert list(snapshot.connect_failures.values) == [1]


def test_kernel_thread_waits_for_nothing_when_it_sends(bench: Bench) -> None:
    bench.attributor.flow(flow(executable=file(0), transmit_bytes=1))
    bench.attributor.flow(flow(flags=FlowFlag.KERNEL, transmit_bytes=2))
    assert bench.transmitted() == {Executable(sha256=digest(""), exe="[kernel]"): 3}
    assert bench.attributor.held == 0


def test_kernel_thread_is_named_when_it_was_introduced(bench: Bench) -> None:
    flags = int(ProcessFlag.KERNEL)
    bench.attributor.process(process(executable=file(0), flags=flags, comm=b"kworker", cmdline=b""))
    bench.attributor.flow(flow(executable=file(0), flags=FlowFlag.KERNEL, transmit_bytes=2))
    (row,) = bench.rows.flows
    assert (row.program.exe, row.program.name) == ("[kernel]", "kworker")


def test_row_waits_for_the_command_line_when_the_kernel_side_had_none(bench: Bench) -> None:
    bench.show_hashed()
    bench.attributor.process(process(flags=MISSING, cmdline=b""))
    bench.attributor.flow(flow(transmit_bytes=1))
    assert bench.transmitted() == {hashed(7): 1}
    assert bench.rows.flows == []
    bench.attributor.command_line(CommandLine(key=key(), cmdline=b"curl\0-x\0"))
    assert [row.program.cmdline for row in bench.rows.flows] == ["curl -x"]


def test_row_goes_without_command_line_when_none_comes(bench: Bench) -> None:
    bench.show_hashed()
    bench.attributor.process(process(flags=MISSING, cmdline=b""))
    bench.attributor.flow(flow(transmit_bytes=1))
    bench.wait(1)
    bench.attributor.flow(flow(transmit_bytes=2))
    assert [row.transmit_bytes for row in bench.rows.flows] == [1, 2]
    bench.attributor.command_line(CommandLine(key=key(), cmdline=b"late\0"))
    bench.attributor.command_line(CommandLine(key=key(99), cmdline=b"nobody\0"))
    bench.attributor.flow(flow(transmit_bytes=3))
    assert [row.program.cmdline for row in bench.rows.flows] == ["", "", "late"]


def test_row_waits_for_the_parent_when_it_is_introduced_later(bench: Bench) -> None:
    bench.show_hashed()
    bench.show_hashed(file(10), b"/bin/sh")
    bench.attributor.process(process(CURL, parent=SHELL))
    bench.attributor.flow(flow(CURL, transmit_bytes=1))
    assert bench.rows.flows == []
    bench.attributor.process(process(SHELL, executable=file(10), generation=1, comm=b"sh"))
    assert [row.parent.name for row in bench.rows.flows] == ["sh"]


def test_row_goes_without_parent_when_it_is_never_introduced(bench: Bench) -> None:
    bench.show_hashed()
    bench.attributor.process(process(CURL, parent=SHELL))
    bench.attributor.flow(flow(CURL, transmit_bytes=1))
    bench.wait(1)
    assert [row.parent for row in bench.rows.flows] == [NO_PROGRAM]


@pytest.mark.parametrize(
    "other",
    [
        flow(key(101), transmit_bytes=1),
        flow(cookie=2, transmit_bytes=1),
        flow(remote_address=PEER[:-1] + b"\x09", transmit_bytes=1),
        flow(remote_port=80, transmit_bytes=1),
        flow(protocol=17, transmit_bytes=1),
        flow(executable=file(8), transmit_bytes=1),
        replace(flow(transmit_bytes=1), direction=Direction.INBOUND),
    ],
)
def test_flows_stay_apart_when_anything_but_a_sum_differs(bench: Bench, other: FlowRecord) -> None:
    bench.attributor.flow(flow(transmit_bytes=1))
    bench.attributor.flow(other)
    bench.attributor.flow(flow(transmit_bytes=1))
    assert bench.attributor.held == 2
    bench.attributor.flush()
    assert sorted(row.transmit_bytes for row in bench.rows.flows) == [1, 2]
    assert sum(bench.transmitted().values()) == 3


def test_flow_goes_without_hash_when_too_many_wait() -> None:
    bench = Bench(max_held=2)
    for cookie in range(5):
        bench.attributor.flow(flow(cookie=cookie, transmit_bytes=1))
    assert bench.attributor.held == 2
    assert bench.transmitted() == {Executable(sha256=digest(""), exe="[unknown]"): 3}
    assert bench.health.counts[catalog.UNHASHED_EXECUTABLES.name, "not_awaited"] == 3
    bench.attributor.flow(flow(cookie=0, transmit_bytes=1))
    assert sum(bench.transmitted().values()) == 3
    bench.show_hashed()
    bench.wait(1)
    assert bench.transmitted()[hashed(7)] == 3


def test_workload_labels_the_series_when_the_process_is_in_a_pod() -> None:
    bench = Bench(pods=Pods())
    bench.show_hashed()
    bench.attributor.process(process())
    bench.attributor.flow(flow(transmit_bytes=1))
    pod = Workload(namespace="shop", pod="cart", container="web")
    assert bench.store.snapshot(0.0).transmit_bytes.labels[0].workload == pod
    assert bench.rows.flows[0].container == "c0ffee"


def test_flow_waits_when_the_pod_of_its_process_is_not_known_yet() -> None:
    pods = Pods()
    pods.is_late = True
    bench = Bench(pods=pods)
    bench.show_hashed()
    bench.introduce_all()
    bench.attributor.flow(flow(CURL, transmit_bytes=5))
    bench.wait(2.0)
    bench.attributor.flow(flow(CURL, transmit_bytes=6))
    assert bench.transmitted() == {}

    pods.is_late = False
    bench.wait(0.25)
    snapshot = bench.store.snapshot(0.0)
    assert [labels.workload.pod for labels in snapshot.transmit_bytes.labels] == ["cart"]
    assert list(snapshot.transmit_bytes.values) == [11]


def test_execution_is_recorded_once_when_every_exe_is_on(bench: Bench) -> None:
    bench.show_hashed()
    bench.show_hashed(file(10), b"/bin/sh")
    bench.attributor.process(process(CURL, parent=SHELL, flags=EXEC))
    bench.attributor.process(
        process(SHELL, executable=file(10), generation=1, flags=EXEC, comm=b"sh")
    )
    bench.attributor.process(process(CURL, parent=SHELL, flags=EXEC))
    (execution,) = bench.rows.executions
    assert (execution.program.sha256, execution.parent.name) == (digest("7"), "sh")
    assert (execution.grandparent, execution.uid) == (NO_PROGRAM, 1000)
    assert [fact.executable for fact in bench.store.snapshot(0.0).executables] == [hashed(7)]
    assert bench.transmitted() == {}


def test_execution_is_recorded_when_its_hash_comes_late(bench: Bench) -> None:
    bench.attributor.process(process(flags=EXEC))
    assert bench.attributor.held == 1
    bench.show_hashed()
    assert [one.program.sha256 for one in bench.rows.executions] == [digest("7")]


def test_socket_is_said_to_be_unseen_when_no_hook_sees_its_bytes(bench: Bench) -> None:
    bench.show_hashed()
    for family, kind in ((17, "packet_ring"), (44, "xdp"), (5, "af-5")):
        bench.attributor.unseen(
            UnseenRecord(time_ns=SECOND_NS, owner=key(), executable=file(), family=family, netns=1)
        )
        bench.wait(1)
        name = catalog.UNSEEN_SOCKETS.name
        assert bench.health.counts[name, digest("7"), "/bin/x", "", "", "", kind] == 1


@pytest.fixture
def known(bench: Bench) -> Bench:
    """A curl whose names are all known, as a first flow of it has shown."""
    for inode in (1, 10, 7):
        bench.show_hashed(file(inode))
    bench.introduce_all()
    assert bench.take(flow(CURL, transmit_bytes=1)) == 1
    return bench


def test_later_flows_are_only_added_up_when_the_owner_has_all_names(known: Bench) -> None:
    assert known.take(*(flow(CURL, transmit_bytes=10, receive_bytes=2) for _ in range(3))) == 0
    first, second = known.rows.flows
    assert (first.transmit_bytes, second.transmit_bytes, second.receive_bytes) == (1, 30, 6)
    assert replace(second, transmit_bytes=1, receive_bytes=0, receive_calls=0) == first
    assert known.transmitted() == {hashed(7): 31}
    assert [row.events for row in known.rows.rows] == [0, 4]


def test_new_connection_is_taken_in_when_the_owner_has_all_names(known: Bench) -> None:
    new = flow(CURL, cookie=2, transmit_bytes=5, connections=1, connect_failures=2)
    assert known.take(new, replace(new, flags=FlowFlag.FINAL, time_ns=60 * SECOND_NS)) == 0
    snapshot = known.store.snapshot(0.0)
    assert known.transmitted() == {hashed(7): 11}
    assert list(snapshot.connections.values) == [2]
    assert snapshot.connections.labels[0].direction is Direction.OUTBOUND
    assert list(snapshot.connect_failures.values) == [4]
    assert [fact.last_seen_seconds for fact in snapshot.executables] == [60.0]


def test_connection_counts_when_it_has_moved_nothing(known: Bench) -> None:
    assert known.take(flow(CURL, cookie=2, connections=1)) == 0
    snapshot = known.store.snapshot(0.0)
    assert (list(snapshot.connections.values), known.transmitted()) == ([1], {hashed(7): 1})


def test_flow_is_looked_at_when_its_executable_is_not_that_of_the_process(known: Bench) -> None:
    known.show_hashed(file(8))
    record = flow(CURL, executable=file(8), transmit_bytes=5)
    assert known.take(record, record) == 2
    assert known.transmitted() == {hashed(7): 1, hashed(8): 10}


def test_scope_and_protocol_are_those_of_the_flow_when_the_owner_is_known(known: Bench) -> None:
    known.take(flow(CURL, transmit_bytes=1, remote_address=bytes(15) + b"\1", protocol=17))
    labels = known.store.snapshot(0.0).transmit_bytes.labels
    assert {(each.protocol, each.scope) for each in labels} == {
        ("tcp", Scope.PUBLIC),
        ("udp", Scope.LOOPBACK),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"remote_port": 53},
        {"flags": FlowFlag.KERNEL},
        {"owner": SHELL},
        {"executable": file(8)},
    ],
)
def test_flow_is_looked_at_when_it_is_not_like_the_others(
    known: Bench, changes: dict[str, object]
) -> None:
    record = replace(flow(CURL, transmit_bytes=1), **changes)  # type: ignore[arg-type]
    assert known.take(record, record) == 2


def test_flow_is_lost_to_nobody_when_its_direction_is_unknown(known: Bench) -> None:
    data = bytearray(encode_flow(flow(CURL, transmit_bytes=1)))
    data[8 + 135] = 3
    (piece,) = known.attributor.flows(memoryview(bytes(data)))
    with pytest.raises(WireError):
        decode(piece)


def test_all_names_are_looked_at_again_when_one_has_changed(known: Bench) -> None:
    record = flow(CURL, transmit_bytes=1)
    assert known.take(record, record) == 0
    known.attributor.process(process(CURL, parent=SHELL, cmdline=b"curl\0-q\0"))
    assert known.take(record, record) == 1
    assert [row.program.cmdline for row in known.rows.flows] == ["curl -v"] * 2 + ["curl -q"] * 2


def test_nothing_is_looked_at_when_a_process_is_introduced_as_it_was(known: Bench) -> None:
    known.introduce_all()
    assert known.take(flow(CURL, transmit_bytes=1)) == 0


def test_row_is_opened_when_its_window_is_a_new_one(known: Bench) -> None:
    record = flow(CURL, transmit_bytes=1)
    known.take(record)
    known.close_window()
    assert known.take(record) == 0
    assert len(known.rows.flows) == 2
    known.close_window(remembers=False)
    assert known.take(record) == 0
    assert len(known.rows.flows) == 3


@pytest.mark.parametrize("change", ["final", "forced", "late"])
def test_owner_is_not_learned_when_a_name_may_be_missing(bench: Bench, change: str) -> None:
    bench = Bench(max_held=0) if change == "forced" else bench
    bench.show_hashed(file(7))
    if change != "late":
        bench.show_hashed(file(10))
    bench.attributor.process(process(CURL, parent=SHELL))
    if change == "final":
        bench.attributor.process(process(SHELL, parent=INIT, executable=file(10)))
    for _ in range(2):
        assert bench.take(flow(CURL, transmit_bytes=1)) == 1
        bench.wait(121)
    assert bench.take(flow(CURL, transmit_bytes=1)) == 1


def test_bounds_hold_when_there_are_more_owners_and_connections(bench: Bench) -> None:
    known = Known(store=bench.store, rows=bench.rows, to_unix=float, max_owners=1, max_lines=1)
    bench.show_hashed()
    for tgid in (100, 101):
        bench.attributor.process(process(key(tgid)))
        owner = flow(key(tgid))
        assert list(known.take(memoryview(encode_flow(owner)))) != []
        version = bench.registry.version_of(file(), exec_ns=10 * SECOND_NS)
        known.learn(
            who_of(owner),
            Owner(
                key=owner.owner,
                executable=hashed(7),
                workload=HOST,
                container="",
                lineage=(NO_PROGRAM, NO_PROGRAM, NO_PROGRAM),
                version=version,
            ),
        )
    first, second = (flow(key(101), cookie=cookie, transmit_bytes=1) for cookie in (1, 2))
    for record in (first, second, first, second, flow(key(100))):
        refused = list(known.take(memoryview(encode_flow(record))))
        assert bool(refused) == (record.owner == key(100))
    known.post()
    assert [row.transmit_bytes for row in bench.rows.flows] == [2, 1, 1]
    assert bench.transmitted() == {hashed(7): 4}


def test_parts_fit_together_when_they_are_the_real_ones() -> None:
    hasher, health, rows = FakeHasher(), Health(), Windows()
    clock = FakeClock()
    attributor = Attributor(
        registry=Registry(hasher, clock=clock),
        processes=ProcessTable(),
        store=Store(health=health, max_executables=9, stale_after_seconds=9),
        rows=rows,
        health=health,
        clock=clock,
        to_unix=lambda boot_ns: boot_ns / SECOND_NS,
    )
    attributor.unseen(UnseenRecord(time_ns=1, owner=key(), executable=file(0), family=17, netns=1))
    attributor.process(process(executable=file(0), flags=EXEC))
    attributor.flow(flow(executable=file(0), transmit_bytes=3))
    assert sorted(row.local_port for row in rows.close(1.0)) == [-1, 40_000]


OWNERS = tuple(key(tgid) for tgid in range(1, 6))
PARENTS = dict(pairwise(reversed(OWNERS)))


class AttributorMachine(RuleBasedStateMachine):
    """Everything is in the totals once and in the rows once, whatever comes in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.flows = Counter[str]()
        self.executed: set[ProcessKey] = set()

    def file_of(self, owner: ProcessKey) -> FileIdentity:
        return file(owner.tgid % 3 + 1)

    @initialize(max_held=st.sampled_from([1, 3, 1000]))
    def begin(self, max_held: int) -> None:
        self.bench = Bench(max_held=max_held)

    @rule(
        owner=st.sampled_from(OWNERS),
        cookie=st.integers(1, 3),
        transmit=st.integers(0, 100),
        receive=st.integers(0, 100),
        connections=st.integers(0, 2),
        is_final=st.booleans(),
    )
    def move(  # noqa: PLR0913
        self,
        *,
        owner: ProcessKey,
        cookie: int,
        transmit: int,
        receive: int,
        connections: int,
        is_final: bool,
    ) -> None:
        self.bench.take(
            flow(
                owner,
                executable=self.file_of(owner),
                cookie=cookie,
                transmit_bytes=transmit,
                receive_bytes=receive,
                connections=connections,
                connect_failures=connections,
                flags=FlowFlag.FINAL if is_final else 0,
            )
        )
        self.flows["transmit_bytes"] += transmit
        self.flows["receive_bytes"] += receive
        self.flows["connections"] += connections
        self.flows["connect_failures"] += connections

    @rule(
        owner=st.sampled_from(OWNERS),
        flags=st.sampled_from([0, EXEC, MISSING]),
        generation=st.integers(0, 1),
    )
    def introduce(self, owner: ProcessKey, flags: int, generation: int) -> None:
        self.bench.attributor.process(
            process(
                owner,
                parent=PARENTS.get(owner, key(0)),
                executable=self.file_of(owner),
                flags=flags,
                generation=generation,
                cmdline=b"" if flags & MISSING else b"a\0b\0",
            )
        )
        if flags & EXEC and not generation:
            self.executed.add(owner)

    @rule(owner=st.sampled_from(OWNERS))
    def read_command_line(self, owner: ProcessKey) -> None:
        self.bench.attributor.command_line(CommandLine(key=owner, cmdline=b"x\0"))

    @rule(inode=st.integers(1, 3), reason=st.sampled_from(["", "", "", "gone"]))
    def show(self, inode: int, reason: str) -> None:
        self.bench.show(seen(file(inode), path=b"/bin/%d" % inode, reason=reason))

    @rule(reason=st.sampled_from(["", "", "modified"]))
    def hash_one(self, reason: str) -> None:
        for ticket in list(self.bench.hasher.jobs)[:1]:
            inode = self.bench.registry._tickets[ticket].identity.inode
            self.bench.hasher.finish(ticket, "" if reason else digest(str(inode)), reason)
            self.bench.attributor.settled()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.bench.wait(seconds)

    @rule()
    def commit(self) -> None:
        self.bench.attributor.finish_counted()
        uncounted = list(self.bench.attributor.uncounted())
        waiting = sum(record.transmit_bytes for record in uncounted)
        logged = sum(row.transmit_bytes for row in self.bench.rows.flows)
        assert self.totals()["transmit_bytes"] == logged
        assert self.flows["transmit_bytes"] == logged + waiting

    @rule(remembers=st.booleans())
    def close_window(self, *, remembers: bool) -> None:
        self.bench.close_window(remembers=remembers)

    def totals(self) -> dict[str, int]:
        snapshot = self.bench.store.snapshot(0.0)
        return {
            metric: sum(getattr(snapshot, metric).values)
            for metric in ("transmit_bytes", "receive_bytes", "connections", "connect_failures")
        }

    @invariant()
    def totals_and_waiting_are_what_came_in(self) -> None:
        uncounted = list(self.bench.attributor.uncounted())
        for metric, total in self.totals().items():
            waiting = sum(getattr(record, metric) for record in uncounted)
            assert self.flows[metric] == total + waiting

    @invariant()
    def hash_is_that_of_the_file(self) -> None:
        for executable in self.bench.transmitted():
            if executable.sha256:
                inode = int(executable.exe.removeprefix("/bin/"))
                assert digest(str(inode)) == executable.sha256

    @invariant()
    def bound_holds(self) -> None:
        assert self.bench.attributor.held <= self.bench.attributor._max_held

    def teardown(self) -> None:
        for _ in range(4):
            self.bench.wait(121)
        assert self.bench.attributor.held == 0
        for metric, total in self.totals().items():
            assert self.flows[metric] == total
            assert self.flows[metric] == sum(getattr(row, metric) for row in self.bench.rows.flows)
        assert len(self.executed) == len(self.bench.rows.executions)
        self.bench.hasher.close()


TestAttributorMachine = AttributorMachine.TestCase
TestAttributorMachine.settings = settings(stateful_step_count=40, deadline=None)
