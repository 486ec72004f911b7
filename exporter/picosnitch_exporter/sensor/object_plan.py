"""The plans of the built BPF object: which of its programs are loaded is all that they differ in.

What is attached is pinned (see `pins`). Two sets of programs can be attached to the same maps;
`control.active` says which one counts, so one store replaces the old programs by the new, also
those of one plan by those of another.
"""

import contextlib
import hashlib
import logging
import os
import platform
import struct
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts
from picosnitch_exporter.sensor.bpf import BpfLink, BpfMap, BpfObject
from picosnitch_exporter.sensor.cgroups import cgroup1_hierarchy
from picosnitch_exporter.sensor.control import SIZE as CONTROL_BYTES
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.kernel_side import ITERATORS, KernelSide
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.pins import RING, Pins, instance_of
from picosnitch_exporter.sensor.plan import MAPS, Hook, Target
from picosnitch_exporter.sensor.requirements import require_btf
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.wire import WIRE_VERSION

_log = logging.getLogger(__name__)

PAGE_BYTES = 4096
_CONSTANTS = struct.Struct("=III")
"""generation; cgroup1.controller and .hierarchy, as ebpf/maps.h defines them."""


class ObjectPlan:
    """A plan of the built object; see `plan.Plan`."""

    def __init__(
        self, name: str, hooks: tuple[Hook, ...], *, library: Library, ring_pages: int
    ) -> None:
        self.name = name
        self.hooks = hooks
        self._library = library
        self._ring_pages = ring_pages
        self._programs = tuple(hook.program for hook in hooks)

    def require(self) -> None:
        """BTF of the running kernel, and the tracepoints.

        Raises
        ------
        RequirementError
            if there is none, or the kernel is too old for one.
        """
        require_btf()
        for hook in self.hooks:
            if hook.target is Target.TRACEPOINT and not self._library.has_tracepoint(hook.program):
                raise RequirementError(
                    f"kernel {platform.release()} lacks the tracepoint {hook.program} "
                    f"({hook.purpose}): Linux {hook.minimum_kernel} or newer is needed"
                )

    def losses(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def prove(self) -> None:
        """Has the verifier check every program.

        Raises
        ------
        KernelError
            with what it said.
        """
        with BpfObject(self._library, *read_object()) as bpf:
            bpf.load()

    def start(self, root: Path | None) -> KernelSide:
        """Takes over what is pinned, or loads and attaches anew.

        Raises
        ------
        KernelError
            if the kernel refuses something.
        """
        image, source = read_object()
        # Programs on rings of two sizes are two sets, each with a generation of its own.
        layout = f"{WIRE_VERSION}-{self._ring_pages}".encode()
        build = hashlib.sha256(image + layout).hexdigest()[:8]
        pins = Pins(self._library, root, ring_pages=self._ring_pages) if root else None
        adopted = self._adopt(pins, build) if pins else None
        if adopted:
            return adopted
        with BpfObject(self._library, image, source) as bpf:
            return self._load(bpf, pins, build)

    def _adopt(self, pins: Pins, build: str) -> KernelSide | None:
        if not pins.has_programs(build, self._programs):
            return None
        maps = pins.maps()
        if not maps:
            return None
        try:
            links = pins.links(build, self._programs)
            programs = pins.programs(build, self._programs)
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(pins.folder), "error": str(error)}))
            return None
        return self._side(pins, build, maps, links, programs, adopted=True)

    def _load(self, bpf: BpfObject, pins: Pins | None, build: str) -> KernelSide:
        bpf.set_max_entries(RING, self._ring_bytes)
        bpf.set_constant(".rodata", _CONSTANTS.pack(_generation(build), *cgroup1_hierarchy()))
        kept = _reusable_maps(bpf, pins) if pins else {}
        for existing in kept.values():
            bpf.reuse(existing)
        bpf.load()
        maps = {name: bpf.map(name) for name in MAPS}
        if pins and RING not in kept:
            pins.keep_maps(maps)
        if pins:
            # Left over from a start that was killed: they would count beside the new ones.
            pins.remove_programs(build)
        links = self._attach(bpf)
        programs = {name: bpf.program_descriptor(name) for name in self._programs}
        if pins:
            pins.keep_programs(build, links, programs)
        return self._side(pins, build, maps, links, programs, adopted=bool(kept))

    @property
    def _ring_bytes(self) -> int:
        return self._ring_pages * PAGE_BYTES

    def _side(  # noqa: PLR0913 - what a kernel side consists of
        self,
        pins: Pins | None,
        build: str,
        maps: dict[str, BpfMap],
        links: dict[str, BpfLink],
        programs: dict[str, int],
        *,
        adopted: bool,
    ) -> KernelSide:
        return KernelSide(
            plan=self.name,
            hooks=self._programs,
            adopted=adopted,
            generation=_generation(build),
            instance=instance_of(maps[RING]),
            maps=maps,
            links=links,
            iterators={name: links[name] for name in ITERATORS},
            programs=programs,
            control=Control(maps[".bss"].map_memory(CONTROL_BYTES)),
            ring=Ring(maps[RING].descriptor, self._ring_bytes),
            folder=pins.folder / build if pins else None,
        )

    def _attach(self, bpf: BpfObject) -> dict[str, BpfLink]:
        with contextlib.ExitStack() as stack:
            cgroup = os.open(mounts.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, cgroup)
            links: dict[str, BpfLink] = {}
            # So that nothing of a plan that is refused stays attached beside the next one.
            attached = stack.enter_context(contextlib.ExitStack())
            for hook in self.hooks:
                link = links[hook.program] = _attach_one(bpf, hook, cgroup)
                attached.callback(link.close)
            attached.pop_all()
            return links


def _generation(build: str) -> int:
    """Of a set of programs: never 0, and the same in every process that knows the build."""
    return int(build, 16) | 1


def _attach_one(bpf: BpfObject, hook: Hook, cgroup: int) -> BpfLink:
    match hook.target:
        case Target.TRACEPOINT:
            return bpf.attach(hook.program)
        case Target.CGROUP:
            return bpf.attach_cgroup(hook.program, cgroup)
        case Target.ITERATOR:
            over = bpf.map(hook.over) if hook.over else None
            try:
                return bpf.attach_iterator(hook.program, over)
            finally:
                if over:
                    os.close(over.descriptor)


def _reusable_maps(bpf: BpfObject, pins: Pins) -> dict[str, BpfMap]:
    for found in (pins.maps(), pins.maps_of_another_ring()):
        if found and all(bpf.fits(existing) for existing in found.values()):
            return found
    return {}
