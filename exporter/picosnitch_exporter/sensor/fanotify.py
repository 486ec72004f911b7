"""fanotify, by ctypes: exec events that carry an open descriptor of the executable.

Source: fanotify(7), fanotify_init(2), fanotify_mark(2), include/uapi/linux/fanotify.h.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import sys
import termios
from dataclasses import dataclass

from picosnitch_exporter.errors import KernelError

_CLOEXEC, _NONBLOCK = 0x1, 0x2
_UNLIMITED_QUEUE, _UNLIMITED_MARKS = 0x10, 0x20
_MARK_ADD, _MARK_IGNORED_MASK = 0x1, 0x20
_MARK_FILESYSTEM, _MARK_EVICTABLE = 0x100, 0x200
_OPEN_EXEC = 0x1000
_Q_OVERFLOW = 0x4000
_METADATA = struct.Struct("=IBBHQii")
_READ_BYTES = 16 * 1024
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_FS_IOC_GETVERSION = 0x80087601
"""include/uapi/linux/fs.h; the same number on x86_64 and arm64."""
_SHMEM_HANDLE_WORDS = 3
_HANDLE_WORDS = 32


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("words", ctypes.c_uint32 * _HANDLE_WORDS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecEvent:
    """An exec; `descriptor` is open for reading, the receiver closes it; -1 if there is none."""

    descriptor: int
    tgid: int
    is_overflow: bool


class Fanotify:
    """A notification group for exec events.

    Raises
    ------
    KernelError
        if the kernel or the privileges (CAP_SYS_ADMIN) don't allow one.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.fanotify_mark.argtypes = (
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint64,
            ctypes.c_int,
            ctypes.c_char_p,
        )
        flags = _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _UNLIMITED_MARKS
        # O_NOATIME: hashing leaves no trace in the files' access times. O_NONBLOCK: a lease on one
        # (fcntl(2), F_SETLEASE) would be waited for, up to 45 s.
        opened = os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC | os.O_NOATIME | os.O_NONBLOCK
        self.descriptor: int = self._libc.fanotify_init(flags, opened)
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise KernelError(
                f"fanotify is not available: {os.strerror(number)} (CAP_SYS_ADMIN is needed)"
            )
        self._evictable = _MARK_EVICTABLE

    def watch_filesystem(self, path: bytes) -> bool:
        """Events for each exec from the filesystem of `path`; False where it can't be watched."""
        return not self._libc.fanotify_mark(
            self.descriptor, _MARK_ADD | _MARK_FILESYSTEM, _OPEN_EXEC, _AT_FDCWD, path
        )

    def ignore(self, descriptor: int) -> bool:
        """No more events for the file of `descriptor`, until somebody writes to it.

        The mark does not keep the inode in memory where the kernel can do that (5.19).
        """
        flags = _MARK_ADD | _MARK_IGNORED_MASK
        if not self._libc.fanotify_mark(
            self.descriptor, flags | self._evictable, _OPEN_EXEC, descriptor, None
        ):
            return True
        if ctypes.get_errno() != errno.EINVAL or not self._evictable:
            return False
        self._evictable = 0
        return self.ignore(descriptor)

    def waiting(self) -> int:
        """How many events can be read now."""
        word = bytearray(4)
        fcntl.ioctl(self.descriptor, termios.FIONREAD, word)
        return int.from_bytes(word, sys.byteorder) // _METADATA.size

    def read(self) -> list[ExecEvent]:
        """Some of those that wait, at least one: to be called while there are.

        Raises
        ------
        OSError
            EMFILE when no descriptor is left: the event that would have carried it is gone.
        """
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            # Of a file that somebody has a lease on. The event is gone.
            return [ExecEvent(descriptor=-1, tgid=0, is_overflow=False)]
        events = []
        offset = 0
        while offset + _METADATA.size <= len(data):
            length, _version, _reserved, _size, mask, descriptor, pid = _METADATA.unpack_from(
                data, offset
            )
            events.append(
                ExecEvent(descriptor=descriptor, tgid=pid, is_overflow=bool(mask & _Q_OVERFLOW))
            )
            offset += max(length, _METADATA.size)
        return events

    def generation_of(self, descriptor: int) -> int | None:
        """The inode's generation as the kernel has it, None where it can't be read."""
        word = bytearray(8)
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, word)
            return int.from_bytes(word[:4], "little")
        # tmpfs has no such call; its file handle begins with the generation (shmem_encode_fh()).
        handle = _FileHandle(bytes=4 * _HANDLE_WORDS)
        mount_id = ctypes.c_int()
        failed = self._libc.name_to_handle_at(
            descriptor, b"", ctypes.byref(handle), ctypes.byref(mount_id), _AT_EMPTY_PATH
        )
        if not failed and handle.bytes == 4 * _SHMEM_HANDLE_WORDS:
            return int(handle.words[0])
        return None

    def close(self) -> None:
        """Ends the group and all its marks."""
        os.close(self.descriptor)
