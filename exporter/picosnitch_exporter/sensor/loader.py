"""Loads, attaches and pins the BPF programs, or takes over those that are pinned (see `pins`).

Two sets of programs can be attached to the same maps; `control.active` says which one counts, so
one store replaces the old programs by the new.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts, requirements
from picosnitch_exporter.sensor.cgroups import cgroup1_hierarchy
from picosnitch_exporter.sensor.control import SIZE as CONTROL_BYTES
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.libbpf import BpfLink, BpfMap, BpfObject, Library
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.pins import RING, Pins, Rest, instance_of, remove
from picosnitch_exporter.sensor.plan import MAPS, TRACEPOINT_PLAN, Hook, Target
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.settings import BpfSettings
from picosnitch_exporter.wire import WIRE_VERSION

_log = logging.getLogger(__name__)

PAGE_BYTES = 4096
_CONSTANTS = struct.Struct("=III")
"""generation; cgroup1.controller and .hierarchy, as ebpf/maps.h defines them."""
_PROGRAMS = tuple(hook.program for hook in TRACEPOINT_PLAN)
_FLOW_IDLE_ROUNDS = 4
"""Of 15 s each, see drain.EXPIRE_SECONDS."""


@dataclass(slots=True, kw_only=True)
class KernelSide:
    """What is loaded: maps, links and programs by name, and the memory shared with them."""

    plan: str
    adopted: bool
    generation: int
    """What `control.active` is while these programs count."""
    instance: int
    """Of the ring."""
    maps: dict[str, BpfMap]
    links: dict[str, BpfLink]
    programs: dict[str, int]
    """Descriptors, for their statistics."""
    control: Control
    ring: Ring
    folder: Path | None
    """Where all of it is pinned; None where bpffs can't be had."""
    rests: list[Rest] = field(default_factory=list)
    """Rings of earlier layouts, to be read first."""
    records_lost: int = 0
    """That an earlier layout held and nobody can read any more."""
    idle_seconds: float = 0.0
    """In which nothing was counted at the most, since nobody had read for the linger time."""

    def wake(self) -> bool:
        """Has programs that don't count yet, or no more, count; false where some do.

        What passed on a socket before is not counted then. To be called before `control.beat()`.
        """
        if self.control.active:
            return False
        self.idle_seconds += self.control.idle_seconds()
        # Before they count, so that TCP's position is known for each socket; and once more for
        # those that are opened meanwhile.
        self.find_existing()
        self.control.active = self.generation
        self.control.raise_dirty()
        self.find_existing()
        return True

    def find_existing(self) -> None:
        """Finds the processes and sockets that there are."""
        for name in ("find_processes", "find_sockets", "find_unseen"):
            self.links[name].run_iterator()


