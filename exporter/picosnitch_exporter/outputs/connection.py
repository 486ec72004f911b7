"""One connection of the HTTP server, with a deadline on everything it does."""

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from picosnitch_exporter.outputs.request import MAX_HEAD_BYTES, Request, find_head, parse_head

if TYPE_CHECKING:
    import ssl

SOCKET_SECONDS = 5.0
"""Without a byte moving in either direction."""
REQUEST_SECONDS = 10.0
"""From accept to the end of the answer: the time after which Prometheus gives up by default."""
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 256 * 1024
_RECEIVE_BYTES = 8 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SEND_BYTES = 128 * 1024
"""Handed to the kernel at once, so that progress is seen between two pieces."""


class Connection:
    """A client, from accept to close. One thread serves it; another may evict it.

    Methods that move bytes raise TimeoutError at a deadline, ssl.SSLError and OSError.
    """

    def __init__(
        self,
        accepted: socket.socket,
        *,
        socket_seconds: float = SOCKET_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._socket = accepted
        self._tls: ssl.SSLSocket | None = None
        self._socket_seconds = socket_seconds
        self._deadline = time.monotonic() + request_seconds
        # Held while the descriptor may be closed or replaced, so that an eviction never hits the
        # descriptor of somebody else.
        self._lock = threading.Lock()
        self.is_evicted = False
        self.tls_errors: tuple[type[OSError], ...] = ()
        """What goes wrong with TLS; nothing as long as it is not spoken: ssl takes 0.9 MB."""
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start_tls(self, context: "ssl.SSLContext") -> "ssl.SSLSocket":
        """Do the server's part of the handshake."""
        import ssl

        self.tls_errors = (ssl.SSLError,)
        with self._lock:
            if self.is_evicted:
                raise ConnectionAbortedError("evicted")
            # wrap_socket takes the descriptor out of the plain socket.
            wrapped = context.wrap_socket(
                self._socket, server_side=True, do_handshake_on_connect=False
            )
            self._socket = self._tls = wrapped
        self._limit()
        wrapped.do_handshake()
        return wrapped

    def receive_request(self) -> Request | None:
        """Wait for a whole head; None if the client went away without one.

        Raises
        ------
        RefusedError
            if it is none that can be answered.
        """
        received = b""
        while (head := find_head(received)) is None:
            self._limit()
            some = self._socket.recv(min(_RECEIVE_BYTES, MAX_HEAD_BYTES))
            if not some:
                return None
            received += some
        return parse_head(head)

    def remaining_seconds(self) -> float:
        """Time until the deadline of the whole request, not below 0."""
        return max(0.0, self._deadline - time.monotonic())

    def send(self, data: bytes) -> None:
        """Send all of it; the client has to take some of it within the socket's time-out."""
        view = memoryview(data)
        while view:
            self._limit()
            view = view[self._socket.send(view[:_SEND_BYTES]) :]

    def send_plain(self, data: bytes) -> None:
        """Answer around TLS a client whose handshake has shown that it speaks none."""
        with contextlib.suppress(OSError):
            self._limit()
            socket.socket.send(self._socket, data)
            self.finish()

    def finish(self) -> None:
        """End the answer so that it arrives: closing with unread input would reset it away."""
        deadline = min(self._deadline, time.monotonic() + _LINGER_SECONDS)
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                self._tls.settimeout(max(0.001, deadline - time.monotonic()))
                self._tls.unwrap()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            left = _LINGER_BYTES
            while left > 0 and (now := time.monotonic()) < deadline:
                self._socket.settimeout(deadline - now)
                some = socket.socket.recv(self._socket, _RECEIVE_BYTES)
                if not some:
                    break
                left -= len(some)

    def abort(self) -> None:
        """Make the close a reset, so that the client does not take what it has for all."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def evict(self) -> None:
        """End it from another thread: what the serving one waits for fails at once."""
        with self._lock:
            self.is_evicted = True
            # Around SSLSocket.shutdown, which would take the TLS state from under the other thread.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            self._socket.close()

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._socket.settimeout(min(left, self._socket_seconds))
