"""Who it was on btrfs: subvolumes number their files alike, and hide the device beneath."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.exporter import COMMAND, Exporter
from tests.kernel.generator import Generator, Program
from tests.kernel.network import run
from tests.kernel.oneshot import sent, shoot, sink

IMAGE_BYTES = 256 << 20


@pytest.fixture
def btrfs(privileges: None, tmp_path: Path) -> Iterator[Path]:  # noqa: ARG001 - before it is mounted
    """A folder in which a new filesystem is mounted."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("this machine: no mkfs.btrfs")
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run("mkfs.btrfs", "-q", str(image))
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], check=False)
    if mounted.returncode:
        pytest.skip("this kernel: no btrfs")
    try:
        yield folder
    finally:
        run("umount", "--lazy", str(folder))


def test_hash_is_known_when_the_file_is_in_a_subvolume(
    exporter: Exporter, shared_generator: Generator, btrfs: Path
) -> None:
    run("btrfs", "subvolume", "create", str(btrfs / "inner"))
    top = shared_generator.copy("top", folder=btrfs)
    inner = shared_generator.copy("inner", folder=btrfs / "inner")
    with sink(shared_generator) as port:
        for _ in range(3):
            shoot(top, port, 10)
            shoot(inner, port, 5)

    scrape = exporter.await_accounts({top.sha256: sent(30, 3), inner.sha256: sent(15, 3)})
    assert {str(inner.path)} == scrape.paths(inner.sha256)


def test_hash_is_known_when_the_exporter_has_mounts_of_its_own(
    privileges: None,  # noqa: ARG001 - before it is started
    shared_generator: Generator,
    btrfs: Path,
) -> None:
    """As by the unit's PrivateMounts: each mount has another number there."""
    run("btrfs", "subvolume", "create", str(btrfs / "inner"))
    programs = [shared_generator.copy("brief", folder=btrfs / "inner") for _ in range(5)]
    command = ["unshare", "--mount", *COMMAND]
    with Exporter.start(command=command) as exporter, sink(shared_generator) as port:
        for program in programs:
            run(str(program.path), "oneshot", f"port={port}", "bytes=5", "unlink=1")
        exporter.await_accounts({program.sha256: sent(5) for program in programs})


def test_hash_is_known_when_a_subvolume_is_mounted_by_itself(
    exporter: Exporter, shared_generator: Generator, btrfs: Path, tmp_path: Path
) -> None:
    run("btrfs", "subvolume", "create", str(btrfs / "alone"))
    there = shared_generator.copy("alone", folder=btrfs / "alone")
    mounted = tmp_path / "alone"
    mounted.mkdir()
    device = run("findmnt", "--noheadings", "--output", "SOURCE", str(btrfs)).strip()
    run("mount", "-o", "subvol=alone", device, str(mounted))
    try:
        program = Program(path=mounted / there.path.name, sha256=there.sha256)
        with sink(shared_generator) as port:
            shoot(program, port, 10)
        scrape = exporter.await_accounts({program.sha256: sent(10)})
        assert {str(program.path)} == scrape.paths(program.sha256)
    finally:
        run("umount", "--lazy", str(mounted))


def test_both_hashes_are_told_apart_when_a_snapshot_was_changed(
    exporter: Exporter, shared_generator: Generator, btrfs: Path
) -> None:
    """Number and generation of the inode are the same in both, and so is the device."""
    run("btrfs", "subvolume", "create", str(btrfs / "old"))
    old = shared_generator.copy("old", folder=btrfs / "old")
    run("btrfs", "subvolume", "snapshot", str(btrfs / "old"), str(btrfs / "new"))
    path = btrfs / "new" / old.path.name
    with path.open("ab") as file:
        file.write(b"changed\n")
    new = Program(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert old.path.stat().st_ino == new.path.stat().st_ino
    with sink(shared_generator) as port:
        for _ in range(3):
            shoot(old, port, 10)
            shoot(new, port, 5)

    exporter.await_accounts({old.sha256: sent(30, 3), new.sha256: sent(15, 3)})
