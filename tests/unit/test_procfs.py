import os
from pathlib import Path

import pytest

from picosnitch_exporter.sensor.procfs import Procfs, kernel_device, parse_mountinfo

MOUNTINFO = b"""\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 /snap\\040shot /mnt/with\\040blank rw - btrfs /dev/vdb rw,subvol=/snap
31 22 0:27 / /overlay rw master:4 propagate_from:2 - overlay overlay rw
a line that is none
32 22 nonsense / / rw - ext4 /dev/vdc rw
"""


@pytest.fixture
def proc(tmp_path: Path) -> Procfs:
    folder = tmp_path / "7"
    folder.mkdir()
    (tmp_path / "fs").mkdir()
    (tmp_path / "self").symlink_to("7")
    # Field 22, the start, is 1234 clock ticks; the name has what separates the fields.
    after_name = ["S", "1", *["0"] * 17, "1234", *["0"] * 30]
    (folder / "stat").write_bytes(b"7 (a) b (c) " + " ".join(after_name).encode())
    (folder / "cmdline").write_bytes(b"prog\0--flag\0\xff\0")
    (folder / "mountinfo").write_bytes(MOUNTINFO)
    return Procfs(tmp_path)


def test_mounts_are_read_when_fields_are_optional_escaped_or_broken() -> None:
    assert [
        (22, kernel_device(254, 0), "/", "/", "ext4"),
        (30, kernel_device(0, 26), "/snap shot", "/mnt/with blank", "btrfs"),
        (31, kernel_device(0, 27), "/", "/overlay", "overlay"),
    ] == [
        (mount.mount_id, mount.device, mount.root, mount.mount_point, mount.filesystem)
        for mount in parse_mountinfo(MOUNTINFO)
    ]


def test_mount_is_found_by_its_number_alone(proc: Procfs) -> None:
    mounts = proc.mounts(7)
    assert [mount.mount_id for mount in mounts] == [22, 30, 31]
    assert [proc.mount(7, mount.mount_id) for mount in mounts] == mounts
    assert [proc.mount(*each) for each in ((7, 2), (7, 3), (7, 1), (7, 0), (8, 22))] == [None] * 5


@pytest.mark.parametrize("name", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\\"])
def test_mount_is_one_line_when_its_point_has_what_ends_lines_elsewhere(
    proc: Procfs, name: str
) -> None:
    point = f"/mnt/a{name}b c"
    escaped = point.replace("\\", "\\134").replace(" ", "\\040")
    line = f"40 22 0:40 / {escaped} rw - tmpfs none rw\n"
    (proc.root / "7/mountinfo").write_bytes(MOUNTINFO + os.fsencode(line))
    assert [mount.mount_point for mount in proc.mounts(7)][-1] == point


def test_cgroup_is_one_line_when_its_name_has_a_carriage_return(proc: Procfs) -> None:
    (proc.root / "7/cgroup").write_bytes(b"4:pids:/a\r0::/kubepods/pod1\n0::/b\x85c\n")
    assert proc.cgroups(7) == [
        (4, ["pids"], b"/a\r0::/kubepods/pod1"),
        (0, [""], b"/b\x85c"),
    ]


def test_processes_are_the_numbers_when_proc_has_other_folders(proc: Procfs) -> None:
    assert list(proc.pids()) == [7]


def test_start_is_found_when_the_name_has_brackets(proc: Procfs) -> None:
    assert 1234 * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) == proc.start_ns(7)


def test_start_is_the_same_when_it_differs_by_less_than_a_tick(proc: Procfs) -> None:
    start_ns = proc.start_ns(7)
    assert start_ns is not None
    assert proc.is_same_start(7, start_ns + 9_000_000)
    assert not proc.is_same_start(7, start_ns + 1_000_000_000)


def test_command_line_is_bytes_when_it_is_not_utf8(proc: Procfs) -> None:
    assert proc.cmdline(7) == b"prog\0--flag\0\xff\0"


def test_nothing_is_found_when_the_process_has_vanished(proc: Procfs) -> None:
    assert proc.cmdline(8) is None
    assert proc.start_ns(8) is None
    assert proc.executable_path(8) is None
    assert not proc.is_same_start(8, 0)
    assert not proc.mounts(8)


def test_path_has_no_mark_when_the_file_is_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"")
    descriptor = os.open(path, os.O_RDONLY)
    path.unlink()
    assert os.fsencode(path) == Procfs().path_of(descriptor)
    os.close(descriptor)


def test_holder_is_found_when_a_file_is_locked(tmp_path: Path) -> None:
    import fcntl

    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert Procfs().lock_holder(descriptor) is None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert os.getpid() == Procfs().lock_holder(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("text", "expected"), [("pos:\t0\nmemlock:\t2098048\nmap_id:\t7\n", 2098048), ("pos:\t0\n", 0)]
)
def test_memory_of_a_map_is_what_the_kernel_says(proc: Procfs, text: str, expected: int) -> None:
    (proc.root / "7/fdinfo").mkdir()
    (proc.root / "7/fdinfo/5").write_text(text)

    assert proc.map_memory_bytes(5) == expected
