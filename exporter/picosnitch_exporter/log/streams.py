"""Messages out of DNS over TCP: each has its length before it, and segments end anywhere.

Source: RFC 1035 (4.2.2), RFC 7766 (8).
"""

import struct
from collections import OrderedDict
from dataclasses import dataclass

from picosnitch_exporter.errors import WireError

MAX_STREAMS = 256
KEPT_BYTES = 4096
"""Of one message: its first answers, which are the addresses; the rest is passed over."""

_LENGTH = struct.Struct("!H")
_HEADER_BYTES = 12

Message = tuple[bytes, bool]
"""With whether its end is missing."""


@dataclass(slots=True)
class _Stream:
    pending: bytes = b""
    to_skip: int = 0
    """Bytes that are left of a message whose beginning has been given out."""


class Streams:
    """What has come so far of the messages on each socket, by cookie.

    Segments are taken in the order in which they arrive. One that comes twice or out of order
    spoils the message it belongs to, which then is no DNS message; the next segment begins a new
    one.
    """

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self._max_streams = max_streams
        self._streams: OrderedDict[int, _Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def feed(self, cookie: int, segment: bytes, *, is_cut: bool) -> list[Message]:
        """The messages that a segment completes; `is_cut`: its end has not been captured.

        Raises
        ------
        WireError
            if there can't be a message of such a length; the socket's stream begins anew.
        """
        stream = self._streams.pop(cookie, None) or _Stream()
        messages = self._split(stream, segment)
        if is_cut:
            if len(stream.pending) > _LENGTH.size + _HEADER_BYTES:
                messages.append((stream.pending[_LENGTH.size :], True))
        elif stream.pending or stream.to_skip:
            self._streams[cookie] = stream
            if len(self._streams) > self._max_streams:
                self._streams.popitem(last=False)
        return messages

    def forget(self, cookie: int) -> None:
        """What has come on a socket made no sense: its next segment begins a message."""
        self._streams.pop(cookie, None)

    def _split(self, stream: _Stream, segment: bytes) -> list[Message]:
        messages: list[Message] = []
        skipped = min(stream.to_skip, len(segment))
        stream.to_skip -= skipped
        data = stream.pending + segment[skipped:]
        start = 0
        while start + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, start)
            if length < _HEADER_BYTES:
                raise WireError(f"a DNS message of {length} bytes over TCP")
            begin = start + _LENGTH.size
            kept = min(length, KEPT_BYTES)
            if begin + kept > len(data):
                break
            messages.append((data[begin : begin + kept], kept < length))
            start = begin + length
        stream.to_skip += max(0, start - len(data))
        stream.pending = data[start:]
        return messages
