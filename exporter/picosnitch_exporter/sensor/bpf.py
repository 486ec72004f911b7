"""What libbpf's handles stand for: maps, links, and an object file that is loaded.

Source: libbpf's bpf/libbpf.h and bpf/bpf.h, include/uapi/linux/bpf.h.
"""

import ctypes
import mmap
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.sensor.libbpf import Library

_OBJECT_NAME = b"picosnitch"
_ITERATOR_BYTES = 64 * 1024
_ANY_PROCESS = -1


class _IterAttachOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("link_info", ctypes.c_void_p),
        ("link_info_bytes", ctypes.c_uint32),
    )


class _UprobeOptions(ctypes.Structure):
    """The first fields of struct bpf_uprobe_opts."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("reference_counter_offset", ctypes.c_size_t),
        ("cookie", ctypes.c_uint64),
        ("is_return", ctypes.c_bool),
        ("function", ctypes.c_char_p),
    )


class _ObjectOpenOptions(ctypes.Structure):
    """The first fields of bpf_object_open_opts; `size` tells libbpf that there are no more."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
    )


class _MapInfo(ctypes.Structure):
    """The first fields of struct bpf_map_info, which only grows at the end."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInfo:
    """What a map is; `number` is unique as long as the machine runs."""

    number: int
    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int


class BpfMap:
    """An open map, by its descriptor."""

    def __init__(self, library: Library, name: str, descriptor: int) -> None:
        self._library = library
        self.name = name
        self.descriptor = descriptor

    def info(self) -> MapInfo:
        """What the kernel says of it; KernelError if that is nothing."""
        info = _MapInfo()
        size = ctypes.c_uint32(ctypes.sizeof(info))
        if self._library.call.bpf_obj_get_info_by_fd(
            self.descriptor, ctypes.byref(info), ctypes.byref(size)
        ):
            raise self._library.fail(f"map {self.name} can't be looked at")
        return MapInfo(
            number=info.id,
            type=info.type,
            key_bytes=info.key_size,
            value_bytes=info.value_size,
            max_entries=info.max_entries,
        )

    def lookup(self, key: bytes, value_bytes: int) -> bytes | None:
        """The value of `key`, or None; for a per-CPU map the values of all CPUs in a row."""
        value = ctypes.create_string_buffer(value_bytes)
        if self._library.call.bpf_map_lookup_elem(self.descriptor, key, value):
            return None
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Sets a value.

        Raises
        ------
        KernelError
            if the map is full.
        """
        if self._library.call.bpf_map_update_elem(self.descriptor, key, value, 0):
            raise self._library.fail(f"map {self.name} takes no entry")

    def delete(self, key: bytes) -> None:
        """Removes a key, if it is there."""
        self._library.call.bpf_map_delete_elem(self.descriptor, key)

    def keys(self, key_bytes: int) -> Iterable[bytes]:
        """All keys; concurrent changes may repeat or miss some."""
        key = None
        following = ctypes.create_string_buffer(key_bytes)
        while not self._library.call.bpf_map_get_next_key(self.descriptor, key, following):
            yield following.raw
            key = following.raw

    def map_memory(self, size: int) -> mmap.mmap:
        """The map's memory, shared with the kernel (BPF_F_MMAPABLE maps only)."""
        return mmap.mmap(self.descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


class BpfLink:
    """An attached program, by the descriptor of its link. Closing it detaches unless pinned."""

    def __init__(self, library: Library, name: str, descriptor: int) -> None:
        self._library = library
        self.name = name
        self.descriptor = descriptor
        self._iterator: int | None = None

    @classmethod
    def to_cgroup(
        cls, library: Library, name: str, program: int, *, cgroup: int, attach_type: int
    ) -> Self:
        """Attaches a program, by its descriptor, to the cgroup of another.

        Raises
        ------
        KernelError
            if the kernel refuses it.
        """
        descriptor = library.call.bpf_link_create(program, cgroup, attach_type, None)
        if descriptor < 0:
            raise library.fail(f"program {name} can't be attached to the cgroup")
        return cls(library, name, descriptor)

    @property
    def is_stopped(self) -> bool:
        """The iterator program has stopped the last run, which the next one continues."""
        return self._iterator is not None

    def run(self) -> bytes:
        """Runs an iterator program over everything it iterates on; what it has written.

        Raises
        ------
        KernelError
            if the kernel refuses to start or to go on.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            iterator = self._library.call.bpf_iter_create(self.descriptor)
        if iterator < 0:
            raise self._library.fail(f"iterator {self.name} can't be started")
        written = []
        try:
            while piece := os.read(iterator, _ITERATOR_BYTES):
                written.append(piece)
        except BlockingIOError:
            self._iterator = iterator
            return b"".join(written)
        except OSError as error:
            os.close(iterator)
            raise KernelError(f"iterator {self.name} stopped: {error.strerror}") from error
        os.close(iterator)
        return b"".join(written)

    def begin_anew(self) -> None:
        """Has the next run begin with the first element, also where the last one was stopped."""
        if self._iterator is not None:
            os.close(self._iterator)
            self._iterator = None

    def close(self) -> None:
        """Gives the descriptor back."""
        self.begin_anew()
        os.close(self.descriptor)


class BpfObject:
    """A BPF object file, opened but not loaded until `load()`."""

    def __init__(self, library: Library, image: bytes, source: Path) -> None:
        self._library = library
        self._source = source
        options = _ObjectOpenOptions(
            size=ctypes.sizeof(_ObjectOpenOptions), object_name=_OBJECT_NAME
        )
        self._object = library.call.bpf_object__open_mem(image, len(image), ctypes.byref(options))
        if not self._object:
            raise library.fail(f"BPF object {source} can't be opened")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.call.bpf_object__close(self._object)

    def _program(self, name: str) -> int:
        program = self._library.call.bpf_object__find_program_by_name(self._object, name.encode())
        if not program:
            raise self._library.fail(f"BPF object {self._source} has no program {name}")
        return int(program)

    def _map(self, name: str) -> int:
        found = self._library.call.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise self._library.fail(f"BPF object {self._source} has no map {name}")
        return int(found)

    def load_only(self, programs: Collection[str]) -> None:
        """Leaves all other programs out of the load."""
        call = self._library.call
        program = call.bpf_object__next_program(self._object, None)
        while program:
            name = call.bpf_program__name(program).decode()
            call.bpf_program__set_autoload(program, name in programs)
            program = call.bpf_object__next_program(self._object, program)

    def set_max_entries(self, map_name: str, entries: int) -> None:
        """Sizes a map before the load."""
        if self._library.call.bpf_map__set_max_entries(self._map(map_name), entries):
            raise self._library.fail(f"map {map_name} can't have {entries} entries")

    def set_constant(self, section: str, value: bytes) -> None:
        """Writes the beginning of a data section before the load."""
        size = ctypes.c_size_t()
        address = self._library.call.bpf_map__initial_value(self._map(section), ctypes.byref(size))
        if not address or size.value < len(value):
            raise self._library.fail(f"section {section} can't be set")
        ctypes.memmove(address, value, len(value))

    def fits(self, existing: BpfMap) -> bool:
        """Whether a map that exists is what the object would make."""
        call, wanted, found = self._library.call, self._map(existing.name), existing.info()
        shape = (found.type, found.key_bytes, found.value_bytes, found.max_entries)
        return shape == (
            call.bpf_map__type(wanted),
            call.bpf_map__key_size(wanted),
            call.bpf_map__value_size(wanted),
            call.bpf_map__max_entries(wanted),
        )

    def reuse(self, existing: BpfMap) -> None:
        """Loads with a map that exists instead of a new one."""
        if self._library.call.bpf_map__reuse_fd(self._map(existing.name), existing.descriptor):
            raise self._library.fail(f"map {existing.name} can't be taken over")

    def load(self) -> None:
        """Creates the maps and has the kernel verify the programs.

        Raises
        ------
        KernelError
            with what the verifier said.
        """
        if self._library.call.bpf_object__load(self._object):
            raise self._library.fail(f"the kernel refuses the BPF object {self._source}")

    def map(self, name: str) -> BpfMap:
        """A loaded map; its descriptor is a duplicate that outlives the object."""
        descriptor = self._library.call.bpf_map__fd(self._map(name))
        if descriptor < 0:
            raise self._library.fail(f"map {name} is not loaded")
        return BpfMap(self._library, name, os.dup(descriptor))

    def program_descriptor(self, name: str) -> int:
        """A duplicate of a loaded program's descriptor."""
        return os.dup(self._library.call.bpf_program__fd(self._program(name)))

    def attach(self, program: str) -> BpfLink:
        """Attaches a tracing program where its section says."""
        link = self._library.call.bpf_program__attach(self._program(program))
        return self._own(program, link)

    def attach_cgroup(self, program: str, cgroup: int) -> BpfLink:
        """Attaches a program to the cgroup of an open descriptor, beside others there."""
        link = self._library.call.bpf_program__attach_cgroup(self._program(program), cgroup)
        return self._own(program, link)

    def attach_iterator(self, program: str, over: BpfMap | None) -> BpfLink:
        """Attaches an iterator, over a map's elements or over what its section says."""
        options = _IterAttachOptions(size=ctypes.sizeof(_IterAttachOptions))
        if over is not None:
            # union bpf_iter_link_info begins with the map's descriptor.
            info = ctypes.c_uint32(over.descriptor)
            options.link_info = ctypes.cast(ctypes.byref(info), ctypes.c_void_p)
            options.link_info_bytes = ctypes.sizeof(info)
        link = self._library.call.bpf_program__attach_iter(
            self._program(program), ctypes.byref(options)
        )
        return self._own(program, link)

    def attach_uprobe(self, program: str, path: Path, function: str, *, is_return: bool) -> BpfLink:
        """Attaches a program to a function of a library or executable, whoever runs it."""
        options = _UprobeOptions(
            size=ctypes.sizeof(_UprobeOptions), is_return=is_return, function=function.encode()
        )
        link = self._library.call.bpf_program__attach_uprobe_opts(
            self._program(program), _ANY_PROCESS, os.fsencode(path), 0, ctypes.byref(options)
        )
        return self._own(f"{program} to {function} of {path}", link)

    def _own(self, program: str, link: int | None) -> BpfLink:
        if not link:
            raise self._library.fail(f"program {program} can't be attached")
        # The descriptor is duplicated: the link then lives as long as that or a pin, not as long
        # as libbpf's object. bpf_link__destroy() closes only libbpf's own descriptor.
        descriptor = os.dup(self._library.call.bpf_link__fd(link))
        self._library.call.bpf_link__destroy(link)
        return BpfLink(self._library, program, descriptor)