class Loader:
    """Brings up the kernel side.

    Raises
    ------
    RequirementError
        if something is missing on this machine, or another exporter runs.
    KernelError
        if the kernel refuses what it should be able to do.
    """

    def __init__(self, settings: BpfSettings, *, every_exe: bool) -> None:
        self._settings = settings
        self._every_exe = every_exe
        if settings.plan not in {"auto", "tracepoint"}:
            raise RequirementError(
                f"bpf.plan: {settings.plan} is not built yet, only tracepoint is: set it to auto"
            )
        requirements.require_capabilities()
        requirements.require_host_processes()
        requirements.require_btf()
        self._library = Library()
        requirements.require_tracepoints(self._library)
        self._image, self._source = read_object()
        # Programs on rings of two sizes are two sets, each with a generation of its own.
        layout = f"{WIRE_VERSION}-{settings.ring_buffer_pages}".encode()
        self._build = hashlib.sha256(self._image + layout).hexdigest()[:8]
        self._lock: int | None = None

    @property
    def library(self) -> Library:
        """The binding, for what else speaks to libbpf."""
        return self._library

    @property
    def _ring_bytes(self) -> int:
        return self._settings.ring_buffer_pages * PAGE_BYTES

    def start(self) -> KernelSide:
        """Takes over what is pinned, or loads and attaches anew."""
        root = self._open_root()
        if root is None:
            return self._load(None)
        pins = Pins(self._library, root, ring_pages=self._settings.ring_buffer_pages)
        side = self._adopt(pins) or self._load(pins)
        side.rests, side.records_lost = pins.retire_others(self._build, side.maps)
        return side

    def _open_root(self) -> Path | None:
        """The folder of all pins, locked; None where there is no bpffs to be had."""
        root = self._settings.pin_path
        try:
            mounts.ensure_bpffs(root)
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            _log.warning(
                Event(
                    "pins_unavailable",
                    {
                        "path": str(root),
                        "error": error.strerror,
                        "meaning": "counting stops with this process",
                    },
                )
            )
            return None
        self._lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = Procfs().lock_holder(self._lock)
            raise RequirementError(
                f"another picosnitch-exporter runs with the same pins ({root}): "
                f"{f'process {holder}' if holder else 'its process is not visible here'}; "
                "stop it first"
            ) from error
        return root

    def _adopt(self, pins: Pins) -> KernelSide | None:
        if not pins.has_programs(self._build, _PROGRAMS):
            return None
        maps = pins.maps()
        if not maps:
            return None
        try:
            links = pins.links(self._build, _PROGRAMS)
            programs = pins.programs(self._build, _PROGRAMS)
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(pins.folder), "error": str(error)}))
            return None
        side = self._side(pins, maps, links, programs, adopted=True)
        self._take_over(side)
        return side

    @property
    def _generation(self) -> int:
        """Of these programs: never 0, and the same in every process that knows the build."""
        return int(self._build, 16) | 1

    def _load(self, pins: Pins | None) -> KernelSide:
        with BpfObject(self._library, self._image, self._source) as bpf:
            bpf.set_max_entries(RING, self._ring_bytes)
            bpf.set_constant(".rodata", _CONSTANTS.pack(self._generation, *cgroup1_hierarchy()))
            kept = self._reusable_maps(bpf, pins) if pins else {}
            for existing in kept.values():
                bpf.reuse(existing)
            bpf.load()
            maps = {name: bpf.map(name) for name in MAPS}
            if pins and RING not in kept:
                pins.keep_maps(maps)
            if pins:
                # Left over from a start that was killed: they would count beside the new ones.
                pins.remove_programs(self._build)
            links = self._attach(bpf)
            programs = {name: bpf.program_descriptor(name) for name in _PROGRAMS}
        if pins:
            pins.keep_programs(self._build, links, programs)
        side = self._side(pins, maps, links, programs, adopted=bool(kept))
        self._take_over(side)
        # For what was opened while the programs were loaded.
        side.find_existing()
        return side

    def _take_over(self, side: KernelSide) -> None:
        if not side.wake():
            # The store that lets these programs count, and those of another build no more.
            side.control.active = side.generation
        self._configure(side.control)

    def _side(
        self,
        pins: Pins | None,
        maps: dict[str, BpfMap],
        links: dict[str, BpfLink],
        programs: dict[str, int],
        *,
        adopted: bool,
    ) -> KernelSide:
        return KernelSide(
            plan="tracepoint",
            adopted=adopted,
            generation=self._generation,
            instance=instance_of(maps[RING]),
            maps=maps,
            links=links,
            programs=programs,
            control=Control(maps[".bss"].map_memory(CONTROL_BYTES)),
            ring=Ring(maps[RING].descriptor, self._ring_bytes),
            folder=pins.folder if pins else None,
        )

    def _configure(self, control: Control) -> None:
        control.configure(
            linger_seconds=self._settings.linger_seconds,
            every_exe=self._every_exe,
            count_bytes=self._settings.bandwidth,
            flow_idle_rounds=_FLOW_IDLE_ROUNDS,
            wakeup_bytes=self._ring_bytes // 4,
        )
        control.beat()
        control.raise_dirty()

    def _attach(self, bpf: BpfObject) -> dict[str, BpfLink]:
        with contextlib.ExitStack() as stack:
            cgroup = os.open(mounts.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, cgroup)
            return {hook.program: self._attach_one(bpf, hook, cgroup) for hook in TRACEPOINT_PLAN}

    def _attach_one(self, bpf: BpfObject, hook: Hook, cgroup: int) -> BpfLink:
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

    def _reusable_maps(self, bpf: BpfObject, pins: Pins) -> dict[str, BpfMap]:
        for found in (pins.maps(), pins.maps_of_another_ring()):
            if found and all(bpf.fits(existing) for existing in found.values()):
                return found
        return {}

    def detach(self) -> bool:
        """Removes every pin, and with that the programs. True if there were any.

        Raises
        ------
        RequirementError
            if an exporter is running with them.
        """
        root = self._settings.pin_path
        if not root.exists():
            return False
        self._open_root()
        remove(root)
        return True
