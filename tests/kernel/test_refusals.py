"""What stands in the way of a start is said in one line, which names what to do."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kernel.exporter import BPFFS, COMMAND, Exporter

PINS = BPFFS / "picosnitch-test-refusals"


@pytest.fixture
def storage() -> Iterator[Path]:
    # Not pytest's own folder, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-test-"))
    folder.chmod(0o755)
    yield folder / "storage"
    shutil.rmtree(folder)
    shutil.rmtree(PINS, ignore_errors=True)


def run(
    storage: Path, *flags: str, before: Sequence[str] = (), user: str | None = None
) -> subprocess.CompletedProcess[str]:
    config = storage.parent / "config.yaml"
    config.write_text(f"bpf: {{pin_path: {PINS}}}\n")
    return subprocess.run(
        [
            *before,
            *COMMAND,
            "run",
            f"--config.file={config}",
            f"--storage.path={storage}",
            "--web.listen-address=127.0.0.1:0",
            *flags,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        user=user,
        cwd="/",
    )


def the_line(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert code == result.returncode, result.stderr
    lines = [line for line in result.stderr.splitlines() if "event=" not in line]
    assert len(lines) == 1, result.stderr
    assert not PINS.exists()
    return lines[0]


def in_a_mount_namespace(command: str) -> Sequence[str]:
    return ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")


@pytest.mark.usefixtures("privileges")
class TestRefusals:
    def test_capabilities_are_named_when_it_is_not_root(self, storage: Path) -> None:
        if not os.access(sys.executable, os.X_OK):
            pytest.fail("nobody can run this Python")
        line = the_line(run(storage, user="nobody"))
        assert "missing CAP_" in line
        assert "run it as root" in line

    def test_capability_is_named_when_root_lacks_it(self, storage: Path) -> None:
        without = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
        line = the_line(run(storage, before=without))
        assert "missing CAP_SYS_PTRACE" in line

    def test_btf_is_named_when_the_kernel_has_none(self, storage: Path) -> None:
        hidden = in_a_mount_namespace("mount -t tmpfs none /sys/kernel/btf")
        line = the_line(run(storage, before=hidden))
        assert "has no BTF" in line
        assert "CONFIG_DEBUG_INFO_BTF" in line

    def test_flag_is_named_when_the_port_is_taken(self, storage: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            line = the_line(run(storage, f"--web.listen-address=127.0.0.1:{port}"))
        assert f"127.0.0.1:{port} is taken" in line
        assert "--web.listen-address" in line

    def test_flag_is_named_when_the_storage_is_read_only(self, storage: Path) -> None:
        storage.mkdir()
        read_only = in_a_mount_namespace(f"mount -t tmpfs -o ro none {storage}")
        line = the_line(run(storage, before=read_only))
        assert "read-only" in line
        assert "--storage.path" in line

    def test_no_link_is_followed_when_the_storage_is_one(self, storage: Path) -> None:
        target = storage.parent / "target"
        target.mkdir()
        storage.symlink_to(target)
        line = the_line(run(storage))
        assert str(storage) in line
        assert list(target.iterdir()) == []

    def test_owner_is_named_when_the_storage_is_somebody_elses(self, storage: Path) -> None:
        storage.mkdir()
        os.chown(storage, 12345, 12345)
        assert "belongs to uid 12345" in the_line(run(storage))

    def test_key_is_named_when_the_configuration_is_wrong(self, storage: Path) -> None:
        line = the_line(run(storage, "--web.telemetry-path=metrics"), code=2)
        assert "--web.telemetry-path" in line

    def test_first_is_named_when_a_second_one_starts(self, storage: Path) -> None:
        with Exporter.start() as first:
            config = storage.parent / "config.yaml"
            config.write_text(f"bpf: {{pin_path: {first.pins}}}\n")
            result = subprocess.run(
                [*COMMAND, "run", f"--config.file={config}", f"--storage.path={storage}"],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert result.returncode == 1
            assert f"process {first.sensor_pid}" in result.stderr
