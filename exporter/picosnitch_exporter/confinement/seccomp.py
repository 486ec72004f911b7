"""System calls that fail from here on, by libseccomp of the operating system.

That library knows the numbers of the calls on each architecture, and closes the doors beside them
(32-bit and x32 calls). Debian and Ubuntu always have it: apt and systemd need it. Source:
seccomp_rule_add(3), seccomp_attr_set(3), include/seccomp.h of libseccomp 2.5.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

_LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_ATTRIBUTE_BAD_ARCHITECTURE = 2
_ATTRIBUTE_ALL_THREADS = 4
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
_UNKNOWN_CALL = -1


class UnconfinedError(Exception):
    """The kernel or the operating system can't; the message says which one."""


class Compare(IntEnum):
    """enum scmp_compare."""

    NOT_EQUAL = 1
    EQUAL = 4
    AT_LEAST = 5
    MASKED_EQUAL = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Of one argument of a call, counted from 0; `mask` is for MASKED_EQUAL."""

    argument: int
    compare: Compare
    value: int
    mask: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A call that fails with `error`, where there are conditions only if all of them hold."""

    call: str
    conditions: tuple[Condition, ...] = ()
    error: int = errno.EPERM


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def refuse_calls(refusals: Iterable[Refusal]) -> frozenset[str]:
    """Makes the calls fail in all threads of this process, and in all that it will start.

    Returns those that the library does not know, because they are newer: they are not refused.

    Raises
    ------
    UnconfinedError
        if there is no library, or the kernel has no seccomp; nothing is refused then.
    """
    library = _library()
    with _made(library, refusals) as (context, unknown):
        failed = library.seccomp_load(context)
        if failed:
            raise UnconfinedError(f"the kernel takes no seccomp filter: {os.strerror(-failed)}")
    return unknown


def filter_of(refusals: Iterable[Refusal]) -> bytes:
    """The same as instructions for the kernel, an array of struct sock_filter.

    For a process that makes little of itself before it applies them.

    Raises
    ------
    UnconfinedError
        if there is no library.
    """
    library = _library()
    with _made(library, refusals) as (context, _unknown):
        descriptor = os.memfd_create("filter")
        try:
            failed = library.seccomp_export_bpf(context, descriptor)
            if failed:
                raise UnconfinedError(f"{_LIBRARY} gives no filter: {os.strerror(-failed)}")
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _made(
    library: ctypes.CDLL, refusals: Iterable[Refusal]
) -> Iterator[tuple[int, frozenset[str]]]:
    """A filter, and the calls that the library does not know."""
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise UnconfinedError(f"{_LIBRARY} can't make a filter")
    try:
        library.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCHITECTURE, _KILL_PROCESS)
        library.seccomp_attr_set(context, _ATTRIBUTE_ALL_THREADS, 1)
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)  # 2.5 and newer
        yield context, frozenset({one.call for one in refusals if not _add(library, context, one)})
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise UnconfinedError(f"{error}: install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    return library


def _add(library: ctypes.CDLL, context: int, refusal: Refusal) -> bool:
    number = library.seccomp_syscall_resolve_name(refusal.call.encode("ascii"))
    if number == _UNKNOWN_CALL:
        return False
    comparisons = (_Comparison * len(refusal.conditions))(
        *(_comparison(condition) for condition in refusal.conditions)
    )
    failed = library.seccomp_rule_add_array(
        context, _ERRNO | refusal.error, number, len(comparisons), comparisons
    )
    if failed:
        raise UnconfinedError(f"{refusal.call} can't be refused: {os.strerror(-failed)}")
    return True


def _comparison(condition: Condition) -> _Comparison:
    is_masked = condition.compare is Compare.MASKED_EQUAL
    return _Comparison(
        argument=condition.argument,
        operator=condition.compare,
        datum_a=condition.mask if is_masked else condition.value,
        datum_b=condition.value if is_masked else 0,
    )
