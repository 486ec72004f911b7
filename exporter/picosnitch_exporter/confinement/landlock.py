"""Files that can be reached from here on, by Landlock, and what goes with it.

Source: include/uapi/linux/landlock.h, Documentation/userspace-api/landlock.rst. What a kernel does
not know yet is left out, as that document asks for.
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from picosnitch_exporter.confinement.seccomp import UnconfinedError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_RIGHTS_SINCE = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""What can be allowed for something that is not a folder."""
_READS = _READ_FILE | _READ_DIR
_WRITES = (
    _READS | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
)
_BIND_TCP = 1 << 0
_BIND_SINCE = 4
_SCOPE_SIGNALS = 1 << 1
_SCOPES_SINCE = 6


class _RulesetAttributes(ctypes.Structure):
    """struct landlock_ruleset_attr."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _layout_ = "ms"  # the word for packed structures, asked for from Python 3.14 on
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def restrict_files(*, readable: Iterable[Path], writable: Iterable[Path]) -> int:
    """Leaves only these files and folders, with what is below them; the version of Landlock.

    Nothing can be executed, and no device, socket or link be made, not even there. Where the kernel
    knows of it, no TCP port can be bound either, and no other process be sent a signal. Descriptors
    that are open stay as they are. Paths that don't exist are left out. To be called before there
    are threads, with no_new_privs set.

    Raises
    ------
    UnconfinedError
        if the kernel has no Landlock, or it is switched off; nothing is restricted then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = _call(libc, _CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    handled = _FIRST_RIGHTS
    for since, right in _RIGHTS_SINCE.items():
        if version >= since:
            handled |= right
    attributes = _RulesetAttributes(
        handled_access_fs=handled,
        handled_access_net=_BIND_TCP if version >= _BIND_SINCE else 0,
        scoped=_SCOPE_SIGNALS if version >= _SCOPES_SINCE else 0,
    )
    ruleset = _call(libc, _CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path in readable:
            _allow(libc, ruleset, path, _READS & handled)
        for path in writable:
            _allow(libc, ruleset, path, _WRITES & handled)
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= _FILE_RIGHTS
            beneath = _PathBeneath(allowed_access=rights, parent_fd=descriptor)
            _call(libc, _ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(beneath), 0)
        finally:
            os.close(descriptor)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        reason = {
            errno.ENOSYS: "the kernel has no Landlock (CONFIG_SECURITY_LANDLOCK)",
            errno.EOPNOTSUPP: "Landlock is switched off (the kernel's parameter lsm=)",
        }.get(code, f"Landlock refuses: {os.strerror(code)}")
        raise UnconfinedError(reason)
    return result
