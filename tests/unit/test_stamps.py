import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.stamps import Stamps, stamps_of

SECOND_NS = 1_000_000_000


def status(*, size_bytes: int, modified_ns: int, changed_ns: int) -> os.stat_result:
    """As the system would tell it: the times that count are at the end."""
    times = (0, modified_ns / SECOND_NS, changed_ns / SECOND_NS)
    whole = tuple(int(each) for each in times)
    return os.stat_result(
        (0o100755, 1, 1, 1, 0, 0, size_bytes, *whole, *times, 0, modified_ns, changed_ns)
    )


def test_stamps_are_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    found = path.stat()
    assert stamps_of(found) == Stamps(4, 1_700_000_000_123_456_789, found.st_ctime_ns)


@given(seconds=st.integers(-(1 << 63), (1 << 63) - 1), nanoseconds=st.integers(0, SECOND_NS - 1))
def test_times_are_those_of_the_kernel_side_when_they_are_beyond_64_bits(
    seconds: int, nanoseconds: int
) -> None:
    time_ns = seconds * SECOND_NS + nanoseconds
    found = stamps_of(status(size_bytes=1, modified_ns=time_ns, changed_ns=time_ns))
    unsigned = time_ns % (1 << 64)  # of two u64 in C
    (kernel,) = struct.unpack("=q", struct.pack("=Q", unsigned))
    assert (found.modified_ns, found.changed_ns) == (kernel, kernel)


@pytest.mark.parametrize("time_ns", [-(1 << 63), -1, 0, (1 << 63) - 1])
def test_times_are_kept_when_they_fit(time_ns: int) -> None:
    found = stamps_of(status(size_bytes=0, modified_ns=time_ns, changed_ns=0))
    assert found == Stamps(0, time_ns, 0)
