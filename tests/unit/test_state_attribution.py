from dataclasses import replace

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.identity.processes import ProcessTable
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.log.rows import Windows
from picosnitch_exporter.model import (
    HOST,
    NO_PROGRAM,
    AttributedFlow,
    Direction,
    Executable,
    Program,
    Scope,
    SeriesLabels,
    Workload,
)
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import CommandLine
from picosnitch_exporter.wire import (
    FlowFlag,
    FlowRecord,
    ProcessFlag,
    UnseenRecord,
)
from tests.attribution_bench import CURL, EXEC, MISSING, SHELL, Bench, Pods, hashed
from tests.identity_samples import (
    OLD_NS,
    PEER,
    SECOND_NS,
    FakeClock,
    FakeHasher,
    digest,
    file,
    flow,
    key,
    process,
    seen,
)


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
