"""What the sensor gives up once it counts: all but reading what is open."""

import logging

from picosnitch_exporter import confinement, privileges
from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor.bpf import BpfMap

_log = logging.getLogger(__name__)

KEPT_CAPABILITIES = (
    privileges.CAP_SYS_PTRACE,  # /proc/PID/exe and /proc/PID/root of others
    privileges.CAP_DAC_READ_SEARCH,  # executables that only their owner may read
    privileges.CAP_KILL,  # to end an exporter process that is stuck, which has another user
)
"""Once everything is loaded, attached and marked; what is mounted later, `marker` marks."""


def apply(example: BpfMap) -> None:
    """Gives up capabilities and system calls, for good; what it can't is said in the log.

    `example` is one of the maps that will be read.

    Raises
    ------
    RequirementError
        if the kernel does not allow it to give up capabilities.
    """
    privileges.keep_only(*KEPT_CAPABILITIES, *_for_maps(example))
    try:
        confinement.refuse_calls(confinement.SENSOR)
    except confinement.UnconfinedError as error:
        _log.warning(Event("unconfined", {"mechanism": "seccomp", "reason": str(error)}))


def _for_maps(example: BpfMap) -> tuple[int, ...]:
    """What reading maps that are open takes as well.

    Nothing, but on kernels before 5.19 where kernel.unprivileged_bpf_disabled is set, as Ubuntu
    and Red Hat have it: there each call of bpf(2) wants CAP_BPF (c8644cd0efe7).
    """
    if privileges.works_without_any(example.info, KernelError):
        return ()
    if privileges.CAP_BPF in privileges.held():
        return (privileges.CAP_BPF,)
    _log.warning(
        Event(
            "capability_kept",
            {
                "capability": "CAP_SYS_ADMIN",
                "meaning": "this kernel wants CAP_BPF for reading maps: see docs/install.md",
            },
        )
    )
    return (privileges.CAP_SYS_ADMIN,)
