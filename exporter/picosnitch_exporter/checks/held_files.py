"""Descriptors of executables that may have to be uploaded: kept open within bounds."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from picosnitch_exporter import descriptors
from picosnitch_exporter.model import Sha256

CAPACITY: Final = 256
"""Open descriptors. An upload is never made by path, where something else may be by then."""
HELD_SECONDS: Final = 3600.0
"""An open file keeps its filesystem from being unmounted, and its blocks from being freed."""


@dataclass(slots=True, kw_only=True)
class _Held:
    descriptor: int
    deadline: float
    is_wanted: bool = False


class HeldFiles:
    """Descriptors by content. Thread-safe.

    What is offered is kept if `is_open_question` says so. Beyond the bound, what nobody has asked
    for goes first, then the oldest.
    """

    def __init__(
        self,
        *,
        is_open_question: Callable[[Sha256], bool],
        capacity: int = CAPACITY,
        held_seconds: float = HELD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_open_question = is_open_question
        self._capacity = capacity
        self._held_seconds = held_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[Sha256, _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def offer(self, sha256: Sha256, descriptor: int) -> None:
        """Takes over the descriptor of a file with this content."""
        with self._lock:
            if sha256 in self._held or not self._is_open_question(sha256):
                descriptors.close(descriptor)
                return
            self._expire()
            if len(self._held) >= self._capacity:
                self._evict()
            deadline = self._clock() + self._held_seconds
            self._held[sha256] = _Held(descriptor=descriptor, deadline=deadline)

    def want(self, sha256: Sha256) -> None:
        """Notes that the content is asked about, so that it is kept for longer than others."""
        with self._lock:
            held = self._held.get(sha256)
            if held is not None:
                held.is_wanted = True

    def take(self, sha256: Sha256) -> int | None:
        """The descriptor, which is the caller's from here on; None where it was not kept."""
        with self._lock:
            self._expire()
            held = self._held.pop(sha256, None)
        return None if held is None else held.descriptor

    def drop(self, sha256: Sha256) -> None:
        """Closes what is no longer needed."""
        descriptor = self.take(sha256)
        if descriptor is not None:
            descriptors.close(descriptor)

    def tick(self) -> None:
        """Closes what was kept for too long."""
        with self._lock:
            self._expire()

    def close(self) -> None:
        """Closes all of them."""
        with self._lock:
            for held in self._held.values():
                descriptors.close(held.descriptor)
            self._held.clear()

    def _expire(self) -> None:
        now = self._clock()
        # In order of deadline, as all are kept equally long.
        while self._held:
            sha256, held = next(iter(self._held.items()))
            if held.deadline > now:
                return
            del self._held[sha256]
            descriptors.close(held.descriptor)

    def _evict(self) -> None:
        unwanted = (sha256 for sha256, held in self._held.items() if not held.is_wanted)
        sha256 = next(unwanted, None) or next(iter(self._held))
        descriptors.close(self._held.pop(sha256).descriptor)
