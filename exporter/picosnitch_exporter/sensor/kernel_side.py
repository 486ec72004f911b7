"""What a plan has brought up in the kernel, and how the rest of the sensor speaks to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from picosnitch_exporter.sensor.bpf import BpfMap
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.ring import Ring

ITERATORS = (
    "drain_sockets",
    "drain_flows",
    "drain_fallback",
    "find_processes",
    "introduce_again",
    "find_sockets",
    "find_unseen",
)
"""What each plan has to have, whether iterator programs of the kernel or something that does the
same: the first three put what is pending into the ring, the others find what has been there."""


class Runnable(Protocol):
    """Something that has the kernel look at all elements of one kind."""

    @property
    def is_stopped(self) -> bool:
        """The last run ended early, since the ring was full; the next one continues it."""

    def run(self) -> bytes:
        """Runs it; what it has written, which of these is only `introduce_again`'s.

        Raises
        ------
        KernelError
            if the kernel refuses to start or to go on.
        """

    def begin_anew(self) -> None:
        """Has the next run begin with the first element in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The ring of a layout that is gone, with records that this version can read."""

    instance: int
    ring: Ring
    folder: Path


@dataclass(slots=True, kw_only=True)
class KernelSide:
    """What is loaded: maps and programs by name, and the memory shared with them."""

    plan: str
    losses: tuple[str, ...]
    """What the plan does not see on this machine; see `Plan.losses`."""
    hooks: tuple[str, ...]
    """Names of the programs that are attached."""
    adopted: bool
    """Counts were taken over that an earlier process has left."""
    generation: int
    """What `control.active` is while these programs count; never 0."""
    instance: int
    """Of the ring, see `pins.instance_of`."""
    maps: Mapping[str, BpfMap]
    """At least counters, watched_devices and new_cgroups, as ebpf/maps.h defines them; flows and
    fallback, whose sizes are asked for."""
    iterators: Mapping[str, Runnable]
    """All of ITERATORS."""
    links: object
    """What stays attached as long as it is kept."""
    programs: Mapping[str, int]
    """Descriptors, for their statistics."""
    control: Control
    ring: Ring
    folder: Path | None
    """Where the programs are pinned; None where they end with this process."""
    missed_calls: Callable[[], int]
    """How many calls, so far, the kernel has not handed to a program that counts."""
    detach: Callable[[], None] = lambda: None
    """Takes out of the kernel what would outlive this process without being pinned."""
    refused_plans: tuple[tuple[str, str], ...] = ()
    """Better plans that this machine does not take, and why."""
    rests: list[Rest] = field(default_factory=list)
    """Rings of earlier layouts, to be read first."""
    records_lost: int = 0
    """That an earlier layout held and nobody can read any more."""
    idle_seconds: float = 0.0
    """In which nothing was counted at the most, since nobody had read for the linger time."""

    def wake(self) -> bool:
        """Has programs that don't count yet, or no more, count; false where some do.

        What passed on a socket before is not counted then. To be called before `control.beat()`.
        """
        if self.control.active:
            return False
        self.idle_seconds += self.control.idle_seconds()
        # Before they count, so that TCP's position is known for each socket; and once more for
        # those that are opened meanwhile.
        self.find_existing()
        self.control.active = self.generation
        self.control.raise_dirty()
        self.find_existing()
        return True

    def find_existing(self) -> None:
        """Finds the processes and sockets that there are."""
        for name in ("find_processes", "find_sockets", "find_unseen"):
            self.iterators[name].run()
