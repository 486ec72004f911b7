import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.log.streams import KEPT_BYTES, MAX_STREAMS, Message, Streams
from tests.dns_samples import framed

MESSAGE = b"0123456789ab" + bytes(range(200))


@given(
    st.lists(st.binary(min_size=12, max_size=2 * KEPT_BYTES), max_size=4),
    st.lists(st.integers(1, 3000)),
)
def test_messages_come_out_when_segments_end_anywhere(
    messages: list[bytes], sizes: list[int]
) -> None:
    rest = b"".join(framed(message) for message in messages)
    streams = Streams()
    found: list[Message] = []
    for size in [*sizes, len(rest)]:
        found += streams.feed(1, rest[:size], is_cut=False)
        rest = rest[size:]
    assert [(one[:KEPT_BYTES], len(one) > KEPT_BYTES) for one in messages] == found
    assert len(streams) == 0


def test_streams_stay_apart_when_interleaved() -> None:
    streams = Streams()
    data = framed(MESSAGE)
    assert streams.feed(1, data[:50], is_cut=False) == []
    assert streams.feed(2, data[:90], is_cut=False) == []
    assert streams.feed(1, data[50:], is_cut=False) == [(MESSAGE, False)]
    assert streams.feed(2, data[90:], is_cut=False) == [(MESSAGE, False)]


def test_beginning_is_given_out_when_the_segment_is_cut() -> None:
    streams = Streams()
    data = framed(MESSAGE)
    assert streams.feed(1, data + data[:60], is_cut=True) == [
        (MESSAGE, False),
        (MESSAGE[:58], True),
    ]
    assert streams.feed(1, data, is_cut=False) == [(MESSAGE, False)]
    assert streams.feed(1, data[:10], is_cut=True) == []


def test_stream_begins_anew_when_a_length_is_impossible() -> None:
    streams = Streams()
    with pytest.raises(WireError, match="of 3 bytes"):
        streams.feed(1, b"\0\x03abc", is_cut=False)
    assert streams.feed(1, framed(MESSAGE), is_cut=False) == [(MESSAGE, False)]


def test_stream_begins_anew_when_forgotten() -> None:
    streams = Streams()
    streams.feed(1, framed(MESSAGE)[:50], is_cut=False)
    streams.forget(1)
    streams.forget(2)
    assert streams.feed(1, framed(MESSAGE), is_cut=False) == [(MESSAGE, False)]


def test_streams_are_bounded_when_none_of_them_ends() -> None:
    streams = Streams()
    for cookie in range(3 * MAX_STREAMS):
        streams.feed(cookie, b"\xff\xff" + bytes(100), is_cut=False)
    assert len(streams) == MAX_STREAMS


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=300), st.booleans())))
def test_any_segments_are_harmless_when_fed(segments: list[tuple[int, bytes, bool]]) -> None:
    streams = Streams()
    for cookie, segment, is_cut in segments:
        try:
            messages = streams.feed(cookie, segment, is_cut=is_cut)
        except WireError:
            continue
        assert all(len(message) <= KEPT_BYTES for message, _cut in messages)
