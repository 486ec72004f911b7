import os
from pathlib import Path

import pytest

from picosnitch_exporter.sensor.cgroups import (
    WALK_SECONDS,
    Cgroups,
    NewCgroup,
    cgroup1_hierarchy,
)
from picosnitch_exporter.sensor.procfs import Mount, Procfs
from picosnitch_exporter.stream import CgroupPath

CGROUPS = """\
#subsys_name\thierarchy\tnum_cgroups\tenabled
cpuset\t3\t1\t1
memory\t4\t20\t1
pids\t{pids}\t1\t1
"""


class Host:
    """A /proc, and folders in place of cgroupfs: the inode is the number there as well."""

    def __init__(self, folder: Path, *, pids: int) -> None:
        self.unified, self.v1, proc = folder / "unified", folder / "pids", folder / "proc"
        for made in (self.unified, self.v1, proc / "self", proc / "7"):
            made.mkdir(parents=True)
        (proc / "cgroups").write_text(CGROUPS.format(pids=pids))
        lines = [
            f"30 22 0:26 / {self.unified} rw - cgroup2 cgroup2 rw",
            f"31 22 0:27 / {self.v1} rw - cgroup cgroup rw,pids",
            f"32 22 0:28 / {folder} rw - cgroup cgroup rw,memory",
        ]
        (proc / "self/mountinfo").write_text("\n".join(lines))
        after_name = ["S", *["0"] * 18, "100", *["0"] * 30]
        (proc / "7/stat").write_text("7 (a) " + " ".join(after_name))
        self.procfs = Procfs(proc)
        self.now = 0.0
        self.new: list[NewCgroup] = []
        self.cgroups = Cgroups(self.procfs, take_new=self.take_new, clock=lambda: self.now)

    def take_new(self) -> list[NewCgroup]:
        new, self.new = self.new, []
        return new

    def make(self, path: str, *, version: int = 2) -> int:
        folder = (self.unified if version == 2 else self.v1) / path
        folder.mkdir(parents=True)
        return folder.stat().st_ino

    def told(self, cgroup_id: int, cgroup1_id: int = 0) -> list[tuple[int, int, bytes]]:
        start_ns = self.procfs.start_ns(7)
        assert start_ns is not None
        found = self.cgroups.introduce(cgroup_id, cgroup1_id, tgid=7, start_ns=start_ns)
        return [(one.hierarchy, one.cgroup_id, one.path) for one in found]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, pids=8)


def test_first_controller_with_a_hierarchy_is_read_when_there_are_several(
    host: Host, tmp_path: Path
) -> None:
    assert cgroup1_hierarchy(host.procfs) == (1, 8)
    assert cgroup1_hierarchy(Host(tmp_path / "other", pids=0).procfs) == (2, 4)


def test_no_controller_is_read_when_proc_says_nothing(tmp_path: Path) -> None:
    assert cgroup1_hierarchy(Procfs(tmp_path)) == (0, 0)


def test_path_is_told_once_when_a_cgroup_was_made(host: Host) -> None:
    host.new.append((0, 5, b"/docker/abc"))

    assert host.told(5) == [(0, 5, b"/docker/abc")]
    assert host.told(5) == []


def test_path_is_told_when_a_cgroup_existed_before(host: Host) -> None:
    number = host.make("system.slice/docker-a.scope")
    number1 = host.make("docker/a", version=1)
    host.cgroups.walk()

    assert host.told(number, number1) == [
        (0, number, b"/system.slice/docker-a.scope"),
        (8, number1, b"/docker/a"),
    ]


def test_root_is_told_when_a_process_is_in_it(host: Host) -> None:
    host.cgroups.walk()

    assert host.told(host.unified.stat().st_ino) == [(0, host.unified.stat().st_ino, b"/")]


def test_path_is_found_when_the_kernel_side_has_lost_it(host: Host) -> None:
    host.cgroups.walk()
    number = host.make("late")
    assert host.told(number) == []
    host.now = 10.0

    assert host.told(number) == [(0, number, b"/late")]


def test_process_is_asked_when_its_cgroup_can_not_be_seen(host: Host) -> None:
    (host.procfs.root / "7/cgroup").write_text("8:pids:/docker/a\n4:memory:/x\n0::/../b\n")

    assert host.told(77, 78) == [(0, 77, b"/../b"), (8, 78, b"/docker/a")]


def test_process_is_not_asked_when_its_number_is_anothers(host: Host) -> None:
    (host.procfs.root / "7/cgroup").write_text("0::/other\n")
    host.cgroups.walk()

    assert list(host.cgroups.introduce(77, 0, tgid=7, start_ns=1)) == []


def test_path_is_told_as_bytes_when_it_is_not_utf8(host: Host) -> None:
    number = host.make(os.fsdecode(b"\xff"))
    host.cgroups.walk()

    assert host.told(number) == [(0, number, b"/\xff")]


def test_pause_begins_after_the_walk_when_that_takes_long(host: Host) -> None:
    class Slow(Procfs):
        walks = 0

        def mounts(self, pid: int | str = "self") -> list[Mount]:
            self.walks += 1
            host.now += 2 * WALK_SECONDS
            return super().mounts(pid)

    procfs = Slow(host.procfs.root)
    cgroups = Cgroups(procfs, take_new=host.take_new, clock=lambda: host.now)
    for number in (1_000_001, 1_000_002):
        assert list(cgroups.introduce(number, 0, tgid=1, start_ns=0)) == []
    assert procfs.walks == 1
    host.now += WALK_SECONDS
    assert list(cgroups.introduce(1_000_003, 0, tgid=1, start_ns=0)) == []
    assert procfs.walks == 2


def test_cgroups_are_bounded_when_there_are_very_many(host: Host) -> None:
    cgroups = Cgroups(host.procfs, take_new=host.take_new, max_cgroups=10)
    for number in range(1, 101):
        host.new.append((0, number, b"/x"))
        frames = list(cgroups.introduce(number, 0, tgid=1, start_ns=0))
        assert frames == [CgroupPath(hierarchy=0, cgroup_id=number, path=b"/x")]

    assert len(cgroups._paths) == 10
    assert len(cgroups._told) == 10
