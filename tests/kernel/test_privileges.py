"""What each process may do, read from the kernel, and that it is enough."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import picosnitch_exporter
from picosnitch_exporter import privileges
from tests.kernel.exporter import Exporter, poll

STARTS_WITH = (
    "chown,dac_read_search,kill,setgid,setpcap,setuid,sys_admin,sys_ptrace"  # docs/install.md
)
KEEPS = {2, 5, 19}
"""CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_PTRACE in include/uapi/linux/capability.h."""

# Below a cgroup of its own, as in a container's namespace; the shell's arguments follow.
SHOW_A_PART = """
part=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)/picosnitch-test-part
mkdir -p "$part"
mount --bind "$part" "${part%/*}"
exec "$0" "$@"
"""


def confined() -> tuple[str, ...]:
    """A command that starts with the documented capabilities and can't gain any."""
    listed = "-all," + ",".join(f"+{name}" for name in STARTS_WITH.split(","))
    return (
        *("setpriv", "--bounding-set", listed, "--inh-caps", listed, "--no-new-privs"),
        *(sys.executable, "-m", "picosnitch_exporter"),
    )


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}


def capabilities(pid: int, which: str) -> set[int]:
    held = int(status(pid)[which], 16)
    return {bit for bit in range(64) if held >> bit & 1}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def exporter_process(sensor: int) -> int:
    """The one of the sensor's children that is not root; the other one marks filesystems."""
    (pid,) = (child for child in children(sensor) if "0" not in status(child)["Uid"].split())
    return pid


@pytest.fixture(scope="module")
def confined_exporter(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it starts
    with Exporter.start(command=confined()) as running:
        yield running


@pytest.mark.parametrize("which", ["CapEff", "CapPrm", "CapBnd"])
def test_sensor_gives_up_what_it_no_longer_needs(confined_exporter: Exporter, which: str) -> None:
    assert capabilities(confined_exporter.sensor_pid, which) == KEEPS


def test_sensor_gives_up_the_same_when_root_started_it(exporter: Exporter) -> None:
    assert capabilities(exporter.sensor_pid, "CapEff") == KEEPS
    assert capabilities(exporter.sensor_pid, "CapBnd") == KEEPS


def test_neither_can_gain_any_by_an_exec(confined_exporter: Exporter) -> None:
    sensor = confined_exporter.sensor_pid
    for pid in (sensor, *children(sensor)):
        assert status(pid)["NoNewPrivs"] == "1"
        assert capabilities(pid, "CapInh") == set()
        assert capabilities(pid, "CapAmb") == set()


def test_exporter_process_has_none(confined_exporter: Exporter) -> None:
    pid = exporter_process(confined_exporter.sensor_pid)
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert capabilities(pid, which) == set()
    assert "0" not in status(pid)["Uid"].split()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own, which only root may enter."""
    with tempfile.TemporaryDirectory(prefix="picosnitch-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_all_is_served_when_only_root_may_enter_the_installation(
    privileges: None,  # noqa: ARG001 - before it starts
    folder: Path,
) -> None:
    """What is imported with the first scrape and the first visit can't be read by then."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    package = Path(picosnitch_exporter.__file__).parent
    shutil.copytree(package, closed / package.name)
    command = ("env", f"PYTHONPATH={closed}", sys.executable, "-m", package.name)
    with Exporter.start(command=command) as running:
        assert "picosnitch_exporter_build_info" in running.page("/metrics")
        assert "<html" in running.page("/")


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout[:64].decode()


def test_executables_are_hashed_when_only_their_owner_may_read_them(
    confined_exporter: Exporter, folder: Path
) -> None:
    """Which runs before it is looked for, and whose folder root could not search by itself."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    program = private / "talker"
    shutil.copy("/bin/bash", program)
    with program.open("ab") as file:
        file.write(os.urandom(16))  # a hash that nobody else has
    program.chmod(0o700)
    for path in (private, program):
        os.chown(path, 65534, 65534)
    expected = sha256(program)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        subprocess.run(
            [program, "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3"],
            check=True,
            cwd="/",
            user=65534,
            group=65534,
            extra_groups=[],
        )
    confined_exporter.await_scrape(
        lambda scrape: expected in scrape.by_hash(), f"{program} is shown as {expected}"
    )


def test_executables_are_hashed_when_their_filesystem_was_mounted_later(
    confined_exporter: Exporter, folder: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        program = folder / "talker"
        shutil.copy("/bin/bash", program)
        with program.open("ab") as file:
            file.write(os.urandom(16))
        expected = sha256(program)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            command = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3; read -t 30 <&3"
            talker = subprocess.Popen([program, "-c", command], cwd="/")
            try:
                confined_exporter.await_scrape(
                    lambda scrape: expected in scrape.by_hash(), f"{program} is shown as {expected}"
                )
            finally:
                talker.kill()
                talker.wait()
    finally:
        assert poll(lambda: _unmount(folder), seconds=10)


def _unmount(path: Path) -> bool:
    return subprocess.run(["umount", path], check=False, capture_output=True).returncode == 0


def is_silent(systemd: socket.socket, *, seconds: float) -> bool:
    systemd.settimeout(seconds)
    try:
        systemd.recv(256)
    except TimeoutError:
        return True
    return False


def test_systemd_is_told_of_start_life_and_end(
    privileges: None,  # noqa: ARG001 - before it is started
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")

        with Exporter.start() as running:
            assert systemd.recv(256).startswith(b"READY=1")
            assert systemd.recv(256) == b"WATCHDOG=1"
            assert systemd.recv(256) == b"WATCHDOG=1"
            running.stop(signal.SIGTERM)
            told = b"WATCHDOG=1"
            while told == b"WATCHDOG=1":
                told = systemd.recv(256)
            assert told.startswith(b"STOPPING=1")


def test_watchdog_is_not_told_when_the_exporter_process_hangs(
    privileges: None,  # noqa: ARG001 - before it is started
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "900000")
        with Exporter.start() as running:
            hung = exporter_process(running.sensor_pid)
            os.kill(hung, signal.SIGSTOP)
            try:
                # Four time-outs of silence, once what was sent before is read.
                assert poll(lambda: is_silent(systemd, seconds=3.6), seconds=60)
            finally:
                os.kill(hung, signal.SIGCONT)
            systemd.settimeout(20)
            assert systemd.recv(256) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        (("--pid", "--fork", "--mount-proc"), "--pid=host"),
        (("--cgroup", "--mount", "sh", "-ec", SHOW_A_PART), "only a part of the cgroup hierarchy"),
    ],
)
def test_start_is_refused_when_a_container_hides_the_host(
    privileges: None,  # noqa: ARG001 - as root
    namespace: tuple[str, ...],
    message: str,
) -> None:
    done = subprocess.run(
        ["unshare", *namespace, sys.executable, "-m", "picosnitch_exporter", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    for part in Path("/sys/fs/cgroup").glob("**/picosnitch-test-part"):
        part.rmdir()
    assert done.returncode == 1
    assert message in done.stdout


def test_thread_has_no_capability_and_others_keep_theirs_when_a_call_is_tried() -> None:
    held = privileges.held()
    assert held

    def attempt() -> None:
        line = next(
            line
            for line in Path("/proc/thread-self/status").read_text().splitlines()
            if line.startswith("CapEff:")
        )
        raise PermissionError(line.split()[1])

    def look() -> None:
        with pytest.raises(PermissionError, match=r"^0+$"):
            attempt()

    assert privileges.works_without_any(look, AssertionError)
    assert not privileges.works_without_any(attempt, PermissionError)
    assert privileges.held() == held
