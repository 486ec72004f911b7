"""Looks at this machine for `doctor`, one requirement after the other."""

import platform
from collections.abc import Callable
from pathlib import Path

from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.sensor import mounts, requirements
from picosnitch_exporter.sensor.choice import Choice, all_plans
from picosnitch_exporter.sensor.fanotify import Fanotify
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.plan import Plan
from picosnitch_exporter.sensor.requirements import Finding, State
from picosnitch_exporter.settings import BpfSettings

_MACHINES = {"x86_64", "aarch64"}
"""That the tests have run on."""


def check(settings: BpfSettings) -> tuple[Finding, ...]:
    """Looks at this machine; loads the BPF programs once, without attaching them."""
    checks: dict[str, Callable[[], Finding]] = {
        "kernel": _kernel,
        "capabilities": requirements.require_capabilities,
        "processes": requirements.require_host_processes,
        "btf": _btf,
        "hooks": lambda: _hooks(settings),
        "cgroup": _cgroup,
        "fanotify": _fanotify,
        "bpf_stats": _statistics,
    }
    return tuple(_guarded(name, look) for name, look in checks.items())


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except PicosnitchError as error:
        found, _newline, rest = str(error).partition("\n")
        return Finding(name=name, state=State.FAILED, found=found, remedy=rest.strip())
    except OSError as error:
        return Finding(name=name, state=State.FAILED, found=error.strerror or str(error))


def _kernel() -> Finding:
    machine = platform.machine()
    is_tried = machine in _MACHINES
    return Finding(
        name="kernel",
        state=State.OK if is_tried else State.WARNING,
        found=f"Linux {platform.release()} on {machine}{'' if is_tried else ', never tried'}",
    )


def _btf() -> Finding:
    if requirements.BTF.exists():
        return Finding(name="btf", state=State.OK, found=str(requirements.BTF))
    return Finding(name="btf", state=State.WARNING, found=f"{requirements.BTF} is missing")


def _hooks(settings: BpfSettings) -> Finding:
    choice = Choice(settings.plan, all_plans(Library(), settings))
    plan = choice.first(_prove)
    hooks = ", ".join(hook.program for hook in plan.hooks)
    refused = "".join(f"; not {name}: {reason}" for name, reason in choice.reasons())
    lost = "".join(f"; not counted: {loss}" for loss in plan.losses())
    return Finding(
        name="hooks",
        state=State.WARNING if lost else State.OK,
        found=f"plan {plan.name}: {hooks}{refused}{lost}",
    )


def _prove(plan: Plan) -> Plan:
    plan.prove()
    return plan


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
