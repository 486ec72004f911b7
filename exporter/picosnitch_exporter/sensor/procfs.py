"""Everything that the sensor reads from /proc.

A process that has vanished is a result (None), not an error. What others have named is read as
bytes and ends at newlines: only those can't be part of it, unlike all else that ends a line of text
in Python. Source: proc(5).
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_CMDLINE_BYTES = 64 * 1024
_DEVICE_MINOR_BITS = 20
_OPENED = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting for whoever has a lease on the file (fcntl(2), F_SETLEASE)."""
_ESCAPED = re.compile(r"\\([0-3][0-7]{2})")

PSEUDO_FILESYSTEMS = frozenset(
    {
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "efivarfs",
        "fusectl",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    }
)
"""Filesystems that hold no executables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of mountinfo; `device` as the kernel encodes it (major << 20 | minor)."""

    mount_id: int
    device: int
    root: str
    mount_point: str
    filesystem: str
    options: frozenset[str] = frozenset()
    """Those of the superblock."""


def kernel_device(major: int, minor: int) -> int:
    """A device number as struct super_block has it."""
    return major << _DEVICE_MINOR_BITS | minor


def _unescape(field: str) -> str:
    """Undoes mountinfo's octal escapes of blanks, newlines and backslashes."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)


def parse_mountinfo(text: bytes) -> list[Mount]:
    """Lines that can't be read are left out."""
    found = []
    for line in os.fsdecode(text).split("\n"):
        fields = line.split(" ")
        with contextlib.suppress(ValueError, IndexError):
            separator = fields.index("-", 6)
            major, minor = fields[2].split(":")
            found.append(
                Mount(
                    mount_id=int(fields[0]),
                    device=kernel_device(int(major), int(minor)),
                    root=_unescape(fields[3]),
                    mount_point=_unescape(fields[4]),
                    filesystem=fields[separator + 1],
                    options=frozenset(fields[separator + 3].split(",")),
                )
            )
    return found


