"""Other ways to count, attached to the same tracepoints, and the time that the programs take."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.loops import Loops
from bench.running import Running
from picosnitch_exporter.sensor.bpf import BpfObject
from picosnitch_exporter.sensor.libbpf import Library, program_statistics
from picosnitch_exporter.sensor.mounts import cgroup2_root

STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
ITERATORS = ("drain_", "find_", "introduce_")
"""Beginnings of the names of programs that run when the exporter reads, and not for a call."""
_TRACED = ("send", "receive", "tcp_receive", "copy", "state")
_AT_CGROUP = ("ingress", "egress", "sendmsg", "recvmsg", "connect", "release")
_ON_EACH_HOOK = ("hooks", "storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What programs took in a loop, by name: runs, and nanoseconds in all."""

    runs: Mapping[str, int]
    nanoseconds: Mapping[str, int]

    def of_all(self) -> int:
        """Nanoseconds of all programs together."""
        return sum(self.nanoseconds.values())


@contextmanager
def statistics_on() -> Iterator[None]:
    """Has the kernel time BPF programs, which costs some 40 ns a run."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


class Programs:
    """BPF programs by name, as descriptors."""

    def __init__(self, library: Library, descriptors: Mapping[str, int]) -> None:
        self._library = library
        self._descriptors = descriptors

    def spent(self, loops: Loops, arguments: tuple[str, ...]) -> Spent:
        """What they take while a loop runs."""
        before = self._statistics()
        loops.nanoseconds(arguments)
        after = self._statistics()
        return Spent(
            runs={name: after[name][0] - before[name][0] for name in after},
            nanoseconds={name: after[name][1] - before[name][1] for name in after},
        )

    def _statistics(self) -> dict[str, tuple[int, int]]:
        return {
            name: program_statistics(self._library, descriptor)
            for name, descriptor in self._descriptors.items()
        }


@contextmanager
def attached(loops: Loops, design: str) -> Iterator[Programs]:
    """One of `loops.DESIGNS`, whose programs are called NAME_*."""
    library = Library()
    path = loops.design(design)
    with BpfObject(library, path.read_bytes(), path) as bpf:
        bpf.load()
        is_on_each = design in _ON_EACH_HOOK
        traced, at_cgroup = (_TRACED, _AT_CGROUP) if is_on_each else (_TRACED[:2], ())
        cgroup = os.open(cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
        links = [bpf.attach(f"{design}_{name}") for name in traced]
        links += [bpf.attach_cgroup(f"{design}_{name}", cgroup) for name in at_cgroup]
        os.close(cgroup)
        names = [f"{design}_{name}" for name in (*traced, *at_cgroup)]
        try:
            yield Programs(library, {name: bpf.program_descriptor(name) for name in names})
        finally:
            for link in links:
                link.close()


@contextmanager
def exporters() -> Iterator[Programs]:
    """The exporter's own, while it runs."""
    library = Library()
    with Running.start() as running:
        programs = running.programs(library)
        yield Programs(
            library,
            {name: one for name, one in programs.items() if not name.startswith(ITERATORS)},
        )
