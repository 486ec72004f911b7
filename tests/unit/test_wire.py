import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import Direction, FileIdentity, ProcessKey
from picosnitch_exporter.runs import split_runs
from picosnitch_exporter.wire import (
    DNS,
    FLOW,
    LOOKUP_ADDRESSES,
    PROCESS,
    DnsRecord,
    FlowFlag,
    FlowRecord,
    LookupRecord,
    ProcessRecord,
    RecordKind,
    UnseenRecord,
    decode,
    encode_flow,
    split_ring,
)

WORDS = st.integers(0, 2**64 - 1)
HALVES = st.integers(0, 2**32 - 1)
QUARTERS = st.integers(0, 2**16 - 1)
ADDRESSES = st.binary(min_size=16, max_size=16)

FLOWS = st.builds(
    FlowRecord,
    flags=st.integers(0, 15).map(FlowFlag),
    time_ns=WORDS,
    owner=st.builds(ProcessKey, tgid=HALVES, start_ns=WORDS, exec_id=WORDS),
    executable=st.builds(FileIdentity, device=HALVES, inode=WORDS, generation=HALVES),
    cookie=WORDS,
    transmit_bytes=WORDS,
    receive_bytes=WORDS,
    transmit_calls=HALVES,
    receive_calls=HALVES,
    connections=HALVES,
    connect_failures=HALVES,
    local_address=ADDRESSES,
    remote_address=ADDRESSES,
    local_port=QUARTERS,
    remote_port=QUARTERS,
    protocol=QUARTERS,
    family=st.integers(0, 255),
    direction=st.sampled_from(Direction),
    netns=HALVES,
    uid=HALVES,
)


FLOW_BYTES = struct.pack("=H", RecordKind.FLOW) + bytes(142)


def in_ring(data: bytes, flags: int = 0) -> bytes:
    padding = bytes(-len(data) % 8)
    return struct.pack("=II", len(data) | flags, 0) + data + padding


@given(FLOWS)
def test_flow_comes_back_when_encoded(flow: FlowRecord) -> None:
    (data,) = split_ring(encode_flow(flow))
    assert flow == decode(data)


@given(st.binary(max_size=800))
def test_only_a_wire_error_when_a_record_is_arbitrary(data: bytes) -> None:
    try:
        decode(data)
    except WireError:
        return


@given(st.sampled_from(RecordKind), st.binary(max_size=800))
def test_only_a_wire_error_when_only_the_kind_is_right(kind: RecordKind, data: bytes) -> None:
    try:
        decode(struct.pack("=H", kind) + data)
    except WireError:
        return


@given(st.binary(max_size=2000))
def test_only_a_wire_error_when_the_ring_is_arbitrary(data: bytes) -> None:
    try:
        list(split_ring(data))
    except WireError:
        return


@given(st.lists(st.binary(max_size=99)))
def test_records_come_back_when_the_ring_is_split(records: list[bytes]) -> None:
    assert records == list(split_ring(b"".join(in_ring(record) for record in records)))


@given(st.lists(st.one_of(st.just(bytes(144)), st.just(FLOW_BYTES), st.binary(max_size=200))))
def test_runs_hold_the_same_records_when_the_ring_is_split(records: list[bytes]) -> None:
    found: list[bytes] = []
    for piece in split_runs(b"".join(in_ring(record) for record in records)):
        if isinstance(piece, memoryview):
            assert set(split_ring(bytes(piece))) == {FLOW_BYTES}
            found += split_ring(bytes(piece))
        else:
            found.append(piece)
    assert found == records


def test_flow_records_are_one_run_when_nothing_is_between_them() -> None:
    run = in_ring(FLOW_BYTES) * 3
    others = in_ring(b"a") + in_ring(b"b", 1 << 30) + in_ring(b"c")
    busy = in_ring(FLOW_BYTES, 1 << 31) + in_ring(FLOW_BYTES)
    assert list(split_runs(run + others + run + busy)) == [run, b"a", b"c", run]


