"""Watches getaddrinfo() in the C libraries of the machine, for names that no DNS answer tells.

Two probes on each library, with maps of the running plan. Not pinned, and not attached to the
libraries of containers: a probe keeps the file's mount busy, and a container could not be removed.
"""

import contextlib
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor.bpf import BpfLink, BpfMap, BpfObject
from picosnitch_exporter.sensor.kernel_side import KernelSide
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.object_file import read_object
from picosnitch_exporter.sensor.plan import MAPS
from picosnitch_exporter.sensor.procfs import Procfs

FUNCTION = "getaddrinfo"
_CALLED, _RETURNED = "getaddrinfo_called", "getaddrinfo_returned"
# glibc where Debian and Fedora, and the systems made of them, keep it; musl.
_LIBRARIES = (
    "lib/*-linux-gnu/libc.so.6",
    "usr/lib/*-linux-gnu/libc.so.6",
    "lib64/libc.so.6",
    "usr/lib64/libc.so.6",
    "usr/lib/libc.so.6",
    "lib/ld-musl-*.so.1",
)
_ELF = struct.Struct("=4sBB10xHH")
"""Magic, class, data; type, machine. Source: elf.h, Elf64_Ehdr."""
_CLASS_64 = 2

_log = logging.getLogger(__name__)


def watch_lookups(library: Library, side: KernelSide, procfs: Procfs) -> tuple[BpfLink, ...]:
    """Attaches to every C library; what is returned keeps it attached.

    Nothing that is refused here keeps the exporter from counting: it is said.
    """
    if not set(MAPS) <= side.maps.keys():
        _refused(f"the plan {side.plan} has not the maps that it takes")
        return ()
    paths = list(c_libraries(_host_root(procfs)))
    if not paths:
        _refused("no C library was found")
        return ()
    try:
        with BpfObject(library, *read_object()) as bpf:
            return attach(bpf, side.maps, paths)
    except KernelError as error:
        _refused(str(error))
        return ()


def attach(
    bpf: BpfObject, maps: Mapping[str, BpfMap], paths: Iterable[Path]
) -> tuple[BpfLink, ...]:
    """Loads the two programs, with maps that exist, and attaches them to each library.

    Raises
    ------
    KernelError
        if one of these is refused; nothing is attached then.
    """
    bpf.load_only((_CALLED, _RETURNED))
    for shared in maps.values():
        bpf.reuse(shared)
    bpf.load()
    with contextlib.ExitStack() as attached:
        links: list[BpfLink] = []
        for path in paths:
            # The end first: a beginning without one would leave its call behind.
            for program, is_return in ((_RETURNED, True), (_CALLED, False)):
                link = bpf.attach_uprobe(program, path, FUNCTION, is_return=is_return)
                attached.callback(link.close)
                links.append(link)
        attached.pop_all()
    return tuple(links)


def c_libraries(root: Path) -> Iterator[Path]:
    """The 64-bit C libraries of this machine's kind below a root, each file once."""
    seen: set[tuple[int, int]] = set()
    own = _kind_of(Path("/proc/self/exe"))
    for pattern in _LIBRARIES:
        for path in sorted(root.glob(pattern)):
            try:
                status = path.stat()
                is_ours = _kind_of(path) == own
            except OSError:
                continue
            if is_ours and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield path


def _host_root(procfs: Procfs) -> Path:
    """Of the machine, also where this is a container with a root of its own."""
    root = procfs.root / "1" / "root"
    try:
        root.stat()
    except OSError:
        return Path("/")
    return root


def _kind_of(path: Path) -> tuple[int, int] | None:
    """Data encoding and machine of a 64-bit ELF file, None for anything else."""
    with path.open("rb") as file:
        header = file.read(_ELF.size)
    if len(header) < _ELF.size:
        return None
    magic, size_class, data, _type, machine = _ELF.unpack(header)
    return (data, machine) if magic == b"\x7fELF" and size_class == _CLASS_64 else None


def _refused(reason: str) -> None:
    _log.warning(
        Event(
            "getaddrinfo_unwatched",
            {"error": reason, "meaning": "names come from DNS answers only"},
        )
    )
