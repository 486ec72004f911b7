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
    CGROUP = "cgroup"
    ITERATOR = "iterator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One program; `over` is the map that an iterator iterates over."""

    program: str
    target: Target
    over: str = ""
    minimum_kernel: str
    purpose: str


class Plan(Protocol):
    """A way of counting. Making one looks at nothing yet."""

    @property
    def name(self) -> str:
        """As `bpf.plan` and the metrics call it."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Its programs."""

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


def _tracepoint(program: str, minimum_kernel: str, purpose: str) -> Hook:
    return Hook(
        program=program,
        target=Target.TRACEPOINT,
        minimum_kernel=minimum_kernel,
        purpose=purpose,
    )


def _cgroup(program: str, minimum_kernel: str, purpose: str) -> Hook:
    return Hook(
        program=program, target=Target.CGROUP, minimum_kernel=minimum_kernel, purpose=purpose
    )


def _iterator(program: str, over: str, purpose: str) -> Hook:
    return Hook(
        program=program,
        target=Target.ITERATOR,
        over=over,
        minimum_kernel="5.9",
        purpose=purpose,
    )


TRACEPOINT_PLAN = (
    _iterator("drain_sockets", "sockets", "report what sockets have counted"),
    _iterator("drain_flows", "flows", "report and expire flows"),
    _iterator("drain_fallback", "fallback", "report what found the ring full"),
    _iterator("find_processes", "", "processes from before the start"),
    _iterator("introduce_again", "processes", "processes that an earlier run was told of"),
    _iterator("find_sockets", "", "sockets from before the start"),
    _iterator("find_unseen", "", "sockets whose bytes no hook can see"),
    _tracepoint("sched_process_exec", "5.5", "command lines and executables at exec"),
    _tracepoint("cgroup_mkdir", "5.5", "names of cgroups, for containers"),
    _tracepoint("inet_sock_set_state", "5.5", "connects, accepts and failures of TCP"),
    _tracepoint("tcp_rcv_space_adjust", "5.5", "bytes received by TCP"),
    _tracepoint("sock_send_length", "6.3", "bytes sent"),
    _tracepoint("sock_recv_length", "6.3", "bytes received by all but TCP"),
    _cgroup("sendmsg4", "4.18", "peers of unconnected datagrams"),
    _cgroup("sendmsg6", "4.18", "peers of unconnected datagrams"),
    _cgroup("recvmsg4", "5.2", "peers of unconnected datagrams"),
    _cgroup("recvmsg6", "5.2", "peers of unconnected datagrams"),
    _tracepoint("skb_copy_datagram_iovec", "5.5", "peers of raw sockets that receive"),
    _cgroup("note_destination", "5.11", "peers of raw sockets that send"),
    _cgroup("connect4", "4.17", "connects that find no route"),
    _cgroup("connect6", "4.17", "connects that find no route"),
    _cgroup("sock_release", "5.9", "the last count of a socket"),
    _cgroup("dns_ingress", "5.11", "DNS answers, and peers of receives that don't ask for them"),
)
"""Iterators first: without them nothing that is counted could be read."""
