"""Which filesystems are marked, where others have mounted whatever they like."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.sensor.filesystems import Filesystems
from picosnitch_exporter.sensor.procfs import Procfs, kernel_device


class WatchedDevices:
    """The kernel's map, with room for so many."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.devices: set[bytes] = set()

    def update(self, key: bytes, _value: bytes) -> None:
        if len(self.devices) >= self.room:
            raise KernelError("map watched_devices takes no entry")
        self.devices.add(key)

    def delete(self, key: bytes) -> None:
        self.devices.discard(key)


class Marked(list[bytes]):
    """What was marked, which is whatever was asked for."""

    def mark(self, path: bytes) -> bool:
        self.append(path)
        return True


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """This process is 7."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/mountinfo").write_text(line(20, 1, "/", "ext4"))
    (tmp_path / "self").symlink_to("7")
    return tmp_path


def line(number: int, device: int, point: str, filesystem: str) -> str:
    return f"{number} 1 0:{device} / {point} rw - {filesystem} none rw\n"


def add_process(proc: Path, pid: int, *lines: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "mountinfo").write_text("".join(lines))


def add_namespace(proc: Path, pid: int, *lines: str) -> None:
    """A process with mounts of its own."""
    add_process(proc, pid, *lines)
    (proc / str(pid) / "ns").mkdir()
    (proc / str(pid) / "ns/mnt").symlink_to(f"mnt:[{pid}]")


def test_others_are_watched_when_the_kernels_map_is_full(
    proc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marked = Marked()
    filesystems = Filesystems(procfs=Procfs(proc), mark=marked.mark)
    devices = WatchedDevices(room=10)
    filesystems.tell_programs(devices)  # type: ignore[arg-type]
    add_process(proc, 8, *(line(100 + n, 100 + n, f"/m{n}", "tmpfs") for n in range(50)))
    filesystems.look_for(kernel_device(0, 149), 8)
    filesystems.look_for(kernel_device(0, 120), 8)
    for number in range(100, 150):
        filesystems.look_for(kernel_device(0, number), 8)
    assert len(marked) >= 50
    assert len(devices.devices) == 10
    assert len([one for one in caplog.records if "filesystem_unnoted" in str(one.msg)]) == 1
    assert filesystems.type_of(kernel_device(0, 149)) == "tmpfs"


def test_a_refused_filesystem_is_tried_a_few_times_when_it_is_mounted_often(proc: Path) -> None:
    tried: Counter[bytes] = Counter()

    def refuse(path: bytes) -> bool:
        tried[path] += 1
        return False

    filesystems = Filesystems(procfs=Procfs(proc), mark=refuse)
    filesystems.watch()
    add_process(proc, 8, *(line(100 + n, 99, f"/m{n}", "fuse") for n in range(5_000)))
    before = tried.total()
    filesystems.look_for(kernel_device(0, 99), 8)
    assert tried.total() - before == 4


def test_only_the_wanted_one_is_marked_when_a_process_has_many(proc: Path) -> None:
    marked = Marked()
    filesystems = Filesystems(procfs=Procfs(proc), mark=marked.mark)
    filesystems.watch()
    add_process(proc, 8, *(line(100 + n, 100 + n, f"/m{n}", "tmpfs") for n in range(50)))
    marked.clear()
    filesystems.look_for(kernel_device(0, 120), 8)
    assert [path[-4:] for path in marked] == [b"/m20"]


def test_foreign_one_is_marked_anew_when_something_runs_there_without_an_event(proc: Path) -> None:
    marked = Marked()
    filesystems = Filesystems(procfs=Procfs(proc), mark=marked.mark)
    filesystems.watch()
    add_process(proc, 8, line(100, 100, "/old", "tmpfs"))
    add_process(proc, 9, line(101, 100, "/new", "tmpfs"), line(102, 101, "/other", "tmpfs"))
    for pid in (8, 9):
        filesystems.look_for(kernel_device(0, 100), pid)
        filesystems.look_for(kernel_device(0, 1), pid)
    assert [path.rpartition(b"/")[2] for path in marked] == [b"", b"old", b"new"]


def test_foreign_one_is_forgotten_only_when_no_mount_namespace_has_it(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystems = Filesystems(procfs=Procfs(proc), mark=lambda _path: True)
    devices = WatchedDevices(room=10)
    filesystems.tell_programs(devices)  # type: ignore[arg-type]
    add_namespace(proc, 8, line(100, 100, "/stays", "tmpfs"))
    add_namespace(proc, 9, line(101, 101, "/goes", "tmpfs"))
    filesystems.watch()
    assert len(devices.devices) == 3
    shutil.rmtree(proc / "9")
    for device in (100, 101):
        # Of a process that has ended: nothing is to be seen by it, and it was just looked.
        filesystems.look_for(kernel_device(0, device), 7777)
    assert len(devices.devices) == 3
    monkeypatch.setattr("picosnitch_exporter.sensor.filesystems._RESCAN_SECONDS", 0.0)
    filesystems.look_for(kernel_device(0, 100), 7777)
    assert filesystems.type_of(kernel_device(0, 100)) == "tmpfs"
    assert filesystems.type_of(kernel_device(0, 101)) is None
    assert len(devices.devices) == 2


def test_mount_is_found_when_only_a_process_that_has_ended_saw_it(proc: Path) -> None:
    add_namespace(proc, 8, line(500, 40, "/sub", "btrfs"))
    filesystems = Filesystems(procfs=Procfs(proc), mark=lambda _path: True)
    filesystems.watch()
    found = filesystems.mount_of(500, 9)
    assert found is not None
    assert (found.device, found.filesystem) == (kernel_device(0, 40), "btrfs")
    assert filesystems.mount_of(20, 9) is not None
    assert filesystems.mount_of(501, 9) is None
