"""Executables: opens them, and says which file each one is.

The descriptor of a short-lived program comes from fanotify's exec event, which holds the file open
even when it is unlinked at once; that of one that ran before, or that lies where fanotify can't
look, from /proc/PID/exe. Each content is handed over once: an ignore mark keeps the kernel from
telling of it again until somebody writes to the file.
"""

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from picosnitch_exporter import descriptors
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import FileIdentity
from picosnitch_exporter.sensor.examined import FAILED, Examined, Found
from picosnitch_exporter.sensor.fanotify import ExecEvent, Fanotify
from picosnitch_exporter.sensor.filesystems import RENUMBERED, Filesystems
from picosnitch_exporter.sensor.procfs import Procfs, kernel_device
from picosnitch_exporter.stamps import Stamps, stamps_of
from picosnitch_exporter.stream import ExecutableSeen

_log = logging.getLogger(__name__)

_RETRY_NS = 5_000_000_000
_NEVER_NS = 1 << 63
_LOOK_NS = 5_000_000_000
"""How often it is looked whether the file of what talks is still there: 10 us each."""
_PATH = (
    b"/usr/local/sbin/",
    b"/usr/local/bin/",
    b"/usr/sbin/",
    b"/usr/bin/",
    b"/sbin/",
    b"/bin/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An executable to hand over; the receiver closes `descriptor` (None where there is none)."""

    frame: ExecutableSeen
    descriptor: int | None


class ExecWatch:
    """The sensor's view of executables; one thread."""

    def __init__(
        self,
        *,
        fanotify: Fanotify,
        filesystems: Filesystems,
        procfs: Procfs,
        lost: Callable[[str, str], None],
    ) -> None:
        self._fanotify = fanotify
        self._filesystems = filesystems
        self._procfs = procfs
        self._lost = lost
        self._examined = Examined()
        self._read_ns = 0

    def fileno(self) -> int:
        """For poll(): readable when something was executed."""
        return self._fanotify.descriptor

    def running(self) -> list[Opened]:
        """The executables of all processes that run now."""
        opened = []
        for pid in self._procfs.pids():
            found = self._open_process(pid, None)
            if found:
                opened.append(found)
        return opened

    def read_events(self) -> list[Opened]:
        """What was executed since the last call."""
        opened: list[Opened] = []
        before_ns = self._read_ns
        # What comes while these are read waits for the next call: there may be no end of it.
        now_ns = _boot_ns()
        left = self._fanotify.waiting()
        while left > 0:
            try:
                events = self._fanotify.read()
            except OSError as error:
                reason = "no_descriptor" if error.errno == errno.EMFILE else "read"
                self._lost("exec_event", reason)
                _log.warning(Event("exec_event_lost", {"error": error.strerror}))
                return opened
            left -= len(events)
            for event in events:
                found = self._open_event(event, before_ns)
                if found:
                    opened.append(found)
        self._read_ns = now_ns
        return opened

    def _open_event(self, event: ExecEvent, before_ns: int) -> Opened | None:
        if event.is_overflow:
            self._lost("exec_event", "overflow")
            return None
        if event.descriptor < 0:
            self._lost("exec_event", "unreadable")
            return None
        # First the mark, then the content: what is written after the mark brings a new event.
        self._fanotify.ignore(event.descriptor)
        return self._examine(event.descriptor, event.tgid, before_ns)

    def find(
        self,
        identity: FileIdentity,
        tgid: int,
        *,
        changed_ns: int = 0,
        names: Iterable[bytes] = (),
    ) -> Opened | None:
        """Opens the executable of a process if `identity` was never handed over, or has gone since.

        A record named it: its process may have run before the start, or where fanotify can't look.
        Where that process has ended, the file is looked for by `names`, and is the one if it has
        not been changed since `changed_ns`, its change time when it was executed.
        """
        found = self._examined.get(identity)
        if found is not None and not found.retry_ns:
            return self._find_gone(found, identity, tgid)
        if found is not None and _boot_ns() < found.retry_ns:
            return None
        if not identity.is_file:
            return None
        self._filesystems.look_for(identity.device, tgid)
        opened = self._open_process(tgid, identity)
        if opened is not None and opened.descriptor is None and changed_ns:
            descriptor = self._open_by_name(identity, tgid, changed_ns, names)
            if descriptor is not None:
                return self._examine(descriptor, tgid, 0, identity=identity)
        return opened

    def _find_gone(self, found: Found, identity: FileIdentity, tgid: int) -> Opened | None:
        """Opens once more what was deleted since: that it was has changed its change time."""
        now_ns = _boot_ns()
        if now_ns < found.look_ns:
            return None
        self._examined.put(identity, found._replace(look_ns=now_ns + _LOOK_NS))
        if not self._procfs.is_executable_gone(tgid):
            return None
        try:
            descriptor = self._procfs.open_executable(tgid)
        except OSError:
            return None
        if not self._is(descriptor, identity, tgid):
            descriptors.close(descriptor)
            return None
        return self._examine(descriptor, tgid, 0, identity=identity)

    def _open_by_name(
        self, wanted: FileIdentity, tgid: int, changed_ns: int, names: Iterable[bytes]
    ) -> int | None:
        for path in _candidates(names):
            with contextlib.suppress(OSError):
                # Opened by its path it could be a device or a pipe, which opening alone disturbs.
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    status = os.fstat(handle)
                    is_unchanged = stamps_of(status).changed_ns == changed_ns
                    is_it = stat.S_ISREG(status.st_mode) and is_unchanged
                    if is_it and self._is(handle, wanted, tgid):
                        return self._procfs.reopen(handle)
                finally:
                    descriptors.close(handle)
        return None

    def _open_process(self, pid: int, wanted: FileIdentity | None) -> Opened | None:
        try:
            descriptor = self._procfs.open_executable(pid)
        except OSError as error:
            if wanted is None:
                return None
            reason = _reason(error)
            if reason == "no_descriptor":
                # Which says nothing about the file. The next record asks again.
                return None
            return self._failed(wanted, pid, reason)
        if wanted is not None and not self._is(descriptor, wanted, pid):
            descriptors.close(descriptor)
            return self._failed(wanted, pid, "gone")
        return self._examine(descriptor, pid, 0, identity=wanted)

    def _failed(self, identity: FileIdentity, tgid: int, reason: str) -> Opened:
        now_ns = _boot_ns()
        self._examined.put(identity, Found(stamps=FAILED, retry_ns=now_ns + _RETRY_NS))
        path = self._procfs.executable_path(tgid) if reason != "gone" else None
        frame = ExecutableSeen(
            identity=identity,
            tgid=tgid,
            seen_ns=0,
            size_bytes=0,
            modified_ns=0,
            changed_ns=0,
            links=0,
            path=(path or b"").removesuffix(b" (deleted)"),
            reason=reason,
        )
        return Opened(frame=frame, descriptor=None)

    def _examine(
        self,
        descriptor: int,
        tgid: int,
        before_ns: int,
        *,
        identity: FileIdentity | None = None,
    ) -> Opened | None:
        """Hands a descriptor over, or closes it where its content is known."""
        try:
            if identity is None:
                inode, device, generation = self._identify(descriptor, tgid)
                identity = FileIdentity(inode=inode, device=device, generation=generation or 0)
            status = os.fstat(descriptor)
            path = self._path(descriptor, tgid)
        except OSError as error:
            descriptors.close(descriptor)
            self._lost("exec_event", _reason(error))
            return None
        stamps = stamps_of(status)
        before = self._examined.get(identity)
        if before is not None and before.stamps == stamps:
            self._examined.put(identity, before)
            descriptors.close(descriptor)
            return None
        is_new = before is None or before.retry_ns != 0
        links = min(status.st_nlink, 0xFFFF) or int(self._procfs.has_file(tgid, path))
        # What has gone does not come back: it is looked at no more.
        look_ns = _boot_ns() + _LOOK_NS if links else _NEVER_NS
        self._examined.put(identity, Found(stamps=stamps, look_ns=look_ns))
        frame = ExecutableSeen(
            identity=identity,
            tgid=tgid,
            seen_ns=0 if is_new else _content_since(stamps, before_ns),
            size_bytes=stamps.size_bytes,
            modified_ns=stamps.modified_ns,
            changed_ns=stamps.changed_ns,
            links=links,
            path=path,
            reason="",
        )
        return Opened(frame=frame, descriptor=descriptor)

    def _path(self, descriptor: int, tgid: int) -> bytes:
        """As the host sees it; in another mount namespace as that one does; empty if too long."""
        own = self._procfs.executable_path(tgid)
        try:
            path = self._procfs.path_of(descriptor)
        except OSError:  # of 4,096 bytes and more, which no system call takes or gives
            return b""
        if own is None:
            return path
        own = own.removesuffix(b" (deleted)")
        # The process may be about to replace the image that it still has, so its link only counts
        # where it names the same file: as the end of the path seen from here, or from a root of
        # its own.
        return own if own != path and path.endswith(own) else path

    def _is(self, descriptor: int, wanted: FileIdentity, tgid: int) -> bool:
        """Whether it is this file; not where a file server tells nothing of it."""
        try:
            inode, device, generation = self._identify(descriptor, tgid)
        except OSError as error:
            if _reason(error) == "no_descriptor":
                raise
            return False
        if inode != wanted.inode or device != wanted.device:
            return False
        return generation is None or generation == wanted.generation

    def _identify(self, descriptor: int, tgid: int) -> tuple[int, int, int | None]:
        """(inode, device, generation) as the kernel has them; None where that can't be read.

        `tgid` is a process that may see the file by the same mount.
        """
        status = os.fstat(descriptor)
        inode = status.st_ino
        device = kernel_device(os.major(status.st_dev), os.minor(status.st_dev))
        filesystem = self._filesystems.type_of(device)
        if filesystem is None or filesystem in RENUMBERED:
            mount_id, real_inode = self._procfs.mount_id_and_inode(descriptor)
            mount = self._filesystems.mount_of(mount_id, tgid)
            if mount is not None:
                device = mount.device
                filesystem = mount.filesystem
            if real_inode is not None:
                inode = real_inode
        return inode, device, self._fanotify.generation_of(descriptor)


def _candidates(names: Iterable[bytes]) -> Iterator[bytes]:
    """Absolute paths that a program may have been started by."""
    for name in names:
        if name.startswith(b"/"):
            yield name
        elif name and b"/" not in name:
            for folder in _PATH:
                yield folder + name


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ESRCH:
            return "gone"
        case errno.EACCES | errno.EPERM:
            return "denied"
        case errno.EMFILE | errno.ENFILE:
            return "no_descriptor"
        case _:
            return "unreadable"


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _content_since(stamps: Stamps, before_ns: int) -> int:
    """CLOCK_BOOTTIME from which on a modified file can have run with its new content.

    Not before the last moment whose events have all been read, and not before it was written. The
    earlier one of the two stamps: one may have been set back, the other moved by a chmod since.
    """
    offset_ns = time.time_ns() - _boot_ns()
    written_ns = min(stamps.modified_ns, stamps.changed_ns) - offset_ns
    return max(before_ns, written_ns, 1)
