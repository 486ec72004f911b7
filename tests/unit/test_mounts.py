"""Where the cgroup hierarchy is, as the files of a made-up /proc and folder tree say."""

from pathlib import Path

import pytest

from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.sensor import mounts
from picosnitch_exporter.sensor.procfs import Procfs


@pytest.fixture
def root_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hierarchy's root."""
    root = tmp_path / "host"
    root.mkdir()
    monkeypatch.setattr(mounts, "_ROOT_INODE", root.stat().st_ino)
    return root


def procfs_with(tmp_path: Path, *points: Path) -> Procfs:
    folder = tmp_path / "proc" / "self"
    folder.mkdir(parents=True)
    lines = [
        f"{30 + index} 20 0:{26 + index} /.. {point} ro,nosuid - cgroup2 cgroup ro\n"
        for index, point in enumerate(points)
    ]
    (folder / "mountinfo").write_text("".join(lines))
    return Procfs(tmp_path / "proc")


def test_root_is_found_when_a_part_is_mounted_before_it(tmp_path: Path, root_inode: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()

    assert root_inode == mounts.cgroup2_root(procfs_with(tmp_path, part, root_inode))


def test_start_is_refused_when_only_a_part_is_mounted(tmp_path: Path, root_inode: Path) -> None:
    part = root_inode / "kubepods"
    part.mkdir()

    with pytest.raises(RequirementError, match="only a part of the cgroup hierarchy"):
        mounts.cgroup2_root(procfs_with(tmp_path, part, tmp_path / "vanished"))


def test_start_is_refused_when_none_is_mounted(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="no cgroup v2 hierarchy"):
        mounts.cgroup2_root(procfs_with(tmp_path))
