"""Filesystems: which ones there are in any mount namespace, each marked for events of its execs."""

import logging
import os
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor.bpf import BpfMap
from picosnitch_exporter.sensor.procfs import PSEUDO_FILESYSTEMS, Mount, Procfs

_log = logging.getLogger(__name__)

_RESCAN_SECONDS = 10.0
"""Between two looks at all mount namespaces for one that is not known."""
_DEVICE_KEY = struct.Struct("=I")
_MAX_TRIES = 4
"""To mark a filesystem by its mounts in one mount namespace: others may have mounted it there
thousands of times, and of two at the same place only the upper one can be reached."""
_MAX_MOUNTS = 16_384
RENUMBERED = frozenset({"btrfs", "overlay"})
"""stat() makes device numbers of its own for their subvolumes and layers."""


class Filesystems:
    """Those that are marked; `mark` takes a path, and says whether its filesystem could be."""

    def __init__(self, *, procfs: Procfs, mark: Callable[[bytes], bool]) -> None:
        self._procfs = procfs
        self._mark = mark
        self._watched_devices: BpfMap | None = None
        self._types: dict[int, str] = {}
        self._refused: set[int] = set()
        self._own_devices: set[int] = set()
        self._mounts: OrderedDict[int, Mount] = OrderedDict()
        """By number, those of `RENUMBERED` in any mount namespace."""
        self._scanned_at = 0.0
        self._is_full = False
        self.mounts_descriptor = procfs.open_mounts()
        """For poll(): has priority data (EPOLLPRI) when something was mounted here."""

    def type_of(self, device: int) -> str | None:
        """As in /proc/PID/mountinfo; None where it is not marked."""
        return self._types.get(device)

    def mark_by(self, mark: Callable[[bytes], bool]) -> None:
        """Has them marked by `mark` from now on, for want of CAP_SYS_ADMIN."""
        self._mark = mark

    def watch(self) -> None:
        """Marks each one that any mount namespace shows.

        Also those that are marked: what others mount comes and goes unseen, and numbers are used
        again.
        """
        self._scanned_at = time.monotonic()
        self.watch_own_mounts()
        done = self._own_devices & self._types.keys()
        for pid in self._procfs.mount_namespaces().values():
            self._watch_mounts(pid, done=done)
        for device in self._types.keys() - done:
            self._forget(device)

    def watch_own_mounts(self) -> None:
        """Marks what is mounted in this mount namespace; to be called when that has changed.

        All of it: a filesystem takes its mark along, and leaves its device number to the next one.
        """
        mounted = {mount.device for mount in self._procfs.mounts()}
        for device in self._own_devices - mounted:
            self._forget(device)
        self._own_devices = mounted
        self._watch_mounts("self", done=set())

    def look_for(self, device: int, pid: int) -> None:
        """Marks the device that a process runs something from without an event.

        Where it is marked already, by others' mounts, another one may have got its number.
        """
        if device in self._own_devices and device in self._types:
            return
        done: set[int] = set()
        is_scan_due = time.monotonic() - self._scanned_at > _RESCAN_SECONDS
        if device in self._types or not is_scan_due:
            self._watch_mounts(pid, done=done, only=device)
        if is_scan_due and device not in done:
            self.watch()

    def mount_of(self, mount_id: int, pid: int) -> Mount | None:
        """The mount of this number: one of ours, of a process, or of others seen lately."""
        for each in ("self", pid):
            mount = self._procfs.mount(each, mount_id)
            if mount is not None:
                return mount
        if mount_id not in self._mounts and time.monotonic() - self._scanned_at > _RESCAN_SECONDS:
            self.watch()
        return self._mounts.get(mount_id)

    def tell_programs(self, watched_devices: BpfMap) -> None:
        """Lets the BPF programs know from now on which ones are marked."""
        self._watched_devices = watched_devices
        for device in self._types:
            self._note_watched(device)

    def _watch_mounts(self, pid: int | str, *, done: set[int], only: int | None = None) -> None:
        """Marks what a process sees, but for the devices that are done; they are added there."""
        tries: Counter[int] = Counter()
        for mount in self._procfs.mounts(pid):
            if mount.filesystem in RENUMBERED:
                self._note_mount(mount)
            if mount.filesystem in PSEUDO_FILESYSTEMS or mount.device in done:
                continue
            if only not in {None, mount.device} or tries[mount.device] >= _MAX_TRIES:
                continue
            tries[mount.device] += 1
            base = b"" if pid == "self" else os.fsencode(self._procfs.root / str(pid) / "root")
            path = base + os.fsencode(mount.mount_point)
            if self._mark(path):
                done.add(mount.device)
                self._types[mount.device] = mount.filesystem
                self._note_watched(mount.device)
                self._refused.discard(mount.device)
            elif mount.device not in self._refused:
                self._refused.add(mount.device)
                _log.debug(Event("filesystem_unwatched", {"path": path, "type": mount.filesystem}))

    def _note_mount(self, mount: Mount) -> None:
        self._mounts[mount.mount_id] = mount
        self._mounts.move_to_end(mount.mount_id)
        if len(self._mounts) > _MAX_MOUNTS:
            self._mounts.popitem(last=False)

    def _note_watched(self, device: int) -> None:
        if self._watched_devices is None:
            return
        try:
            self._watched_devices.update(_DEVICE_KEY.pack(device), b"\1")
        except KernelError as error:
            # Full: of what runs there we are told at once, as of what has no mark.
            if not self._is_full:
                _log.warning(Event("filesystem_unnoted", {"error": str(error)}))
            self._is_full = True

    def _forget(self, device: int) -> None:
        """It may live on in another mount namespace: what runs there is told of at once."""
        if self._types.pop(device, None) is not None and self._watched_devices is not None:
            self._watched_devices.delete(_DEVICE_KEY.pack(device))
