import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter import wire
from picosnitch_exporter.errors import WireError
from picosnitch_exporter.sensor.drain import subjects_of
from picosnitch_exporter.wire import RecordKind


def in_ring(kind: int, body: bytes) -> bytes:
    record = struct.pack("=H", kind) + body
    return struct.pack("=II", len(record), 0) + record + bytes(-len(record) % 8)


@pytest.mark.parametrize("kind", [RecordKind.FLOW, RecordKind.PROCESS, RecordKind.UNSEEN])
@pytest.mark.parametrize("size", [0, 20, 50])
def test_refused_when_a_record_is_shorter_than_its_kind(kind: RecordKind, size: int) -> None:
    """Found by `make fuzz`."""
    with pytest.raises(WireError):
        subjects_of(in_ring(kind, bytes(size)))


@given(st.lists(st.builds(in_ring, st.sampled_from([*RecordKind, 99]), st.binary(max_size=200))))
def test_only_a_wire_error_when_records_are_arbitrary(records: list[bytes]) -> None:
    with contextlib.suppress(WireError):
        subjects_of(b"".join(records))


def test_owners_of_flows_come_once_and_processes_in_order_between_them() -> None:
    def flow(tgid: int) -> bytes:
        return in_ring(RecordKind.FLOW, bytes(30) + struct.pack("=I", tgid) + bytes(108))

    def process(tgid: int) -> bytes:
        body = bytes(30) + struct.pack("=I", tgid) + bytes(wire.PROCESS.size - 36)
        return in_ring(RecordKind.PROCESS, body)

    ring = b"".join((flow(1), flow(2), flow(1), process(3), flow(2), flow(4)))
    assert [subject.key.tgid for subject in subjects_of(ring)] == [1, 2, 3, 4]
