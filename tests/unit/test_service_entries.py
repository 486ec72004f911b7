import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import FileIdentity, KnownFile, Sha256
from picosnitch_exporter.service.entries import Carried, Entry, pack, unpack
from picosnitch_exporter.stream import Introductions, Ready

FILES = st.builds(
    KnownFile,
    identity=st.builds(
        FileIdentity,
        device=st.integers(0, 2**32 - 1),
        inode=st.integers(0, 2**64 - 1),
        generation=st.integers(0, 2**32 - 1),
    ),
    size_bytes=st.integers(0, 2**63),
    modified_ns=st.integers(-(2**63), 2**63),
    changed_ns=st.integers(-(2**63), 2**63),
    sha256=st.just(Sha256("a" * 64)),
    path=st.binary().map(lambda path: path.decode("utf-8", "surrogateescape")),
    is_racy=st.booleans(),
)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    FILES,
    st.builds(Carried, segment=st.integers(0, 2**64 - 1), data=st.binary()),
    st.just(Ready()),
    st.builds(Introductions, data=st.binary()),
)


@given(ENTRIES, st.integers(-(2**63), 2**63 - 1))
def test_entry_comes_back_when_unpacked(entry: Entry, offset_ns: int) -> None:
    assert (entry, offset_ns) == unpack(pack(entry, offset_ns))


@given(st.binary(max_size=300))
def test_only_a_wire_error_when_bytes_are_arbitrary(data: bytes) -> None:
    try:
        unpack(data)
    except WireError:
        return


@given(ENTRIES, st.integers(0, 8), st.binary(max_size=40))
def test_only_a_wire_error_when_an_entry_is_damaged(entry: Entry, kind: int, tail: bytes) -> None:
    data = pack(entry, 0)
    for damaged in (bytes([kind]) + data[1:], data[: len(data) // 2], data + tail):
        try:
            unpack(damaged)
        except WireError:
            continue


def test_refused_when_the_kind_is_unknown() -> None:
    with pytest.raises(WireError, match="kind 9"):
        unpack(b"\x09" + pack(Ready(), 0)[1:])
