"""The part of libbpf that is used, by ctypes on the operating system's shared library.

A binding of its own since those on PyPI are not kept up, and since loading is a dozen calls. Only
libbpf 1.x is spoken: functions return NULL or a negative error number.
Source: libbpf's bpf/libbpf.h and bpf/bpf.h, include/uapi/linux/bpf.h.
"""

import contextlib
import ctypes
import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from picosnitch_exporter.errors import DescriptorError, KernelError, RequirementError
from picosnitch_exporter.logging_format import Event

_log = logging.getLogger(__name__)
_VERIFIER_LINES = 12
_MESSAGE_BYTES = 64 * 1024

_PrintFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info up to what is read, 6.18's field order, which only grows at the end."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("nr_jited_ksyms", ctypes.c_uint32),
        ("nr_jited_func_lens", ctypes.c_uint32),
        ("jited_ksyms", ctypes.c_uint64),
        ("jited_func_lens", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("nr_func_info", ctypes.c_uint32),
        ("nr_line_info", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("jited_line_info", ctypes.c_uint64),
        ("nr_jited_line_info", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("jited_line_info_rec_size", ctypes.c_uint32),
        ("nr_prog_tags", ctypes.c_uint32),
        ("prog_tags", ctypes.c_uint64),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),  # from 5.12, 0 before
    )


def _open_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise RequirementError(
            "libbpf 1.x is missing: apt-get install libbpf1 (or your distribution's libbpf)"
        ) from error
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    name = ctypes.c_char_p
    integer, word = ctypes.c_int, ctypes.c_uint32
    for function, result, arguments in (
        ("libbpf_set_print", pointer, (_PrintFunction,)),
        ("libbpf_num_possible_cpus", integer, ()),
        ("btf__load_vmlinux_btf", pointer, ()),
        ("btf__find_by_name_kind", integer, (pointer, name, word)),
        ("btf__free", None, (pointer,)),
        ("bpf_object__open_mem", pointer, (pointer, size, pointer)),
        ("bpf_object__load", integer, (pointer,)),
        ("bpf_object__close", None, (pointer,)),
        ("bpf_object__find_program_by_name", pointer, (pointer, name)),
        ("bpf_object__next_program", pointer, (pointer, pointer)),
        ("bpf_object__find_map_by_name", pointer, (pointer, name)),
        ("bpf_program__name", name, (pointer,)),
        ("bpf_program__set_autoload", integer, (pointer, ctypes.c_bool)),
        ("bpf_program__attach", pointer, (pointer,)),
        ("bpf_program__attach_cgroup", pointer, (pointer, integer)),
        ("bpf_program__attach_iter", pointer, (pointer, pointer)),
        ("bpf_program__attach_uprobe_opts", pointer, (pointer, integer, name, size, pointer)),
        ("bpf_program__fd", integer, (pointer,)),
        ("bpf_map__fd", integer, (pointer,)),
        ("bpf_map__type", integer, (pointer,)),
        ("bpf_map__key_size", word, (pointer,)),
        ("bpf_map__value_size", word, (pointer,)),
        ("bpf_map__max_entries", word, (pointer,)),
        ("bpf_map__set_max_entries", integer, (pointer, word)),
        ("bpf_map__set_initial_value", integer, (pointer, pointer, size)),
        ("bpf_map__initial_value", pointer, (pointer, ctypes.POINTER(size))),
        ("bpf_map__reuse_fd", integer, (pointer, integer)),
        ("bpf_link__fd", integer, (pointer,)),
        ("bpf_link__destroy", integer, (pointer,)),
        ("bpf_link_create", integer, (integer, integer, integer, pointer)),
        ("bpf_iter_create", integer, (integer,)),
        ("bpf_obj_pin", integer, (integer, name)),
        ("bpf_obj_get", integer, (name,)),
        ("bpf_obj_get_info_by_fd", integer, (integer, pointer, ctypes.POINTER(word))),
        ("bpf_map_lookup_elem", integer, (integer, pointer, pointer)),
        ("bpf_map_update_elem", integer, (integer, pointer, pointer, ctypes.c_uint64)),
        ("bpf_map_delete_elem", integer, (integer, pointer)),
        ("bpf_map_get_next_key", integer, (integer, pointer, pointer)),
    ):
        bound = getattr(library, function)
        bound.restype = result
        bound.argtypes = arguments
    return library


class _Messages:
    """What libbpf prints, kept for the error message that it belongs to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._libc = ctypes.CDLL(None)
        self._buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self.function = _PrintFunction(self._print)

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        # va_list is passed by reference on x86_64 and arm64, so its address goes on as it came.
        self._libc.vsnprintf(
            self._buffer,
            ctypes.c_size_t(_MESSAGE_BYTES),
            ctypes.c_char_p(template),
            ctypes.c_void_p(arguments),
        )
        text = self._buffer.value.decode("utf-8", "replace").rstrip()
        if level == 0:
            self.lines.append(text)
        else:
            _log.debug(Event("libbpf", {"message": text}))
        return 0

    def take(self) -> str:
        """The last lines of what was printed since, the verifier's verdict among them."""
        text = "\n".join(self.lines).splitlines()
        self.lines.clear()
        return "\n".join(text[-_VERIFIER_LINES:])


class Library:
    """libbpf, opened once for a process.

    Raises
    ------
    RequirementError
        if it is not installed.
    """

    def __init__(self) -> None:
        self.call = _open_library()
        self.messages = _Messages()
        self.call.libbpf_set_print(self.messages.function)
        self.cpus: int = self.call.libbpf_num_possible_cpus()

    @contextlib.contextmanager
    def kernel_types(self) -> Iterator[Callable[[str, int], bool]]:
        """Tells whether the running kernel's BTF has a name, of a BTF_KIND_*; none without BTF."""
        types = self.call.btf__load_vmlinux_btf()
        self.messages.take()
        try:
            yield lambda name, kind: bool(
                types and self.call.btf__find_by_name_kind(types, name.encode(), kind) > 0
            )
        finally:
            self.call.btf__free(types)

    def fail(self, what: str) -> KernelError:
        """The error of the call that has just failed, in words."""
        number = ctypes.get_errno()
        text = f"{what}: {os.strerror(number)}"
        if number in {errno.EPERM, errno.EACCES}:
            text += " (root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, are needed)"
        details = self.messages.take()
        kind = DescriptorError if number in {errno.EMFILE, errno.ENFILE} else KernelError
        return kind(f"{text}\n{details}" if details else text)


def pin(library: Library, descriptor: int, path: Path) -> None:
    """Keeps a map, program or link alive under a name in bpffs.

    Raises
    ------
    KernelError
        if bpffs takes no pins there.
    """
    if library.call.bpf_obj_pin(descriptor, os.fsencode(path)):
        raise library.fail(f"can't pin {path}")


def get_pinned(library: Library, path: Path) -> int:
    """The descriptor of what is pinned at `path`.

    Raises
    ------
    KernelError
        if nothing usable is there.
    """
    descriptor: int = library.call.bpf_obj_get(os.fsencode(path))
    if descriptor < 0:
        raise library.fail(f"can't open the pinned {path}")
    return descriptor


def program_statistics(library: Library, descriptor: int) -> tuple[int, int]:
    """Runs of a program and the nanoseconds they took, both 0 while bpf_stats_enabled is off."""
    info = _program_info(library, descriptor)
    return info.run_cnt, info.run_time_ns


def missed_runs(library: Library, descriptor: int) -> int:
    """How often a program was not run since it was running on that CPU already."""
    misses: int = _program_info(library, descriptor).recursion_misses
    return misses


def _program_info(library: Library, descriptor: int) -> _ProgramInfo:
    info = _ProgramInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    if library.call.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size)):
        raise library.fail("statistics of a program can't be read")
    return info
