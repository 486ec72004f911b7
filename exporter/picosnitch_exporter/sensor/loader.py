"""Loads, attaches and pins the BPF programs, or takes over those that are pinned.

Layout in bpffs, below `bpf.pin_path`::

    v1-64/                  wire version and ring pages: what the maps look like
        maps/flows ...      kept over restarts and over upgrades that don't change them
        3f2a90c1/           first digits of the object's SHA-256: one set of programs
            link_sendmsg4 ...
            prog_sendmsg4 ...

Two sets of programs can be attached to the same maps; `control.active` says which one counts, so
one store replaces the old programs by the new.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts, requirements
from picosnitch_exporter.sensor.cgroups import cgroup1_hierarchy
from picosnitch_exporter.sensor.control import SIZE as CONTROL_BYTES
from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.sensor.libbpf import (
    BpfLink,
    BpfMap,
    BpfObject,
    Library,
    get_pinned,
    pin,
)
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.plan import MAPS, TRACEPOINT_PLAN, Hook, Target
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.settings import BpfSettings
from picosnitch_exporter.wire import WIRE_VERSION

_log = logging.getLogger(__name__)

PAGE_BYTES = 4096
_CONSTANTS = struct.Struct("=III")
"""generation; cgroup1.controller and .hierarchy, as ebpf/maps.h defines them."""
_FLOW_IDLE_ROUNDS = 4
"""Of 15 s each, see drain.EXPIRE_SECONDS."""


@dataclass(slots=True, kw_only=True)
class KernelSide:
    """What is loaded: maps, links and programs by name, and the memory shared with them."""

    plan: str
    adopted: bool
    was_idle: bool
    maps: dict[str, BpfMap]
    links: dict[str, BpfLink]
    programs: dict[str, int]
    """Descriptors, for their statistics."""
    control: Control
    ring: Ring
    folder: Path | None
    """Where all of it is pinned; None where bpffs can't be had."""


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
        requirements.require_btf()
        self._library = Library()
        requirements.require_tracepoints(self._library)
        self._image, self._source = read_object()
        self._build = hashlib.sha256(self._image).hexdigest()[:8]
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
        folder = root / f"v{WIRE_VERSION}-{self._settings.ring_buffer_pages}" if root else None
        side = self._adopt(folder) if folder else None
        if side is None:
            side = self._load(folder)
        if root and folder:
            self._remove_others(root, folder)
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

    def _adopt(self, folder: Path) -> KernelSide | None:
        programs = folder / self._build
        names = [hook.program for hook in TRACEPOINT_PLAN]
        if not all((programs / f"link_{name}").exists() for name in names):
            return None
        try:
            maps = self._pinned_maps(folder)
            links = {
                name: BpfLink(
                    self._library, name, get_pinned(self._library, programs / f"link_{name}")
                )
                for name in names
            }
            descriptors = {
                name: get_pinned(self._library, programs / f"prog_{name}") for name in names
            }
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(folder), "error": str(error)}))
            return None
        control = Control(maps[".bss"].map_memory(CONTROL_BYTES))
        if not control.instance:
            return None
        was_idle = not control.active
        side = KernelSide(
            plan="tracepoint",
            adopted=True,
            was_idle=was_idle,
            maps=maps,
            links=links,
            programs=descriptors,
            control=control,
            ring=Ring(maps["records"].descriptor, self._ring_bytes),
            folder=folder,
        )
        self._configure(control)
        control.active = self._generation
        if was_idle:
            self._find_existing(links)
        return side

    @property
    def _generation(self) -> int:
        """Of this build's programs: never 0, and the same in every process that knows the build."""
        return int(self._build, 16) | 1

    def _load(self, folder: Path | None) -> KernelSide:
        with BpfObject(self._library, self._image, self._source) as bpf:
            bpf.set_max_entries("records", self._ring_bytes)
            bpf.set_constant(".rodata", _CONSTANTS.pack(self._generation, *cgroup1_hierarchy()))
            kept = self._reusable_maps(folder) if folder else {}
            for existing in kept.values():
                bpf.reuse(existing)
            bpf.load()
            maps = {name: bpf.map(name) for name in MAPS}
            control = Control(maps[".bss"].map_memory(CONTROL_BYTES))
            if not control.instance:
                control.instance = secrets.randbits(63) | 1
            if folder and not kept:
                self._pin_maps(folder, maps)
            self._configure(control)
            links = self._attach(bpf)
            descriptors = {
                hook.program: bpf.program_descriptor(hook.program) for hook in TRACEPOINT_PLAN
            }
        if folder:
            self._pin_programs(folder / self._build, links, descriptors)
        was_idle = bool(kept) and not control.active
        # Sockets and processes that exist are found before the programs count, so that TCP's
        # position is known for each socket, and once more afterwards for those opened meanwhile.
        if not kept:
            self._find_existing(links)
        control.active = self._generation
        self._find_existing(links)
        return KernelSide(
            plan="tracepoint",
            adopted=bool(kept),
            was_idle=was_idle,
            maps=maps,
            links=links,
            programs=descriptors,
            control=control,
            ring=Ring(maps["records"].descriptor, self._ring_bytes),
            folder=folder,
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

    def _find_existing(self, links: dict[str, BpfLink]) -> None:
        links["find_processes"].run_iterator()
        links["find_sockets"].run_iterator()
        links["find_unseen"].run_iterator()

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

    def _pinned_maps(self, folder: Path) -> dict[str, BpfMap]:
        return {
            name: BpfMap(
                self._library, name, get_pinned(self._library, folder / "maps" / name.strip("."))
            )
            for name in MAPS
        }

    def _reusable_maps(self, folder: Path) -> dict[str, BpfMap]:
        if not (folder / "maps").exists():
            return {}
        try:
            return self._pinned_maps(folder)
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(folder), "error": str(error)}))
            shutil.rmtree(folder)
            return {}

    def _pin_maps(self, folder: Path, maps: dict[str, BpfMap]) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        (folder / "maps").mkdir(parents=True, mode=0o700)
        for name, bpf_map in maps.items():
            pin(self._library, bpf_map.descriptor, folder / "maps" / name.strip("."))

    def _pin_programs(
        self, folder: Path, links: dict[str, BpfLink], descriptors: dict[str, int]
    ) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, mode=0o700)
        for name, descriptor in descriptors.items():
            pin(self._library, descriptor, folder / f"prog_{name}")
        for name, link in links.items():
            pin(self._library, link.descriptor, folder / f"link_{name}")

    def _remove_others(self, root: Path, folder: Path) -> None:
        """Removes the programs of other builds, and the maps of other layouts."""
        for entry in sorted(folder.iterdir()):
            if entry.name not in {"maps", self._build}:
                shutil.rmtree(entry)
                _log.info(Event("programs_replaced", {"old": entry.name, "new": self._build}))
        for entry in sorted(root.iterdir()):
            if entry != folder:
                shutil.rmtree(entry)
                _log.warning(
                    Event(
                        "pins_removed",
                        {
                            "path": str(entry),
                            "meaning": "another layout; its unread records are lost",
                        },
                    )
                )

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
        remove_pins(root)
        return True


def remove_pins(root: Path) -> None:
    """Removes everything below and including `root` from bpffs."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)
