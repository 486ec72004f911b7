import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.sensor.ring import Ring

PAGE = mmap.PAGESIZE
BUSY, DISCARDED = 1 << 31, 1 << 30


def record(length: int, flags: int = 0) -> bytes:
    return struct.pack("=II", length | flags, 0) + bytes([length] * length) + bytes(-length % 8)


class FakeKernel:
    """A file laid out as the kernel maps a ring, but for the data that is there twice."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("ring")
        os.truncate(self.descriptor, 4 * PAGE)
        self.ring = Ring(self.descriptor, PAGE)

    def put(self, data: bytes, *, start: int = 0) -> None:
        os.pwrite(self.descriptor, data, 2 * PAGE + start)
        os.pwrite(self.descriptor, struct.pack("=Q", start + len(data)), PAGE)

    def close(self) -> None:
        self.ring.close()
        os.close(self.descriptor)


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    kernel = FakeKernel()
    yield kernel
    kernel.close()


def test_all_is_read_when_records_are_whole(kernel: FakeKernel) -> None:
    data = record(144) * 3 + record(20) + record(144, DISCARDED) + record(144) + record(0)
    kernel.put(data)
    assert data == kernel.ring.read(0, PAGE)


def test_reading_ends_before_a_record_that_is_being_written(kernel: FakeKernel) -> None:
    whole = record(144) * 2
    kernel.put(whole + record(144, BUSY) + record(144))
    assert whole == kernel.ring.read(0, PAGE)


@pytest.mark.parametrize(("limit", "records"), [(151, 0), (152, 1), (303, 1), (304, 2)])
def test_records_are_whole_when_there_is_a_limit(
    kernel: FakeKernel, limit: int, records: int
) -> None:
    kernel.put(record(144) * 5)
    assert record(144) * records == kernel.ring.read(0, limit)


def test_records_are_read_when_they_wrap(kernel: FakeKernel) -> None:
    data = record(144) * 4
    kernel.put(data, start=PAGE - 8)
    assert data == kernel.ring.read(PAGE - 8, PAGE)


def test_damage_is_said_when_a_record_ends_beyond_the_rest(kernel: FakeKernel) -> None:
    kernel.put(record(144) + record(144)[:-8])
    with pytest.raises(KernelError, match="a record at 152 ends beyond 296"):
        kernel.ring.read(0, PAGE)
