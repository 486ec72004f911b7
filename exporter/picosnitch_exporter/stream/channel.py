"""One end of the socket pair: a frame is a message, a descriptor travels with its frame."""

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from dataclasses import replace

from picosnitch_exporter.errors import PeerGoneError, WireError
from picosnitch_exporter.stream.codec import decode, encode
from picosnitch_exporter.stream.frames import ExecutableSeen, Frame

MAX_RECORD_BYTES = 128 * 1024
"""Of ring data in one frame. Well below the send buffer, so that a frame always fits."""
SEND_BUFFER_BYTES = 1024 * 1024
_MAX_FRAME_BYTES = MAX_RECORD_BYTES + 4096
_MAX_DESCRIPTORS = 1
_INT = struct.Struct("i")


class Channel:
    """One end of the stream. Not safe for use by two threads in the same direction at once."""

    def __init__(self, sock: socket.socket, *, receives: tuple[type[Frame], ...]) -> None:
        self._sock = sock
        self._receives = receives
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """The two ends, for the sensor and for the exporter."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self) -> int:
        """The descriptor, for poll()."""
        return self._sock.fileno()

    @property
    def unread_bytes(self) -> int:
        """Memory of what was sent and the other side has not taken yet: SIOCOUTQ, unix(7)."""
        word = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(_INT.size))
        return int(_INT.unpack(word)[0])

    def close(self) -> None:
        """Ends the stream; the other side gets `PeerGoneError`."""
        self._sock.close()

    def send(self, frame: Frame, *, descriptor: int | None = None) -> None:
        """Sends one frame; blocks while the other side is behind.

        Raises
        ------
        PeerGoneError
            if the other side has closed the stream.
        BlockingIOError
            if the socket is non-blocking and full.
        """
        ancillary = []
        if descriptor is not None:
            rights = array.array("i", [descriptor]).tobytes()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        try:
            self._sock.sendmsg([encode(frame)], ancillary)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGoneError("the other process has closed the stream") from error
        except OSError as error:
            # Too many descriptors of this user are on their way, of which a container's root may
            # be one: unix(7).
            if error.errno != errno.ETOOMANYREFS or not isinstance(frame, ExecutableSeen):
                raise
            self.send(replace(frame, reason=frame.reason or "no_descriptor"))

    def receive(self) -> tuple[Frame, int | None]:
        """The next frame and the descriptor that came with it, which is the caller's to close.

        Raises
        ------
        PeerGoneError
            if the other side has closed the stream.
        WireError
            if the frame is malformed or not one that this side receives.
        """
        try:
            message, ancillary, flags, _address = self._sock.recvmsg(
                _MAX_FRAME_BYTES,
                socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS),
                socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError as error:
            raise PeerGoneError("the other process has closed the stream") from error
        descriptors = _received_descriptors(ancillary)
        try:
            frame = self._check(message, flags, len(descriptors))
        except (PeerGoneError, WireError):
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            raise
        return frame, descriptors[0] if descriptors else None

    def _check(self, message: bytes, flags: int, descriptors: int) -> Frame:
        if not message:
            raise PeerGoneError("the other process has closed the stream")
        if flags & socket.MSG_TRUNC or (flags & socket.MSG_CTRUNC and descriptors):
            raise WireError("frame too long, or with more descriptors than it may have")
        frame = decode(message)
        if flags & socket.MSG_CTRUNC and isinstance(frame, ExecutableSeen):
            # There was one, but this process has reached its RLIMIT_NOFILE.
            frame = replace(frame, reason="no_descriptor")
        if not isinstance(frame, self._receives):
            raise WireError(f"a {type(frame).__name__} frame from the wrong side")
        # The space for one descriptor is padded, and holds two.
        wanted = 1 if isinstance(frame, ExecutableSeen) and not frame.reason else 0
        if descriptors != wanted:
            raise WireError(f"a {type(frame).__name__} frame with {descriptors} descriptors")
        return frame


def _received_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) // descriptors.itemsize * descriptors.itemsize])
    return list(descriptors)
