"""When the next request may be made: kept over restarts, and slower while requests fail."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from picosnitch_exporter.logging_format import Event

FIRST_BACKOFF_SECONDS: Final = 30.0
LAST_BACKOFF_SECONDS: Final = 3600.0
BAD_KEY_SECONDS: Final = 3600.0
"""A wrong key is not asked with again and again; a new one comes with a restart."""
_MAX_FILE_BYTES = 64

_log = logging.getLogger(__name__)


class Pace:
    """At least `limit_seconds` between two requests, also those of the run before.

    When the next one may be made is written to a file before each request. One thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._failures = 0
        # The wall clock may have been set back since: never longer than the longest pause there is.
        longest = max(limit_seconds, LAST_BACKOFF_SECONDS)
        pause = min(max(0.0, self._read() - clock()), longest)
        self._next = monotonic() + pause

    @property
    def wait_seconds(self) -> float:
        """Until the next request may be made."""
        return max(0.0, self._next - self._monotonic())

    def begin(self) -> None:
        """Notes that a request is made now."""
        self._pause(self._limit_seconds)

    def succeeded(self) -> None:
        """Notes that it was answered as it should."""
        self._failures = 0

    def failed(self, result: str, *, retry_after_seconds: float = 0.0) -> float:
        """Notes that it was not; returns the pause, which doubles from one to the next."""
        seconds = min(FIRST_BACKOFF_SECONDS * 2.0**self._failures, LAST_BACKOFF_SECONDS)
        self._failures = min(self._failures + 1, 16)
        if result == "bad_key":
            seconds = BAD_KEY_SECONDS
        seconds = max(seconds, retry_after_seconds, self._limit_seconds)
        self._pause(seconds)
        return seconds

    def _pause(self, seconds: float) -> None:
        self._next = self._monotonic() + seconds
        text = f"{self._clock() + seconds:.3f}\n"
        try:
            # In place, as nothing is lost if it is torn: then there is no pause after a restart.
            descriptor = os.open(
                self._path,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                os.write(descriptor, text.encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.warning(
                Event("virustotal_pace_lost", {"path": str(self._path), "error": error.strerror})
            )

    def _read(self) -> float:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return float(os.read(descriptor, _MAX_FILE_BYTES))
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return 0.0
