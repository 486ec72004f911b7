"""What the running kernel's types say of itself: which tracepoints and functions it has."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.plan import Hook, Target

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_TYPEDEF, _FUNCTION = 8, 12
"""BTF_KIND_TYPEDEF and BTF_KIND_FUNC in include/uapi/linux/btf.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelNames:
    """Names to which programs can be attached; those of modules only while they are loaded."""

    tracepoints: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()

    def has(self, hook: Hook) -> bool:
        """Whether a hook's program has something to be attached to."""
        match hook.target:
            case Target.TRACEPOINT:
                return hook.attached_to in self.tracepoints
            case Target.FUNCTION:
                return hook.attached_to in self.functions
            case _:
                return True


def look_up(library: Library, hooks: Iterable[Hook]) -> KernelNames:
    """Which of the hooks' tracepoints and functions there are.

    Reads the 5 MB of the kernel's types once, and keeps nothing of them.
    """
    wanted = list(hooks)
    tracepoints = {hook.attached_to for hook in wanted if hook.target is Target.TRACEPOINT}
    functions = {hook.attached_to for hook in wanted if hook.target is Target.FUNCTION}
    modules = {hook.module for hook in wanted if hook.module}
    loaded = {module for module in modules if VMLINUX.with_name(module).exists()}
    with library.kernel_types() as find:
        return KernelNames(
            # A tracepoint's type is called so: __DEFINE_EVENT in include/trace/bpf_probe.h.
            tracepoints=frozenset(
                name for name in tracepoints if find(f"btf_trace_{name}", _TYPEDEF)
            ),
            functions=frozenset(name for name in functions if find(name, _FUNCTION)).union(
                hook.attached_to for hook in wanted if hook.module in loaded
            ),
        )