class Procfs:
    """A mounted /proc; the path is injected for tests."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.root = root

    def pids(self) -> Iterator[int]:
        """Thread groups that exist now."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.name.isdecimal():
                    yield int(entry.name)

    def open_descriptors(self) -> int:
        """How many descriptors this process has open."""
        return sum(1 for _ in os.scandir(self.root / "self/fd"))

    def map_memory_bytes(self, descriptor: int) -> int:
        """Memory that a BPF map of this process takes; 0 where the kernel does not say.

        Source: bpf_map_show_fdinfo() in kernel/bpf/syscall.c; exact since Linux 6.4 (90a5527d7686).
        """
        text = (self.root / f"self/fdinfo/{descriptor}").read_text("ascii")
        found = re.search(r"^memlock:\t(\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def mounts(self, pid: int | str = "self") -> list[Mount]:
        """The mounts that a process sees; none if it has vanished."""
        return parse_mountinfo(self._mountinfo(pid))

    def mount(self, pid: int | str, mount_id: int) -> Mount | None:
        """The one of this number among them; a host of many containers has thousands."""
        _before, start, rest = (b"\n" + self._mountinfo(pid)).partition(b"\n%d " % mount_id)
        line = start + rest.partition(b"\n")[0]
        return next(iter(parse_mountinfo(line.lstrip())), None)

    def _mountinfo(self, pid: int | str) -> bytes:
        try:
            return (self.root / str(pid) / "mountinfo").read_bytes()
        except OSError:
            return b""

    def boot_id(self) -> str:
        """Different after each boot of the machine."""
        return (self.root / "sys/kernel/random/boot_id").read_text("ascii").strip()

    def cgroup1_hierarchies(self) -> dict[str, int]:
        """Numbers of the v1 hierarchies by controller; 0 where it is not in one."""
        found: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for line in (self.root / "cgroups").read_text("ascii").splitlines():
                fields = line.split()
                if not line.startswith("#") and len(fields) > 1:
                    found[fields[0]] = int(fields[1])
        return found

    def cgroups(self, pid: int) -> list[tuple[int, list[str], bytes]]:
        """Number, controllers and path for each hierarchy (0: v2); none if it has vanished."""
        try:
            text = (self.root / str(pid) / "cgroup").read_bytes()
        except OSError:
            return []
        lines = [line.split(b":", 2) for line in text.split(b"\n")]
        return [
            (int(line[0]), os.fsdecode(line[1]).split(","), line[2])
            for line in lines
            if len(line) == 3  # noqa: PLR2004 - hierarchy, controllers, path
        ]

    def open_mounts(self) -> int:
        """A descriptor whose priority data says that the own mount namespace has changed."""
        return os.open(self.root / "self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)

    def mount_namespaces(self) -> dict[str, int]:
        """One process for each mount namespace, by the namespace's name."""
        found: dict[str, int] = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found.setdefault(str((self.root / str(pid) / "ns/mnt").readlink()), pid)
        return found

    def mount_id_and_inode(self, descriptor: int) -> tuple[int, int | None]:
        """Of an open descriptor of this process; the inode is there since 5.14.

        Raises
        ------
        OSError
            if /proc can't be read.
        """
        mount_id, inode = 0, None
        for line in (self.root / "self/fdinfo" / str(descriptor)).read_text("ascii").splitlines():
            name, _colon, value = line.partition(":\t")
            if name == "mnt_id":
                mount_id = int(value)
            elif name == "ino":
                inode = int(value)
        return mount_id, inode

    def open_executable(self, pid: int) -> int:
        """An open descriptor of what a process runs.

        Raises
        ------
        OSError
            if the process has vanished, is a kernel thread, or its file can't be read.
        """
        return os.open(self.root / str(pid) / "exe", _OPENED)

    def reopen(self, handle: int) -> int:
        """For reading, what an O_PATH descriptor stands for.

        Raises
        ------
        OSError
            if it can't be read.
        """
        return os.open(self.root / "self/fd" / str(handle), _OPENED)

    def executable_path(self, pid: int) -> bytes | None:
        """What the link of a process' executable says, as its own mount namespace names it."""
        try:
            return os.fsencode((self.root / str(pid) / "exe").readlink())
        except OSError:
            return None

    def has_file(self, pid: int, path: bytes) -> bool:
        """Whether anything is at this path, as the process sees it, or if it has ended, we do."""
        root = os.fsencode(self.root / str(pid) / "root")
        return os.path.lexists(root + path) or os.path.lexists(path)

    def is_executable_gone(self, pid: int) -> bool:
        """Whether a process runs a file that has no name any more, nor anything in its place."""
        try:
            links = os.stat(self.root / str(pid) / "exe").st_nlink  # noqa: PTH116 - the link's end
        except OSError:
            return False
        path = self.executable_path(pid)
        if links or path is None:
            return False
        return not self.has_file(pid, path.removesuffix(b" (deleted)"))

    def path_of(self, descriptor: int) -> bytes:
        """The path of an open file, without the mark of an unlinked one."""
        path = os.fsencode((self.root / "self/fd" / str(descriptor)).readlink())
        return path.removesuffix(b" (deleted)")

    def start_ns(self, pid: int) -> int | None:
        """Start of a process in CLOCK_BOOTTIME, in steps of a clock tick (10 ms)."""
        try:
            text = (self.root / str(pid) / "stat").read_bytes()
        except OSError:
            return None
        # The name, in brackets, may contain brackets and blanks: fields count from the last one.
        fields = text[text.rfind(b")") + 2 :].split()
        return int(fields[19]) * (1_000_000_000 // _CLOCK_TICKS)

    def is_same_start(self, pid: int, start_ns: int) -> bool:
        """Whether the process that has this number now is the one that started then."""
        found = self.start_ns(pid)
        return found is not None and abs(found - start_ns) <= 2 * 1_000_000_000 // _CLOCK_TICKS

    def cmdline(self, pid: int) -> bytes | None:
        """NUL separated arguments, at most 64 KiB."""
        try:
            with (self.root / str(pid) / "cmdline").open("rb") as file:
                return file.read(_CMDLINE_BYTES)
        except OSError:
            return None

    def lock_holder(self, descriptor: int) -> int | None:
        """Who holds a flock() on the file of `descriptor`."""
        inode = os.fstat(descriptor).st_ino
        try:
            lines = (self.root / "locks").read_text("ascii").splitlines()
        except OSError:
            return None
        for line in lines:
            fields = line.split()
            if "FLOCK" in fields and fields[-3].rpartition(":")[2] == str(inode):
                return int(fields[-4])
        return None
