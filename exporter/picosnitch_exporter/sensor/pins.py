"""What is pinned below `bpf.pin_path`, by layout: maps, and programs on them.

    v2-64/                  wire version and ring pages: what the maps look like
        maps/flows ...      kept over restarts, and over upgrades that don't change them
        3f2a90c1/           one set of programs
            link_sendmsg4 ...
            prog_sendmsg4 ...

With another ring size all maps but the ring are the same ones, pinned in two folders until what the
old ring holds is read. Source: kernel/bpf/inode.c (no dots in names; rename is allowed).
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor.bpf import BpfLink, BpfMap
from picosnitch_exporter.sensor.kernel_side import KernelSide, Rest
from picosnitch_exporter.sensor.libbpf import Library, get_pinned, pin
from picosnitch_exporter.sensor.plan import MAPS
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.wire import WIRE_VERSION, split_ring

_log = logging.getLogger(__name__)

RING = "records"
_FALLBACK_KEY_BYTES = 8
_LARGEST_INSTANCE = (1 << 63) - 1
"""What SQLite can hold."""


class Pins:
    """The folder of one layout."""

    def __init__(self, library: Library, root: Path, *, ring_pages: int) -> None:
        self._library = library
        self._root = root
        self.folder = root / f"v{WIRE_VERSION}-{ring_pages}"

    def maps(self) -> dict[str, BpfMap]:
        """The maps of this layout; none where they are missing or can't be used."""
        return self._maps(self.folder, MAPS)

    def maps_of_another_ring(self) -> dict[str, BpfMap]:
        """The maps of a layout that differs in its ring only, without that."""
        shared = tuple(name for name in MAPS if name != RING)
        for folder in _others(self._root, self.folder):
            maps = self._maps(folder, shared) if _is_readable(folder) else {}
            if maps:
                return maps
        return {}

    def has_programs(self, build: str, names: tuple[str, ...]) -> bool:
        """Whether a whole set of programs is pinned."""
        return all((self.folder / build / f"link_{name}").exists() for name in names)

    def links(self, build: str, names: tuple[str, ...]) -> dict[str, BpfLink]:
        """The links of a set of programs.

        Raises
        ------
        KernelError
            if one is missing.
        """
        library = self._library
        return {name: BpfLink(library, name, self._get(build, "link", name)) for name in names}

    def programs(self, build: str, names: tuple[str, ...]) -> dict[str, int]:
        """The descriptors of a set of programs.

        Raises
        ------
        KernelError
            if one is missing.
        """
        return {name: self._get(build, "prog", name) for name in names}

    def keep_maps(self, maps: dict[str, BpfMap]) -> None:
        """Pins maps, all of them or none."""
        unfinished = self.folder.with_name(f"{self.folder.name}-unfinished")
        remove(unfinished)
        (unfinished / "maps").mkdir(parents=True, mode=0o700)
        for name, bpf_map in maps.items():
            pin(self._library, bpf_map.descriptor, unfinished / "maps" / name.strip("."))
        if self.folder.exists():
            unfit = self.folder.with_name(f"{self.folder.name}-unfit")
            remove(unfit)
            self.folder.rename(unfit)
        unfinished.rename(self.folder)

    def keep_programs(
        self, build: str, links: dict[str, BpfLink], descriptors: dict[str, int]
    ) -> None:
        """Pins a set of programs."""
        folder = self.folder / build
        remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        for name, descriptor in descriptors.items():
            pin(self._library, descriptor, folder / f"prog_{name}")
        for name, link in links.items():
            pin(self._library, link.descriptor, folder / f"link_{name}")

    def remove_programs(self, build: str) -> None:
        """Ends one set of programs."""
        remove(self.folder / build)

    def _maps(self, folder: Path, names: tuple[str, ...]) -> dict[str, BpfMap]:
        if not (folder / "maps").exists():
            return {}
        try:
            return {name: _map(self._library, folder, name) for name in names}
        except KernelError as error:
            _log.warning(Event("pins_unusable", {"path": str(folder), "error": str(error)}))
            return {}

    def _get(self, build: str, kind: str, name: str) -> int:
        return get_pinned(self._library, self.folder / build / f"{kind}_{name}")


def retire_others(library: Library, root: Path, side: KernelSide) -> None:
    """Ends the programs of other plans, builds and layouts than those of `side`, which count now.

    Their rings become its rests, and what is lost its `records_lost`: the records, and connections
    that have ended, in layouts that this version can't read.
    """
    own = side.folder.parent if side.folder else None
    for entry in sorted(own.iterdir()) if own else ():
        if entry.name != "maps" and entry != side.folder:
            remove(entry)
            _log.info(Event("programs_replaced", {"old": entry.name, "new": str(side.folder)}))
    for folder in _others(root, own):
        for entry in folder.iterdir():
            if entry.name != "maps":
                remove(entry)
        # Programs of it that run on another CPU at this moment end within microseconds; the ring
        # is read much later.
        side.records_lost += _unread_fallback(library, folder, side.maps)
        ring = _ring_of(library, folder)
        if ring is not None and _is_readable(folder):
            for entry in (folder / "maps").iterdir():
                if entry.name != RING:
                    entry.unlink()
            side.rests.append(ring)
            continue
        if ring is not None:
            side.records_lost += _count_records(ring.ring)
        remove(folder)
        _log.warning(
            Event(
                "pins_removed",
                {
                    "path": str(folder),
                    "records_lost": side.records_lost,
                    "meaning": "another layout, which this version can't read; what was "
                    "counted since its last drain is lost as well",
                },
            )
        )


def _others(root: Path, own: Path | None) -> Iterator[Path]:
    for entry in sorted(root.iterdir()):
        if entry != own:
            yield entry


def _map(library: Library, folder: Path, name: str) -> BpfMap:
    return BpfMap(library, name, get_pinned(library, folder / "maps" / name.strip(".")))


def _ring_of(library: Library, folder: Path) -> Rest | None:
    try:
        records = _map(library, folder, RING)
    except KernelError:
        return None
    ring = Ring(records.descriptor, records.info().max_entries)
    return Rest(instance=instance_of(records), ring=ring, folder=folder)


def _unread_fallback(library: Library, folder: Path, current: Mapping[str, BpfMap]) -> int:
    try:
        fallback = _map(library, folder, "fallback")
    except KernelError:
        return 0
    ours = current.get("fallback")
    if ours is not None and fallback.info().number == ours.info().number:
        return 0
    return sum(1 for _key in fallback.keys(_FALLBACK_KEY_BYTES))


def instance_of(ring: BpfMap) -> int:
    """A number for a ring, within which positions mean something: of this map, in this boot."""
    boot = int(Procfs().boot_id().replace("-", "")[:16], 16)
    return (boot + 2 * ring.info().number) & _LARGEST_INSTANCE | 1


def remove(folder: Path) -> None:
    """Removes everything below and including `folder` from bpffs."""
    with contextlib.suppress(FileNotFoundError):
        for path, folders, files in os.walk(folder, topdown=False):
            for name in files:
                Path(path, name).unlink()
            for name in folders:
                Path(path, name).rmdir()
        folder.rmdir()


def _is_readable(folder: Path) -> bool:
    return re.fullmatch(rf"v{WIRE_VERSION}-\d+", folder.name) is not None


def _count_records(ring: Ring) -> int:
    data = ring.read(ring.consumer_position, ring.size)
    return sum(1 for _record in split_ring(data))
