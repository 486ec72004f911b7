"""Tells systemd how it goes, as sd_notify(3) describes; without systemd nothing is told.

A failure to tell is no failure of the sensor: systemd then waits, and restarts it.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

_SHARE_OF_TIMEOUT = 3
"""Keep-alives within one time-out of the watchdog; sd_watchdog_enabled(3) asks for two at least."""
_MICROSECONDS = 1_000_000
_EXTENSION_SECONDS = 30


class Supervisor:
    """systemd's end of NOTIFY_SOCKET; one thread. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        pid: int | None = None,
    ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._clock = clock
        self._next_alive = 0.0
        self._interval_seconds = _interval(environment, os.getpid() if pid is None else pid)

    @property
    def wants_alive(self) -> bool:
        """Whether the watchdog is due to be told."""
        return self._interval_seconds > 0 and self._clock() >= self._next_alive

    def starting(self) -> None:
        """It is still at it; to be called each second. Source: EXTEND_TIMEOUT_USEC of sd_notify."""
        extension = _EXTENSION_SECONDS * _MICROSECONDS
        self._tell(f"EXTEND_TIMEOUT_USEC={extension}\nSTATUS=Taking in what the last run has left")

    def ready(self) -> None:
        """Traffic is being counted."""
        self._tell("READY=1\nSTATUS=Counting traffic")

    def alive(self) -> None:
        """Puts the watchdog off."""
        self._next_alive = self._clock() + self._interval_seconds
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """It has begun to end."""
        self._tell("STOPPING=1\nSTATUS=Writing what was counted")

    def _tell(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # A leading @ stands for the NUL of an abstract name.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.sendto(message.encode("ascii"), socket.MSG_DONTWAIT, address)


def _interval(environment: Mapping[str, str], pid: int) -> float:
    """Seconds between two keep-alives; 0 where no watchdog waits for this process."""
    timeout = environment.get("WATCHDOG_USEC", "")
    watched = environment.get("WATCHDOG_PID", "")
    if not (timeout.isascii() and timeout.isdigit()) or watched not in {"", str(pid)}:
        return 0.0
    return int(timeout) / _MICROSECONDS / _SHARE_OF_TIMEOUT
