from dataclasses import replace

import pytest

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import (
    HOST,
    NO_PROGRAM,
    UNHASHED,
    Direction,
    Executable,
    Scope,
)
from picosnitch_exporter.runs import who_of
from picosnitch_exporter.state.known import Known, Owner
from picosnitch_exporter.wire import (
    FlowFlag,
    decode,
    encode_flow,
)
from tests.attribution_bench import CURL, INIT, SHELL, Bench, hashed
from tests.identity_samples import (
    SECOND_NS,
    digest,
    file,
    flow,
    key,
    process,
    seen,
)


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


def test_owner_is_looked_at_again_when_it_was_silent_for_a_window(known: Bench) -> None:
    record = flow(CURL, transmit_bytes=1)
    for _ in range(3):
        assert known.take(replace(record, cookie=2)) == 0
        known.close_window(remembers=False)
    known.close_window(remembers=False)
    assert [known.take(record), known.take(record)] == [1, 0]
    assert known.transmitted() == {hashed(7): 6}


def test_owner_is_learned_at_its_second_record_when_the_first_was_the_last_of_its_socket(
    bench: Bench,
) -> None:
    bench.show_hashed()
    bench.attributor.process(process(CURL))
    for cookie, looked_at in ((1, 1), (2, 1), (3, 0)):
        record = flow(CURL, cookie=cookie, transmit_bytes=1, flags=FlowFlag.FINAL)
        assert bench.take(record) == looked_at
    assert bench.transmitted() == {hashed(7): 3}


@pytest.fixture
def orphan(bench: Bench) -> Bench:
    """A curl of whose grandparent, init, the file can't be read."""
    for inode in (10, 7):
        bench.show_hashed(file(inode))
    bench.show(seen(file(1), path=b"/sbin/init", reason="denied"))
    bench.introduce_all()
    assert bench.take(flow(CURL, transmit_bytes=1)) == 1
    return bench


def test_later_flows_are_only_added_up_when_an_ancestor_can_not_be_hashed(orphan: Bench) -> None:
    assert orphan.take(flow(CURL, transmit_bytes=10), flow(CURL, cookie=2, transmit_bytes=5)) == 0
    assert {row.grandparent.exe for row in orphan.rows.flows} == {"/sbin/init"}
    assert orphan.transmitted() == {hashed(7): 16}


def test_later_flows_are_only_added_up_when_the_files_are_gone(bench: Bench) -> None:
    bench.introduce_all()
    assert bench.take(flow(CURL, transmit_bytes=1)) == 1
    for _ in range(3):
        bench.wait(2)
    assert bench.take(flow(CURL, transmit_bytes=2)) == 1
    assert bench.take(flow(CURL, transmit_bytes=4)) == 0
    assert bench.transmitted() == {Executable(sha256=UNHASHED, exe="[curl]"): 7}


def test_later_rows_have_the_hash_when_a_file_is_shown_after_all(orphan: Bench) -> None:
    record = flow(CURL, transmit_bytes=1)
    orphan.show(seen(file(1), seen_ns=SECOND_NS, path=b"/sbin/init"))
    assert orphan.take(record) == 1
    assert len(orphan.rows.flows) == 1  # the other one waits for the hash
    orphan.hash_all()
    assert orphan.take(record) == 0
    assert [row.grandparent.sha256 for row in orphan.rows.flows] == [""] + [digest("1")] * 2
    assert orphan.transmitted() == {hashed(7): 3}


def test_later_rows_have_the_hash_when_reading_a_file_had_stalled(bench: Bench) -> None:
    for inode in (10, 7):
        bench.show_hashed(file(inode))
    bench.show(seen(file(1), path=b"/sbin/init"))
    bench.introduce_all()
    bench.wait(120)
    record = flow(CURL, transmit_bytes=1)
    assert [bench.take(record), bench.take(record)] == [1, 0]
    bench.hash_all()
    assert [bench.take(record), bench.take(record)] == [1, 0]
    assert [row.grandparent.sha256 for row in bench.rows.flows] == [""] * 2 + [digest("1")] * 2


def test_series_stays_what_it_was_when_the_owners_own_file_is_shown_after_all(
    bench: Bench,
) -> None:
    bench.show(seen(file(7), path=b"/bin/x", reason="denied"))
    bench.attributor.process(process(CURL))
    record = flow(CURL, transmit_bytes=1)
    assert [bench.take(record), bench.take(record)] == [1, 0]
    bench.show_hashed(file(7))
    assert [bench.take(record), bench.take(record)] == [1, 0]
    unhashed = Executable(sha256=UNHASHED, exe="/bin/x")
    assert bench.transmitted() == {unhashed: 2, hashed(7): 2}
    assert [row.program.sha256 for row in bench.rows.flows] == [""] * 2 + [digest("7")] * 2


def test_nothing_is_looked_at_when_a_file_is_denied_again(orphan: Bench) -> None:
    orphan.show(seen(file(1), seen_ns=SECOND_NS, path=b"/sbin/init", reason="denied"))
    orphan.show(seen(file(5), path=b"/bin/other", reason="denied"))
    assert orphan.take(flow(CURL, transmit_bytes=1)) == 0


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
    known = Known(
        books=bench.attributor._books, rows=bench.rows, to_unix=float, max_owners=1, max_lines=1
    )
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


def test_bound_holds_when_many_files_can_not_be_hashed(bench: Bench) -> None:
    bound = 3
    known = bench.attributor._known = Known(
        books=bench.attributor._books, rows=bench.rows, to_unix=float, max_owners=bound
    )
    for inode in range(10):
        owner, executable = key(100 + inode), file(100 + inode)
        bench.show(seen(executable, reason="denied"))
        bench.attributor.process(process(owner, executable=executable))
        record = flow(owner, executable=executable, transmit_bytes=1)
        assert [bench.take(record), bench.take(record)] == [1, 0]
        assert len(known._unhashed) <= bound
    assert sum(bench.transmitted().values()) == 20
