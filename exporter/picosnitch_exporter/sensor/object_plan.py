"""The plans of the built BPF object: which of its programs are loaded is all that they differ in.

What is attached is pinned (see `pins`). Two sets of programs can be attached to the same maps;
`control.active` says which one counts, so one store replaces the old programs by the new, also
those of one plan by those of another.
"""

import contextlib
import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts
from picosnitch_exporter.sensor.bpf import BpfLink, BpfMap, BpfObject
from picosnitch_exporter.sensor.btf import KernelNames
from picosnitch_exporter.sensor.cgroups import cgroup1_hierarchy
from picosnitch_exporter.sensor.control import SIZE as CONTROL_BYTES
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.kernel_side import ITERATORS, KernelSide
from picosnitch_exporter.sensor.libbpf import Library, missed_runs
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.object_hooks import Programs
from picosnitch_exporter.sensor.pins import RING, Pins, instance_of
from picosnitch_exporter.sensor.plan import MAPS, Hook, Target
from picosnitch_exporter.sensor.requirements import require_btf
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.wire import WIRE_VERSION

_log = logging.getLogger(__name__)

PAGE_BYTES = 4096
_CONSTANTS = struct.Struct("=IIIII")
"""generation; cgroup1.controller and .hierarchy; unseen_vsock; notes_by_thread: see ebpf/maps.h."""
_NOTES_PROBE = "probe_notes"
_NOTE_HOOK = "sendmsg4"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attached:
    """A set of programs, and the maps that they count in."""

    build: str
    hooks: tuple[Hook, ...]
    maps: dict[str, BpfMap]
    links: dict[str, BpfLink]
    programs: dict[str, int]


