"""The unit under a real systemd: a manager of root's own, in a mount namespace.

The machine may have another one, or none: nothing outside of the namespace changes.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.exporter import BPFFS, free_port, poll

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "picosnitch-exporter.service"
SYSTEMD = Path("/lib/systemd/systemd")
NAME = UNIT.name
# What is made at boot: stand-ins that hide files, and the sign that systemd is there.
MANAGER = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir /run/manager/systemd
chmod 700 /run/manager
cd /run/systemd/inaccessible
touch reg; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0; mkfifo sock
cp -a . /run/manager/systemd/inaccessible
cd /
exec env -i HOME="$1" XDG_RUNTIME_DIR=/run/manager PATH="$PATH" "$2" --user
"""

pytestmark = pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not installed")


class Manager:
    """systemd with one unit; what it is asked is asked within its namespace."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.said = folder / "storage" / "said"
        self.pins = BPFFS / f"picosnitch-test-{secrets.token_hex(6)}"
        (folder / "storage").mkdir(mode=0o700)
        config = folder / "config.yaml"
        config.write_text(f"bpf: {{pin_path: {self.pins}}}\nnotifications: {{desktop: false}}\n")
        units = folder / ".config" / "systemd" / "user"
        units.mkdir(parents=True)
        command = f"{sys.executable} -m picosnitch_exporter run --config.file={config}"
        command += (
            f" --storage.path={folder / 'storage'} --web.listen-address=127.0.0.1:{self.port}"
        )
        text = re.sub(r"(?m)^ExecStart=.*", f"ExecStart={command}", UNIT.read_text())
        text = re.sub(r"(?m)^WatchdogSec=.*", "WatchdogSec=6", text)
        text = re.sub(r"(?m)^TimeoutStartSec=.*", "TimeoutStartSec=60", text)
        # Where this test and the checkout are, which the sandbox may hide.
        text = text.replace(
            "[Service]\n",
            f"[Service]\nReadWritePaths={folder}\nBindReadOnlyPaths={ROOT}\n"
            f"StandardError=append:{self.said}\n",
        )
        (units / NAME).write_text(text)
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", MANAGER, "sh", folder, SYSTEMD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-m", "-t", str(self.process.pid), "systemctl", "--user", *arguments],
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": "/run/manager"},
            capture_output=True,
            text=True,
            check=False,
        )

    def show(self, name: str) -> str:
        return self.control("show", NAME, "--value", "-p", name).stdout.strip()

    def heard(self) -> str:
        return self.said.read_text() if self.said.exists() else "nothing"

    def end(self) -> None:
        self.control("stop", NAME)
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.pins, ignore_errors=True)


@pytest.fixture(scope="module")
def manager(privileges: None) -> Iterator[Manager]:  # noqa: ARG001 - as root
    # Not below /tmp, which the unit has one of its own of.
    folder = Path(f"/var/lib/picosnitch-test-{secrets.token_hex(6)}")
    folder.mkdir(mode=0o755)
    running = Manager(folder)
    try:
        if not poll(lambda: running.control("show", "-p", "Version").returncode == 0, seconds=20):
            pytest.skip("systemd does not run here")
        started = running.control("start", NAME)
        assert started.returncode == 0, running.show("ExecMainStatus") + running.heard()
        yield running
    finally:
        running.end()
        shutil.rmtree(folder)


def test_start_is_over_when_traffic_is_counted(manager: Manager) -> None:
    assert manager.show("ActiveState") == "active"
    assert manager.show("StatusText") == "Counting traffic"
    assert "adopted=false" in manager.heard()
    assert "level=error" not in manager.heard()


def test_sandbox_lets_it_pin_and_nothing_else(manager: Manager) -> None:
    assert manager.pins.exists()
    pid = manager.show("MainPID")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",")[0] for line in mounts}
    assert options["/sys/fs/bpf"] == "rw"
    assert options["/sys"] == options["/"] == "ro"
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


def test_restart_takes_over_what_counts(manager: Manager) -> None:
    assert manager.control("restart", NAME).returncode == 0
    assert poll(lambda: manager.heard().count("event=attached") == 2, seconds=20)
    assert manager.heard().count("adopted=true") == 1


def test_watchdog_starts_it_again_when_the_exporter_process_hangs(manager: Manager) -> None:
    pid = manager.show("MainPID")
    before = time.monotonic()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGSTOP)

    assert poll(lambda: manager.show("NRestarts") == "1", seconds=40)
    assert poll(lambda: manager.show("SubState") == "running", seconds=60)
    assert time.monotonic() - before > 2
    assert manager.heard().count("adopted=true") == 2


def test_stop_leaves_the_kernel_side_counting(manager: Manager) -> None:
    assert manager.control("stop", NAME).returncode == 0
    assert manager.show("Result") == "success"
    assert manager.pins.exists()
