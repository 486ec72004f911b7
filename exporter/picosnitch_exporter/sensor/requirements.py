"""What the sensor needs of a machine, each with its state and the command that mends it."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.errors import PicosnitchError, RequirementError
from picosnitch_exporter.sensor import mounts
from picosnitch_exporter.sensor.fanotify import Fanotify
from picosnitch_exporter.sensor.libbpf import BpfObject, Library
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.plan import TRACEPOINT_PLAN, Target

BTF = Path("/sys/kernel/btf/vmlinux")

_CAPABILITIES = {
    "CAP_SYS_ADMIN": privileges.CAP_SYS_ADMIN,
    "CAP_SYS_PTRACE": privileges.CAP_SYS_PTRACE,
    "CAP_DAC_READ_SEARCH": privileges.CAP_DAC_READ_SEARCH,
    "CAP_SETUID": privileges.CAP_SETUID,
    "CAP_SETGID": privileges.CAP_SETGID,
    "CAP_SETPCAP": privileges.CAP_SETPCAP,
    "CAP_CHOWN": privileges.CAP_CHOWN,
    "CAP_KILL": privileges.CAP_KILL,
}
"""What it starts with. BPF takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or CAP_SYS_ADMIN in place
of all three (bpf_token_capable() in kernel/bpf/token.c); fanotify's marks take that in any case."""

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO in include/linux/proc_ns.h."""


class State(StrEnum):
    """Whether a requirement is met."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One requirement: what was found and, where that is not enough, what to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


def check() -> tuple[Finding, ...]:
    """Looks at this machine; loads the BPF programs once, without attaching them."""
    return tuple(_guarded(name, look) for name, look in _CHECKS.items())


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except PicosnitchError as error:
        found, _newline, rest = str(error).partition("\n")
        return Finding(name=name, state=State.FAILED, found=found, remedy=rest.strip())
    except OSError as error:
        return Finding(name=name, state=State.FAILED, found=error.strerror or str(error))


def _kernel() -> Finding:
    return Finding(
        name="kernel",
        state=State.OK,
        found=f"Linux {platform.release()} on {platform.machine()}",
    )


def require_capabilities() -> Finding:
    """The capabilities that the sensor starts with.

    Raises
    ------
    RequirementError
        if one is missing.
    """
    held = 0
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise RequirementError(
            f"not enough privileges, missing {', '.join(missing)}: "
            "run it as root (sudo picosnitch-exporter run), or add them where the unit or the pod "
            "lists capabilities (docs/install.md)"
        )
    return Finding(name="capabilities", state=State.OK, found="all that are needed")


def require_host_processes() -> Finding:
    """The host's process numbers, which the kernel side speaks of.

    Raises
    ------
    RequirementError
        in a PID namespace of its own.
    """
    own = Path("/proc/self/ns/pid").stat().st_ino
    if own != _FIRST_PID_NAMESPACE:
        raise RequirementError(
            "it runs in a PID namespace of its own, where processes have other numbers: "
            "share the host's (docker run --pid=host, in a pod hostPID: true)"
        )
    return Finding(name="processes", state=State.OK, found="those of the host")


def require_btf() -> Finding:
    """BTF of the running kernel.

    Raises
    ------
    RequirementError
        if there is none.
    """
    if not BTF.exists():
        raise RequirementError(
            f"kernel {platform.release()} has no BTF ({BTF} is missing): "
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of Debian and Ubuntu are"
        )
    return Finding(name="btf", state=State.OK, found=str(BTF))


def require_tracepoints(library: Library) -> Finding:
    """The tracepoints of the plan.

    Raises
    ------
    RequirementError
        if the kernel is too old for one.
    """
    for hook in TRACEPOINT_PLAN:
        if hook.target is Target.TRACEPOINT and not library.has_tracepoint(hook.program):
            raise RequirementError(
                f"kernel {platform.release()} lacks the tracepoint {hook.program} "
                f"({hook.purpose}): Linux {hook.minimum_kernel} or newer is needed"
            )
    return Finding(name="tracepoints", state=State.OK, found="all that are needed")


def _tracepoints() -> Finding:
    return require_tracepoints(Library())


def _hooks() -> Finding:
    library = Library()
    image, source = read_object()
    with BpfObject(library, image, source) as bpf:
        bpf.load()
    hooks = [hook.program for hook in TRACEPOINT_PLAN]
    return Finding(name="hooks", state=State.OK, found=f"plan tracepoint: {', '.join(hooks)}")


def _cgroup() -> Finding:
    return Finding(name="cgroup", state=State.OK, found=f"v2 at {mounts.cgroup2_root()}")


def _fanotify() -> Finding:
    Fanotify().close()
    return Finding(name="fanotify", state=State.OK, found="exec events are available")


def _statistics() -> Finding:
    path = Path("/proc/sys/kernel/bpf_stats_enabled")
    is_on = path.exists() and path.read_text("ascii").strip() == "1"
    found = "on" if is_on else "off: picosnitch_exporter_bpf_program_* stay at 0"
    return Finding(name="bpf_stats", state=State.OK, found=found)


_CHECKS: dict[str, Callable[[], Finding]] = {
    "kernel": _kernel,
    "capabilities": require_capabilities,
    "processes": require_host_processes,
    "btf": require_btf,
    "tracepoints": _tracepoints,
    "hooks": _hooks,
    "cgroup": _cgroup,
    "fanotify": _fanotify,
    "bpf_stats": _statistics,
}
