"""The plan bcc; see `plan.Plan`."""

import contextlib
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts
from picosnitch_exporter.sensor.bcc import binding, worker
from picosnitch_exporter.sensor.bcc.drains import (
    BLOCK_BYTES,
    Drain,
    DrainBlock,
    FlowDrain,
    Nothing,
    Trigger,
)
from picosnitch_exporter.sensor.bcc.hooks import HOOKS, LOSSES
from picosnitch_exporter.sensor.bcc.introductions import SLOTS_BYTES, Introductions
from picosnitch_exporter.sensor.bcc.kprobes import Kprobes, find_tracefs
from picosnitch_exporter.sensor.bpf import BpfLink, BpfMap
from picosnitch_exporter.sensor.cgroups import cgroup1_controller
from picosnitch_exporter.sensor.control import SIZE as CONTROL_BYTES
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.kernel_side import KernelSide, Runnable
from picosnitch_exporter.sensor.libbpf import Library, missed_runs
from picosnitch_exporter.sensor.pins import instance_of, remove
from picosnitch_exporter.sensor.plan import Target
from picosnitch_exporter.sensor.ring import Ring

_log = logging.getLogger(__name__)

_MODULES = Path("/lib/modules")
_HEADERS_IN_KERNEL = Path("/sys/kernel/kheaders.tar.xz")
_GENERATION = 1
_ATTACH_TYPES = {"find_answers": 0, "make_cookie": 2}
"""enum bpf_attach_type: BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_SOCK_CREATE."""


