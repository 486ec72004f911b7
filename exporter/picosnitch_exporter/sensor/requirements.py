"""What the sensor needs of a machine whichever plan counts, and what `doctor` says of it."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.errors import RequirementError

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


def require_capabilities() -> Finding:
    """The capabilities that the sensor starts with.

    Raises
    ------
    RequirementError
        if one is missing.
    """
    held = privileges.held()
    missing = [name for name, number in _CAPABILITIES.items() if number not in held]
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
            f"kernel {os.uname().release} has no BTF ({BTF} is missing): "
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of Debian and Ubuntu are"
        )
    return Finding(name="btf", state=State.OK, found=str(BTF))
