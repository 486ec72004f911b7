"""Where bpffs and the cgroup hierarchy are mounted."""

import contextlib
from pathlib import Path

from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.sensor.procfs import Procfs

_BPFFS = Path("/sys/fs/bpf")
_ROOT_INODE = 1
"""Of the root cgroup: kernfs_create_root() in fs/kernfs/dir.c makes it first."""


def ensure_bpffs(path: Path) -> None:
    """Mounts bpffs on /sys/fs/bpf if `path` is below that and it is not mounted.

    Raises
    ------
    OSError
        if it can't be mounted, or `path` is on another filesystem.
    """
    mounted = [Path(m.mount_point) for m in Procfs().mounts() if m.filesystem == "bpf"]
    if any(path.is_relative_to(point) for point in mounted):
        return
    if not path.is_relative_to(_BPFFS):
        msg = f"{path} is not on a BPF filesystem"
        raise OSError(0, msg)
    import subprocess  # where it is needed, once: half a megabyte

    result = subprocess.run(
        ["/bin/mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(_BPFFS)],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise OSError(0, result.stderr.strip() or "bpffs can't be mounted")


def cgroup2_root(procfs: Procfs | None = None) -> Path:
    """The root of the unified hierarchy, on hybrid systems too.

    A container may show its own part of the hierarchy, and the host's beside it or on top of it.

    Raises
    ------
    RequirementError
        if it is not mounted, or only a part of it is to be seen: programs that are attached to that
        would count nothing else.
    """
    points = [m.mount_point for m in (procfs or Procfs()).mounts() if m.filesystem == "cgroup2"]
    if not points:
        raise RequirementError(
            "no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified "
            "(in a container: share the host's /sys/fs/cgroup)"
        )
    for point in points:
        with contextlib.suppress(OSError):
            if Path(point).stat().st_ino == _ROOT_INODE:
                return Path(point)
    raise RequirementError(
        f"only a part of the cgroup hierarchy is to be seen at {', '.join(points)}: share the "
        "host's /sys/fs/cgroup (docker run -v /sys/fs/cgroup:/sys/fs/cgroup:ro, a pod: hostPath)"
    )