class ObjectPlan:
    """A plan of the built object; see `plan.Plan`."""

    def __init__(
        self, programs: Programs, *, library: Library, names: KernelNames, ring_pages: int
    ) -> None:
        self.name = programs.plan
        self.hooks = tuple(hook for hook in programs.hooks if names.has(hook))
        """Those for which this kernel has something to attach to."""
        self._lacking = tuple(hook for hook in programs.hooks if not names.has(hook))
        self._blind_beside = programs.blind_beside
        self._is_blind = programs.blind_beside in names.functions
        self._library = library
        self._ring_pages = ring_pages

    def require(self) -> None:
        """BTF of the running kernel, the tracepoints and the functions.

        Raises
        ------
        RequirementError
            if there is none, or the kernel is too old for one.
        """
        require_btf()
        if self._is_blind:
            raise RequirementError(
                f"kernel {os.uname().release} sends files by {self._blind_beside}, which the plan "
                f"{self.name} does not see: Linux 6.5 or newer is needed for it"
            )
        for hook in self._lacking:
            if hook.loss is None:
                raise RequirementError(
                    f"kernel {os.uname().release} lacks the {hook.target.value} {hook.attached_to} "
                    f"({hook.purpose}): Linux {hook.minimum_kernel} or newer is needed"
                )

    def losses(self) -> tuple[str, ...]:
        """What the functions would count that this kernel lacks."""
        return tuple(dict.fromkeys(hook.loss for hook in self._lacking if hook.loss))

    def prove(self) -> None:
        """Has the verifier check every program.

        Raises
        ------
        KernelError
            with what it said.
        """
        with BpfObject(self._library, *read_object()) as bpf:
            self._prepare(bpf, self.hooks, generation=1)
            bpf.load()

    def start(self, root: Path | None) -> KernelSide:
        """Takes over what is pinned, or loads and attaches anew.

        Raises
        ------
        KernelError
            if the kernel refuses something.
        """
        image, source = read_object()
        hooks = self.hooks
        programs = tuple(hook.program for hook in hooks)
        # Each plan, and programs on rings of two sizes, are sets with a generation of their own.
        made_of = f"{WIRE_VERSION}-{self._ring_pages}-{self.name}-{programs}".encode()
        # 32 bits tell builds apart by whichever sum, and OpenSSL would stay with this process.
        build = f"{zlib.crc32(image + made_of):08x}"
        pins = Pins(self._library, root, ring_pages=self._ring_pages) if root else None
        adopted = self._adopt(pins, build, hooks) if pins else None
        if adopted:
            return adopted
        with BpfObject(self._library, image, source) as bpf:
            self._prepare(bpf, hooks, generation=_generation(build))
            return self._load(bpf, pins, build, hooks)

    def _adopt(self, pins: Pins, build: str, hooks: tuple[Hook, ...]) -> KernelSide | None:
        names = tuple(hook.program for hook in hooks)
        if not pins.has_programs(build, names):
            return None
        maps = pins.maps()
        if not maps:
            return None
        try:
            links = pins.links(build, names)
            programs = pins.programs(build, names)
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(pins.folder), "error": str(error)}))
            return None
        attached = _Attached(build=build, hooks=hooks, maps=maps, links=links, programs=programs)
        return self._side(pins, attached, adopted=True)

    def _load(
        self, bpf: BpfObject, pins: Pins | None, build: str, hooks: tuple[Hook, ...]
    ) -> KernelSide:
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
        links = _attach(bpf, hooks)
        programs = {hook.program: bpf.program_descriptor(hook.program) for hook in hooks}
        if pins:
            pins.keep_programs(build, links, programs)
        attached = _Attached(build=build, hooks=hooks, maps=maps, links=links, programs=programs)
        return self._side(pins, attached, adopted=bool(kept))

    def _prepare(self, bpf: BpfObject, hooks: tuple[Hook, ...], *, generation: int) -> None:
        """Settles all that has to be before the load."""
        programs = [hook.program for hook in hooks]
        notes_by_thread = _NOTE_HOOK in programs and not self._loads(_NOTES_PROBE)
        if not notes_by_thread:
            bpf.set_max_entries("thread_peers", 1)
        bpf.set_max_entries(RING, self._ring_bytes)
        constants = (generation, *cgroup1_hierarchy(), not _sees_vsock(hooks), notes_by_thread)
        bpf.set_constant(".rodata", _CONSTANTS.pack(*constants))
        bpf.load_only(programs)

    def _loads(self, program: str) -> bool:
        with BpfObject(self._library, *read_object()) as bpf:
            bpf.load_only([program])
            try:
                bpf.load()
            except KernelError:
                return False
            return True

    @property
    def _ring_bytes(self) -> int:
        return self._ring_pages * PAGE_BYTES

    def _side(self, pins: Pins | None, attached: _Attached, *, adopted: bool) -> KernelSide:
        maps, links, programs = attached.maps, attached.links, attached.programs
        counting = [programs[hook.program] for hook in attached.hooks if hook.counts]
        return KernelSide(
            plan=self.name,
            losses=self.losses(),
            hooks=tuple(programs),
            adopted=adopted,
            generation=_generation(attached.build),
            instance=instance_of(maps[RING]),
            maps=maps,
            links=links,
            iterators={name: links[name] for name in ITERATORS},
            programs=programs,
            control=Control(maps[".bss"].map_memory(CONTROL_BYTES)),
            ring=Ring(maps[RING].descriptor, self._ring_bytes),
            folder=pins.folder / attached.build if pins else None,
            missed_calls=lambda: sum(missed_runs(self._library, one) for one in counting),
        )


def _attach(bpf: BpfObject, hooks: tuple[Hook, ...]) -> dict[str, BpfLink]:
    with contextlib.ExitStack() as stack:
        cgroup = os.open(mounts.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, cgroup)
        links: dict[str, BpfLink] = {}
        # So that nothing of a plan that is refused stays attached beside the next one.
        attached = stack.enter_context(contextlib.ExitStack())
        for hook in hooks:
            link = links[hook.program] = _attach_one(bpf, hook, cgroup)
            attached.callback(link.close)
        attached.pop_all()
        return links


def _sees_vsock(hooks: tuple[Hook, ...]) -> bool:
    """The tracepoints see every family."""
    return all(hook.target is not Target.FUNCTION for hook in hooks) or any(
        hook.module == "vsock" for hook in hooks
    )


def _generation(build: str) -> int:
    """Of a set of programs: never 0, and the same in every process that knows the build."""
    return int(build, 16) | 1


def _attach_one(bpf: BpfObject, hook: Hook, cgroup: int) -> BpfLink:
    match hook.target:
        case Target.TRACEPOINT | Target.FUNCTION:
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
        case _:
            raise ValueError(hook.target)


def _reusable_maps(bpf: BpfObject, pins: Pins) -> dict[str, BpfMap]:
    for found in (pins.maps(), pins.maps_of_another_ring()):
        if found and all(bpf.fits(existing) for existing in found.values()):
            return found
    return {}
