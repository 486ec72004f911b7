"""Which cgroup is which: the paths of the cgroups that processes are in.

A process record has the numbers of its cgroups. Their paths come from a map that the kernel side
fills when they are made, from a walk over those that existed before, and where neither knows one,
from /proc of the process or another walk. Each is told once, before the first record that needs
it. Sources: Documentation/admin-guide/cgroup-v2.rst; kernel/cgroup/cgroup.c (the number of a cgroup
is that of its directory's inode).
"""

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from picosnitch_exporter.sensor.bpf import BpfMap
from picosnitch_exporter.sensor.procfs import Mount, Procfs
from picosnitch_exporter.stream import CgroupPath
from picosnitch_exporter.wire import CGROUP_KEY, CGROUP_PATH

_CONTROLLERS = {"pids": 1, "memory": 2, "freezer": 3, "cpuset": 4}
"""enum cgroup1_controller of ebpf/maps.h: the first of them that has a v1 hierarchy is read."""
MAX_CGROUPS = 65_536
"""20 MB at the most; a forgotten one is looked for again."""
MAX_PATH_BYTES = 1024
WALK_SECONDS = 10.0
"""Between two walks for a cgroup that was not found."""
_MAX_FOLDERS = 262_144
NewCgroup = tuple[int, int, bytes]
"""Hierarchy (0: v2), number and path."""


def cgroup1_hierarchy(procfs: Procfs | None = None) -> tuple[int, int]:
    """Controller and number of the v1 hierarchy that is read; zeros where there is none."""
    _name, controller, hierarchy = _choose(procfs or Procfs())
    return controller, hierarchy


def cgroup1_controller(procfs: Procfs | None = None) -> tuple[str, int]:
    """The same with the controller's name, which is empty where there is none."""
    name, _controller, hierarchy = _choose(procfs or Procfs())
    return name, hierarchy


def _choose(procfs: Procfs) -> tuple[str, int, int]:
    hierarchies = procfs.cgroup1_hierarchies()
    for name, controller in _CONTROLLERS.items():
        if hierarchies.get(name):
            return name, controller, hierarchies[name]
    return "", 0, 0


def take_new_cgroups(new_cgroups: BpfMap) -> Iterator[NewCgroup]:
    """Takes out of the kernel's map what is in it."""
    for key in tuple(new_cgroups.keys(CGROUP_KEY.size)):
        value = new_cgroups.lookup(key, CGROUP_PATH.size)
        new_cgroups.delete(key)
        if value is not None:
            cgroup_id, hierarchy, _pad = CGROUP_KEY.unpack(key)
            path_bytes, path = CGROUP_PATH.unpack(value)
            yield hierarchy, cgroup_id, path[:path_bytes]


class Cgroups:
    """Paths by hierarchy (0: v2) and number; one thread.

    `take_new` hands out each cgroup that was made once; `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        procfs: Procfs,
        *,
        take_new: Callable[[], Iterable[NewCgroup]],
        clock: Callable[[], float] = time.monotonic,
        max_cgroups: int = MAX_CGROUPS,
    ) -> None:
        self._procfs = procfs
        self._take_new = take_new
        self._clock = clock
        self._max_cgroups = max_cgroups
        self._controller, _index, self._hierarchy = _choose(procfs)
        self._paths: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._told: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._next_walk = 0.0

    def take(self) -> None:
        """Takes in which cgroups were made."""
        for hierarchy, cgroup_id, path in self._take_new():
            self._learn((hierarchy, cgroup_id), path)

    def walk(self) -> None:
        """Finds the cgroups that exist."""
        mounts = self._procfs.mounts()
        self._walk(0, [mount for mount in mounts if mount.filesystem == "cgroup2"])
        if self._hierarchy:
            self._walk(
                self._hierarchy,
                [
                    mount
                    for mount in mounts
                    if mount.filesystem == "cgroup" and self._controller in mount.options
                ],
            )
        self._next_walk = self._clock() + WALK_SECONDS

    def introduce(
        self, cgroup_id: int, cgroup1_id: int, *, tgid: int, start_ns: int
    ) -> Iterator[CgroupPath]:
        """What is still to be told of the cgroups of a process."""
        for hierarchy, number in ((0, cgroup_id), (self._hierarchy, cgroup1_id)):
            key = (hierarchy, number)
            if not number or key in self._told:
                continue
            path = self._find(key, tgid, start_ns)
            if path is None:
                continue
            self._told[key] = None
            if len(self._told) > self._max_cgroups:
                self._told.popitem(last=False)
            yield CgroupPath(hierarchy=hierarchy, cgroup_id=number, path=path)

    def _find(self, key: tuple[int, int], tgid: int, start_ns: int) -> bytes | None:
        if key not in self._paths:
            self.take()
        path = self._paths.get(key)
        if path is not None:
            self._paths.move_to_end(key)
            return path
        for hierarchy, controllers, own in self._procfs.cgroups(tgid):
            is_wanted = self._controller in controllers if key[0] else not hierarchy
            if is_wanted and self._procfs.is_same_start(tgid, start_ns):
                self._learn(key, own)
                return self._paths[key]
        if self._clock() >= self._next_walk:
            self.walk()
        return self._paths.get(key)

    def _learn(self, key: tuple[int, int], path: bytes) -> None:
        self._paths[key] = path[:MAX_PATH_BYTES]
        self._paths.move_to_end(key)
        if len(self._paths) > self._max_cgroups:
            self._paths.popitem(last=False)

    def _walk(self, hierarchy: int, mounts: list[Mount]) -> None:
        """Of several mounts of a hierarchy, the one that shows most of it."""
        if not mounts:
            return
        top = Path(min(mounts, key=lambda mount: (mount.root != "/", mount.root)).mount_point)
        with contextlib.suppress(OSError):
            self._learn((hierarchy, top.stat().st_ino), b"/")
        waiting = [(os.fsencode(top), b"/")]
        seen = 0
        while waiting and seen < _MAX_FOLDERS:
            folder, path = waiting.pop()
            seen += 1
            try:
                with os.scandir(folder) as entries:
                    inner = [
                        (entry.path, entry.name, entry.inode())
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    ]
            except OSError:
                continue  # removed meanwhile
            for inner_folder, name, inode in inner:
                inner_path = path.rstrip(b"/") + b"/" + name
                self._learn((hierarchy, inode), inner_path)
                waiting.append((inner_folder, inner_path))