class BccPlan:
    """Kprobes, compiled on this machine."""

    name = "bcc"
    hooks = HOOKS

    def __init__(self, *, library: Library, ring_pages: int) -> None:
        self._library = library
        self._ring_pages = ring_pages

    def require(self) -> None:
        """The headers of the running kernel, its kprobes, and BCC.

        Raises
        ------
        RequirementError
            with the first that is missing.
        """
        binding.find()
        _require_headers(_MODULES, _HEADERS_IN_KERNEL)
        find_tracefs()

    def losses(self) -> tuple[str, ...]:
        """What the other plans see."""
        return LOSSES

    def prove(self) -> None:
        """Compiles, and has the verifier check every program.

        Raises
        ------
        PicosnitchError
            if something is refused.
        """
        worker.perform(worker.Job(text=_read_text(), flags=self._flags())).close()

    def start(self, root: Path | None) -> KernelSide:
        """Compiles, loads and attaches. Nothing is pinned below `root`; it is removed at the end.

        Raises
        ------
        PicosnitchError
            if something is refused; what was attached by then is detached again.
        """
        _log.info(Event("compiling", {"plan": self.name, "meaning": "takes some seconds"}))
        probes = Kprobes(find_tracefs(), pid=os.getpid())
        probes.remove_stale()
        with contextlib.ExitStack() as stack:
            stack.callback(probes.remove)
            events = _add_events(probes)
            loaded = worker.perform(
                worker.Job(text=_read_text(), flags=self._flags(), is_attached=True, events=events)
            )
            # Called before the events are removed, which have to be unused by then.
            stack.callback(loaded.close)
            side = self._side(loaded, probes, stack, root)
            stack.pop_all()
            return side

    def _flags(self) -> tuple[str, ...]:
        controller, hierarchy = cgroup1_controller()
        return (
            f"-DRING_PAGES={self._ring_pages}",
            f"-DCGROUP1_HIERARCHY={hierarchy}",
            *((f"-DCGROUP1_CONTROLLER={controller}_cgrp_id",) if controller else ()),
        )

    def _side(
        self,
        loaded: worker.Descriptors,
        probes: Kprobes,
        stack: contextlib.ExitStack,
        root: Path | None,
    ) -> KernelSide:
        maps = {name: BpfMap(self._library, name, fd) for name, fd in loaded.maps.items()}
        control = Control(maps["control_block"].map_memory(CONTROL_BYTES))
        block = DrainBlock(maps["drain"].map_memory(BLOCK_BYTES))
        links = self._attach_cgroup(loaded.programs, stack)
        records = maps["records"]

        def missed() -> int:
            recursions = sum(missed_runs(self._library, fd) for fd in loaded.programs.values())
            return probes.missed() + recursions + block.missed_calls

        return KernelSide(
            plan=self.name,
            losses=self.losses(),
            hooks=tuple(loaded.programs),
            adopted=False,
            generation=_GENERATION,
            instance=instance_of(records),
            maps=maps,
            links=(loaded, links),
            iterators=_iterators(loaded.programs, maps, control, block),
            programs=loaded.programs,
            control=control,
            ring=Ring(records.descriptor, records.info().max_entries),
            folder=None,
            missed_calls=missed,
            detach=_detach(loaded, links, probes, root),
        )

    def _attach_cgroup(
        self, programs: dict[str, int], stack: contextlib.ExitStack
    ) -> tuple[BpfLink, ...]:
        cgroup = os.open(mounts.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
        links = []
        try:
            for program, attach_type in _ATTACH_TYPES.items():
                link = BpfLink.to_cgroup(
                    self._library,
                    program,
                    programs[program],
                    cgroup=cgroup,
                    attach_type=attach_type,
                )
                stack.callback(link.close)
                links.append(link)
        finally:
            os.close(cgroup)
        return tuple(links)


def remove_leftovers() -> None:
    """Removes the probes that killed exporters have left, which count nothing."""
    with contextlib.suppress(RequirementError, OSError):
        probes = Kprobes(find_tracefs(), pid=os.getpid())
        probes.remove_stale()
        probes.close()


def _require_headers(modules: Path, in_kernel: Path) -> None:
    release = platform.release()
    build = modules / release / "build"
    if build.exists() or in_kernel.exists():
        return
    raise RequirementError(
        f"the headers of the running kernel are missing ({build}): "
        f"apt-get install linux-headers-{release} (elsewhere: the package kernel-devel)"
    )


def _read_text() -> str:
    return worker.source_of(Path(__file__).parents[1])


def _add_events(probes: Kprobes) -> tuple[tuple[str, str], ...]:
    """The kprobe events, with the program that is to be attached to each."""
    events = []
    for hook in HOOKS:
        if hook.target not in {Target.KPROBE, Target.KRETPROBE}:
            continue
        event = probes.add(
            hook.function, module=hook.module, at_return=hook.target is Target.KRETPROBE
        )
        if event is not None:
            events.append((hook.program, event))
        elif hook.loss is None:
            raise KernelError(
                f"kernel {platform.release()} has no function {hook.function} ({hook.purpose})"
            )
    return tuple(events)


def _iterators(
    programs: dict[str, int], maps: dict[str, BpfMap], control: Control, block: DrainBlock
) -> dict[str, Runnable]:
    triggers = {
        hook.program: Trigger(programs[hook.program])
        for hook in HOOKS
        if hook.target is Target.FILTER
    }
    return {
        "drain_sockets": Drain(triggers["drain_sockets"], block),
        "drain_flows": FlowDrain(
            triggers["drain_flows"], block, expire=triggers["expire_flows"], control=control
        ),
        "drain_fallback": Drain(triggers["drain_fallback"], block),
        "introduce_again": Introductions(maps["processes"].map_memory(SLOTS_BYTES), control),
        "find_processes": Nothing(),
        "find_sockets": Nothing(),
        "find_unseen": Nothing(),
    }


def _detach(
    loaded: worker.Descriptors, links: tuple[BpfLink, ...], probes: Kprobes, root: Path | None
) -> Callable[[], None]:
    def detach() -> None:
        for link in links:
            link.close()
        for descriptor in loaded.links:
            os.close(descriptor)
        probes.remove()
        if root:
            remove(root)

    return detach