def test_discarded_is_left_out_and_busy_ends_when_the_ring_is_split() -> None:
    ring = in_ring(b"a") + in_ring(b"b", 1 << 30) + in_ring(b"c") + in_ring(b"d", 1 << 31)
    assert list(split_ring(ring + in_ring(b"e"))) == [b"a", b"c"]


def test_process_has_its_fields_when_decoded() -> None:
    data = PROCESS.pack(
        RecordKind.PROCESS, 1, 0, 10, 11, 12, 13, 0, 14, 15, 16, 0, 17, 18, 19, 20, 21, 22, 23, 24,
        5, 2, 0, b"name",
    )  # fmt: skip
    record = decode(data + b"a\0bc\0")
    assert isinstance(record, ProcessRecord)
    assert ProcessKey(start_ns=11, exec_id=12, tgid=13) == record.key
    assert ProcessKey(start_ns=14, exec_id=15, tgid=16) == record.parent
    assert FileIdentity(inode=17, device=18, generation=19) == record.executable
    assert (
        record.exec_ns,
        record.changed_ns,
        record.cgroup_id,
        record.cgroup1_id,
        record.uid,
        record.generation,
    ) == (20, 21, 22, 23, 24, 2)
    assert (record.comm, record.cmdline) == (b"name", b"a\0bc\0")


def test_refused_when_a_length_inside_the_record_is_wrong() -> None:
    process = bytearray(PROCESS.size)
    struct.pack_into("=H", process, 0, RecordKind.PROCESS)
    with pytest.raises(WireError, match="command line"):
        decode(bytes(process) + b"more")
    dns = bytearray(DNS.size)
    struct.pack_into("=H", dns, 0, RecordKind.DNS)
    with pytest.raises(WireError, match="payload"):
        decode(bytes(dns) + b"more")


def test_refused_when_the_direction_is_none() -> None:
    flow = bytearray(FLOW.size)
    struct.pack_into("=H", flow, 0, RecordKind.FLOW)
    flow[-9] = 9
    with pytest.raises(WireError, match="direction 9"):
        decode(bytes(flow))


def test_dns_and_unseen_have_their_fields_when_decoded() -> None:
    dns = decode(DNS.pack(RecordKind.DNS, 0, 0, 1, 2, 3, 4, 17) + b"wire")
    assert isinstance(dns, DnsRecord)
    assert (dns.cookie, dns.netns, dns.protocol, dns.payload) == (2, 3, 17, b"wire")
    header = struct.pack("=HHIQ", RecordKind.UNSEEN, 0, 0, 1)
    unseen = decode(header + struct.pack("=QQIIQIIII", 2, 3, 4, 0, 5, 6, 7, 44, 8))
    assert isinstance(unseen, UnseenRecord)
    assert (unseen.family, unseen.netns, unseen.owner.tgid) == (44, 8, 4)


def lookup(*addresses: bytes, count: int | None = None, name: bytes = b"x.test") -> bytes:
    header = struct.pack("=HHIQQQII", RecordKind.LOOKUP, 0, 0, 1, 2, 3, 4, 0)
    sizes = struct.pack("=IHH", 9, len(addresses) if count is None else count, len(name))
    room = LOOKUP_ADDRESSES * 16
    return header + sizes + b"".join(addresses).ljust(room, b"\0") + name.ljust(256, b"\0")


def test_lookup_has_its_fields_when_decoded() -> None:
    decoded = decode(lookup(bytes(15) + b"\1", bytes(16)))

    assert isinstance(decoded, LookupRecord)
    assert (decoded.owner.tgid, decoded.netns, decoded.name) == (4, 9, b"x.test")
    assert decoded.addresses == (bytes(15) + b"\1", bytes(16))


@pytest.mark.parametrize("record", [lookup(count=49), lookup(name=b"x" * 256)[:-1]])
def test_lookup_is_refused_when_it_is_not_what_it_says(record: bytes) -> None:
    with pytest.raises(WireError):
        decode(record)
