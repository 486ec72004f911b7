"""The block of settings and flags that the BPF programs share with user space.

`struct control` of ebpf/picosnitch.h, at the start of the mapped .bss section.
"""

import mmap
import time
from typing import Final

SIZE = 80
_HEARTBEAT, _LINGER = range(2)  # indexes of 64-bit words
(
    _EVERY_EXE,
    _COUNT_BYTES,
    _SOCKETS_DIRTY,
    _FLOWS_DIRTY,
    _FALLBACK_DIRTY,
    _FLOW_IDLE_ROUNDS,
    _ACTIVE,
    _WAKEUP_BYTES,
    _SOCKET_ENTRIES,
    _FLOW_ENTRIES,
    _FALLBACK_ENTRIES,
    _EXPIRE_FLOWS,
    _INTRODUCE_LATE,
    _LATE_PROCESSES,
    _FLOW_COUNT,
    _PAD,
) = range(4, 20)  # indexes of 32-bit words


class Control:
    """Reads and writes single words, each of them in one store, which the programs see at once."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory: Final = memory  # kept, since the views don't keep it mapped
        self._words = memoryview(memory).cast("I")
        self._longs = memoryview(memory).cast("Q")

    @property
    def active(self) -> int:
        """Generation of the programs that count, 0 for none."""
        return self._words[_ACTIVE]

    @active.setter
    def active(self, generation: int) -> None:
        self._words[_ACTIVE] = generation

    @property
    def heartbeat_ns(self) -> int:
        """CLOCK_MONOTONIC of the last drain: a suspended machine is no abandoned one."""
        return self._longs[_HEARTBEAT]

    def idle_seconds(self) -> float:
        """How long the programs have idled at the most, if `active` is 0: since they might."""
        if not self.heartbeat_ns:
            return 0.0
        idles_from_ns = self.heartbeat_ns + self._longs[_LINGER]
        return max(0.0, (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - idles_from_ns) / 1e9)

    @property
    def flow_count(self) -> int:
        """Entries in the flows map."""
        return self._words[_FLOW_COUNT]

    def beat(self) -> None:
        """Says that somebody reads."""
        self._longs[_HEARTBEAT] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def configure(
        self,
        *,
        linger_seconds: int,
        every_exe: bool,
        count_bytes: bool,
        flow_idle_rounds: int,
        wakeup_bytes: int,
    ) -> None:
        """Applies the settings; the programs follow from their next call on."""
        self._longs[_LINGER] = linger_seconds * 1_000_000_000
        self._words[_EVERY_EXE] = every_exe
        self._words[_COUNT_BYTES] = count_bytes
        self._words[_FLOW_IDLE_ROUNDS] = flow_idle_rounds
        self._words[_WAKEUP_BYTES] = wakeup_bytes

    def take_dirty(self) -> tuple[bool, bool, bool]:
        """Whether sockets, flows and fallback have something to drain; clears the three flags.

        Cleared before the drain, so that what is counted during it raises them again.
        """
        words = self._words
        dirty = (
            bool(words[_SOCKETS_DIRTY]),
            bool(words[_FLOWS_DIRTY]),
            bool(words[_FALLBACK_DIRTY]),
        )
        words[_SOCKETS_DIRTY] = words[_FLOWS_DIRTY] = words[_FALLBACK_DIRTY] = 0
        return dirty

    def take_late_processes(self) -> bool:
        """Whether there are processes that found no room in the ring; clears the flag."""
        is_raised = bool(self._words[_LATE_PROCESSES])
        self._words[_LATE_PROCESSES] = 0
        return is_raised

    @property
    def is_introducing_late(self) -> bool:
        """Whether `introduce_again` speaks of those only that found no room in the ring."""
        return bool(self._words[_INTRODUCE_LATE])

    def set_introducing_late(self, *, is_late: bool) -> None:
        """Whether `introduce_again` speaks of those only."""
        self._words[_INTRODUCE_LATE] = is_late

    def take_entries(self) -> dict[str, int]:
        """Entries that the last drains have met, by map; starts the next count."""
        words = self._words
        entries = {
            "sockets": words[_SOCKET_ENTRIES],
            "flows": words[_FLOW_ENTRIES],
            "fallback": words[_FALLBACK_ENTRIES],
        }
        words[_SOCKET_ENTRIES] = words[_FLOW_ENTRIES] = words[_FALLBACK_ENTRIES] = 0
        return entries

    def raise_dirty(self) -> None:
        """Makes the next drain look at everything."""
        for flag in (_SOCKETS_DIRTY, _FLOWS_DIRTY, _FALLBACK_DIRTY, _LATE_PROCESSES):
            self._words[flag] = 1

    def set_expiring(self, *, is_expiring: bool) -> None:
        """Whether the next drain of the flows counts idle rounds and removes idle ones."""
        self._words[_EXPIRE_FLOWS] = is_expiring

    @property
    def is_expiring(self) -> bool:
        """Whether this drain of the flows does so."""
        return bool(self._words[_EXPIRE_FLOWS])
