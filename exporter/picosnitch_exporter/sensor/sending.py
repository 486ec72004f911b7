"""Frames on their way to the exporter process, with the descriptors that go along."""

from collections import deque
from typing import Final

from picosnitch_exporter import descriptors
from picosnitch_exporter.stream import Channel, Frame

MAX_WAITING: Final = 256
"""Frames from which on no more should be read that would make others."""


class Sending:
    """Sends in order, and keeps what the stream has no room for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[Frame, int | None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_congested(self) -> bool:
        """So many wait that those who make frames should pause."""
        return len(self._waiting) >= MAX_WAITING

    def send(self, frame: Frame, *, descriptor: int | None = None) -> None:
        """Takes over the descriptor, which is closed once it was sent.

        Raises
        ------
        PeerGoneError
            if the exporter process has ended.
        """
        self._waiting.append((frame, descriptor))
        self.flush()

    def flush(self) -> None:
        """Sends as much as there is room for now.

        Raises
        ------
        PeerGoneError
            if the exporter process has ended.
        """
        while self._waiting:
            frame, descriptor = self._waiting[0]
            try:
                self._channel.send(frame, descriptor=descriptor)
            except BlockingIOError:
                return
            self._waiting.popleft()
            if descriptor is not None:
                descriptors.close(descriptor)
