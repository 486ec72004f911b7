"""What a plan is: a way of counting, with the programs that it attaches.

All plans speak the same wire records and share everything behind a `KernelSide`.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from picosnitch_exporter.sensor.kernel_side import KernelSide

MAPS = (
    "sockets",
    "flows",
    "fallback",
    "records",
    "processes",
    "peers",
    "watched_devices",
    "counters",
    "scratch",
    "cgroup_scratch",
    "new_cgroups",
    ".bss",
)


class Target(Enum):
    """What a program is attached to."""

    TRACEPOINT = "tracepoint"
    FUNCTION = "function"
    CGROUP = "cgroup"
    ITERATOR = "iterator"
    KPROBE = "kprobe"
    KRETPROBE = "kretprobe"
    RAW_TRACEPOINT = "raw tracepoint"
    FILTER = "socket filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One program.

    over: the map that an iterator iterates over.
    function: where a program of Target.FUNCTION is attached, if it is not called so itself.
    module: of the kernel, which may have the function.
    loss: what is not counted on a kernel without the function; None where the plan needs it.
    counts: bytes are lost where the kernel misses a call of it.
    """

    program: str
    target: Target
    minimum_kernel: str
    purpose: str
    over: str = ""
    function: str = ""
    module: str = ""
    loss: str | None = None
    counts: bool = False

    @property
    def attached_to(self) -> str:
        """What it is attached to, as the kernel calls it."""
        return self.function or self.program


class Plan(Protocol):
    """A way of counting."""

    @property
    def name(self) -> str:
        """As `bpf.plan` and the metrics call it."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Its programs, as far as this kernel has something to attach them to."""

    def require(self) -> None:
        """Sees, without loading anything, whether the machine has what it takes.

        Raises
        ------
        RequirementError
            with the first thing that is missing, and the command or kernel that brings it.
        """

    def prove(self) -> None:
        """Loads everything once, without attaching it.

        Raises
        ------
        PicosnitchError
            if something is refused.
        """

    def losses(self) -> tuple[str, ...]:
        """What this plan does not see on this machine and another one would; in a few words each.

        To be asked after `require()`.
        """

    def start(self, root: Path | None) -> KernelSide:
        """Takes over what is pinned below `root`, or loads and attaches anew.

        `root` exists and is locked for this process; without one nothing can be pinned. Unless the
        programs were taken over they are attached and don't count yet, and those of another plan or
        version may still do: whoever calls this switches over, and retires those.

        Raises
        ------
        PicosnitchError
            if something is refused; what was attached by then is detached again.
        """
