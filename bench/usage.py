"""What processes take, as the kernel counts it; and how long the exporter's drains last."""

import re
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""Of include/linux/posix-timers_types.h: to the nanosecond."""


def pss_megabytes(pids: Sequence[int]) -> float:
    """Proportional set size, in MB of 1,000,000 bytes."""
    kibibytes = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kibibytes += sum(int(size) for size in re.findall(r"^Pss: +(\d+) kB$", text, re.MULTILINE))
    return kibibytes * 1024 / 1e6


def processor_seconds(pids: Sequence[int]) -> float:
    """User and system time of all threads so far, those that have ended too.

    By the processes' own clocks, whose numbers the kernel makes of theirs: clock_getcpuclockid(3).
    """
    return sum(time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED) for pid in pids)


def share_of_a_core(pids: Sequence[int], seconds: float) -> float:
    """What they use from now on, for so long."""
    before, began = processor_seconds(pids), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(pids) - before) / (time.monotonic() - began)


def family(pid: int) -> list[int]:
    """A process, and all that it has started."""
    found = [pid]
    for one in found:
        children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
        found.extend(int(child) for child in children)
    return found


def samples(address: str) -> dict[str, float]:
    """An exporter's samples without labels, by name, and of labelled ones the sum."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^([a-z_]+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


class Drains:
    """How long the exporter's drains take, between two looks at its own histogram."""

    _NAME = "picosnitch_exporter_drain_duration_seconds"

    def __init__(self, address: str) -> None:
        self._address = address
        self._before = self._look()

    def mean_milliseconds(self) -> float:
        """Of those since the last look."""
        before, self._before = self._before, self._look()
        count = self._before[1] - before[1]
        return 1000 * (self._before[0] - before[0]) / count if count else 0.0

    def _look(self) -> tuple[float, float]:
        found = samples(self._address)
        return found[f"{self._NAME}_sum"], found[f"{self._NAME}_count"]
