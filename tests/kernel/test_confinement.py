"""What the processes can't do, by what the kernel says of them, and by trying.

What is tried runs in a process of its own, confined by the very functions that the product calls.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from picosnitch_exporter import confinement, privileges
from picosnitch_exporter.sensor import confines as sensor_confines
from picosnitch_exporter.sensor.fanotify import Fanotify
from picosnitch_exporter.sensor.marker import Marker
from picosnitch_exporter.service import confines
from picosnitch_exporter.settings import Settings, StorageSettings
from tests.kernel.exporter import Exporter
from tests.kernel.test_privileges import capabilities, children, exporter_process, status

Attempt = Callable[[], object]

NUMBERS = {"bpf": 321, "perf_event_open": 298, "io_uring_setup": 425, "keyctl": 250, "ptrace": 101}
if os.uname().machine == "aarch64":
    NUMBERS = {
        "bpf": 280,
        "perf_event_open": 241,
        "io_uring_setup": 425,
        "keyctl": 219,
        "ptrace": 117,
    }
"""include/uapi/asm-generic/unistd.h, arch/x86/entry/syscalls/syscall_64.tbl."""
LIBC = ctypes.CDLL(None, use_errno=True)
MARKER_KEEPS = {2, 19, 21}
"""CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN."""


def call(function: Callable[..., int], *arguments: object) -> None:
    """A call of the C library, with its errors as exceptions."""
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syscall(name: str, *arguments: int) -> None:
    call(LIBC.syscall, NUMBERS[name], *map(ctypes.c_long, arguments))


def outcome(confine: Attempt, attempts: Sequence[Attempt]) -> list[str]:
    """What became of each attempt in a confined process: "done", or the name of the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        said = []
        try:
            confine()
            for attempt in attempts:
                try:
                    attempt()
                    said.append("done")
                except OSError as error:
                    said.append(errno.errorcode[error.errno or 0])
        except BaseException:  # noqa: BLE001 - a forked child must not return into pytest
            said = [traceback.format_exc().replace("\n", " | ")]
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        text = answers.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text.split("\n")


@pytest.fixture
def folder(privileges: None) -> Iterator[Path]:  # noqa: ARG001 - before anything is tried
    made = Path(tempfile.mkdtemp(prefix="picosnitch-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def as_exporter(folder: Path) -> tuple[Path, Attempt]:
    """Storage, and what makes a process the exporter."""
    account = privileges.find_account(None)
    storage = folder / "storage"
    storage.mkdir(mode=0o700)
    os.chown(storage, account.uid, account.gid)

    def become() -> None:
        privileges.drop(account)
        settings = Settings(storage=StorageSettings(path=storage))
        in_force = confines.apply(settings, {})
        assert dict(in_force) == {"landlock": True, "seccomp": True}

    return storage, become


def as_sensor() -> None:
    privileges.keep_only(*sensor_confines.KEPT_CAPABILITIES)
    confinement.refuse_calls(confinement.SENSOR)


def open_files(pid: int) -> list[str]:
    return [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]


def run(program: Path | str) -> None:
    os.execv(program, ["id"])  # noqa: S606 - tries to


def make_program(folder: Path, *, mode: int) -> Path:
    program = folder / "program"
    shutil.copy("/usr/bin/id", program)
    program.chmod(mode)
    return program


def packets() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def listen() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def test_exporter_process_is_confined_as_the_kernel_sees_it(exporter: Exporter) -> None:
    pid = exporter_process(exporter.sensor_pid)
    seen = status(pid)
    assert {seen[which] for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        f"{0:016x}"
    }
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    account = privileges.find_account(None)
    assert {str(account.uid)} == set(seen["Uid"].split())
    assert {str(account.gid)} == set(seen["Gid"].split())
    assert not seen["Groups"]


def test_sensor_is_confined_as_the_kernel_sees_it(exporter: Exporter) -> None:
    seen = status(exporter.sensor_pid)
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    assert {"0"} == set(seen["Uid"].split())


def test_marker_keeps_what_marking_takes(exporter: Exporter) -> None:
    sensor = exporter.sensor_pid
    (pid,) = set(children(sensor)) - {exporter_process(sensor)}
    assert capabilities(pid, "CapEff") == MARKER_KEEPS == capabilities(pid, "CapBnd")
    assert (status(pid)["NoNewPrivs"], status(pid)["Seccomp"]) == ("1", "2")
    open_there = [
        one for one in open_files(pid) if one.startswith(("socket:", "anon_inode:", "pipe:"))
    ]
    assert len(open_there) == 2, open_there
    assert "anon_inode:[fanotify]" in open_there


def test_sensor_has_no_network_socket(exporter: Exporter) -> None:
    """All of its sockets are among those of the UNIX domain."""
    pid = exporter.sensor_pid
    sockets = [one for one in open_files(pid) if one.startswith("socket:[")]
    inodes = {one.removeprefix("socket:[").removesuffix("]") for one in sockets}
    unix = {line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]}
    assert inodes
    assert inodes <= unix


def test_confinement_is_shown_as_a_metric(exporter: Exporter) -> None:
    page = exporter.page("/metrics")
    assert 'picosnitch_exporter_confined{mechanism="landlock",process="exporter"} 1.0' in page
    assert 'picosnitch_exporter_confined{mechanism="seccomp",process="exporter"} 1.0' in page
    assert 'picosnitch_exporter_confined{mechanism="seccomp",process="sensor"} 1.0' in page


def test_exporter_process_can_still_do_its_work(as_exporter: tuple[Path, Attempt]) -> None:
    storage, become = as_exporter
    assert (
        outcome(
            become,
            [
                lambda: (storage / "file").write_text("written"),
                lambda: (storage / "file").rename(storage / "renamed"),
                (storage / "renamed").unlink,
                (storage / "folder").mkdir,
                lambda: socket.getaddrinfo("localhost", 80),
                lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
                lambda: Path("/proc/self/statm").read_text(),
                lambda: Path("/etc/passwd").read_text(),
                lambda: tempfile.TemporaryFile(dir=storage).close(),
            ],
        )
        == ["done"] * 9
    )


def test_exporter_process_fails_at_what_it_must_not(
    as_exporter: tuple[Path, Attempt], folder: Path
) -> None:
    storage, become = as_exporter
    open_to_all = folder / "open"
    open_to_all.write_text("of somebody else")
    open_to_all.chmod(0o666)
    (storage / "link").symlink_to(open_to_all)
    program = make_program(folder, mode=0o4755)
    attempts: dict[str, tuple[Attempt, str]] = {
        "read shadow": (lambda: Path("/etc/shadow").read_text(), "EACCES"),
        "read outside": (open_to_all.read_text, "EACCES"),
        "write outside": (lambda: open_to_all.write_text("x"), "EACCES"),
        "write through a link": (lambda: (storage / "link").write_text("x"), "EACCES"),
        "read a home": (lambda: list(Path("/root").iterdir()), "EACCES"),
        "make outside": (lambda: Path("/var/tmp/picosnitch-test").write_text("x"), "EACCES"),  # noqa: S108
        "make a device": (lambda: os.mknod(storage / "d", stat.S_IFCHR, 1), "EACCES"),
        "make a link": (lambda: (storage / "l").symlink_to("/etc"), "EACCES"),
        "become root": (lambda: os.setuid(0), "EPERM"),
        "run a setuid program": (lambda: run(program), "EPERM"),
        "run a shell": (lambda: run("/bin/sh"), "EPERM"),
        "bpf": (lambda: syscall("bpf", 0, 0, 0), "EPERM"),
        "perf": (lambda: syscall("perf_event_open", 0, 0, -1, -1, 0), "EPERM"),
        "io_uring": (lambda: syscall("io_uring_setup", 1, 0), "EPERM"),
        "keys": (lambda: syscall("keyctl", 0, -3, 0), "EPERM"),
        "trace its parent": (lambda: syscall("ptrace", 16, os.getppid(), 0, 0), "EPERM"),
        "mount": (lambda: call(LIBC.mount, b"none", b"/tmp", b"tmpfs", 0, None), "EPERM"),
        "a user namespace": (lambda: call(LIBC.unshare, 0x10000000), "EPERM"),
        "packets": (packets, "EPERM"),
        "netfilter": (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12), "EPERM"),
        "vsock": (lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), "EPERM"),
        "listen": (listen, "EACCES"),
        "signal its parent": (lambda: os.kill(os.getppid(), 0), "EPERM"),
        "type for others": (lambda: fcntl.ioctl(0, 0x5412, b"x"), "EPERM"),
        "read its parent's memory": (
            lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
            "EACCES",
        ),
    }
    found = outcome(become, [attempt for attempt, _error in attempts.values()])
    assert {name: error for name, (_attempt, error) in attempts.items()} == dict(
        zip(attempts, found, strict=True)
    )
    assert open_to_all.read_text() == "of somebody else"


def test_no_privileges_come_back_when_a_setuid_program_runs(folder: Path) -> None:
    """Without the filter, which refuses all programs: no_new_privs alone is enough."""
    program = make_program(folder, mode=0o4755)
    account = privileges.find_account(None)
    seen = folder / "seen"
    seen.touch()
    os.chown(seen, account.uid, account.gid)

    def ask() -> None:
        with seen.open("w") as file:
            subprocess.run([program, "-u"], stdout=file, check=True)

    assert outcome(lambda: privileges.drop(account), [ask]) == ["done"]
    assert seen.read_text().strip() == str(account.uid)


def test_sensor_can_still_do_its_work(folder: Path) -> None:
    private = folder / "private"
    private.write_text("of nobody")
    private.chmod(0o600)
    os.chown(private, 65534, 65534)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(folder / "notify"))

    def tell() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"WATCHDOG=1", str(folder / "notify"))

    pins = folder / "pins"
    pins.mkdir()
    with listening:
        assert (
            outcome(
                as_sensor,
                [
                    private.read_text,
                    Path(f"/proc/{os.getpid()}/exe").readlink,
                    lambda: Path(f"/proc/{os.getppid()}/exe").open("rb").close(),
                    lambda: Path(f"/proc/{os.getppid()}/cmdline").read_bytes(),
                    tell,
                    pins.rmdir,
                    lambda: os.kill(os.getppid(), 0),
                ],
            )
            == ["done"] * 7
        )


def test_sensor_fails_at_what_it_must_not(folder: Path) -> None:
    file = folder / "file"
    file.write_text("of root")
    program = make_program(folder, mode=0o755)
    attempts: dict[str, Attempt] = {
        "write": lambda: file.write_text("x"),
        "append": lambda: file.open("a").close(),
        "truncate by opening": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "truncate": lambda: os.truncate(file, 0),
        "make": lambda: os.open(folder / "new", os.O_RDONLY | os.O_CREAT),
        "make in memory": lambda: os.memfd_create("x"),
        "rename": lambda: file.rename(folder / "renamed"),
        "link": lambda: os.link(file, folder / "linked"),
        "open to all": lambda: file.chmod(0o777),
        "give away": lambda: os.chown(file, 1, 1),
        "run a program": lambda: run(program),
        "become somebody": lambda: os.setuid(65534),
        "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "UDP over IPv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "packets": packets,
        "load a program": lambda: syscall("bpf", 5, 0, 0),
        "make a map": lambda: syscall("bpf", 0, 0, 0),
        "a command to come": lambda: syscall("bpf", 1000, 0, 0),
        "perf": lambda: syscall("perf_event_open", 0, 0, -1, -1, 0),
        "io_uring": lambda: syscall("io_uring_setup", 1, 0),
        "trace its parent": lambda: syscall("ptrace", 16, os.getppid(), 0, 0),
        "write its parent's memory": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR),
        "mount": lambda: call(LIBC.mount, b"none", b"/tmp", b"tmpfs", 0, None),
        "another namespace": lambda: call(LIBC.unshare, 0x00020000),
        "another root": lambda: os.chroot("/"),
    }
    found = outcome(as_sensor, list(attempts.values()))
    assert dict.fromkeys(attempts, "EPERM") == dict(zip(attempts, found, strict=True))
    assert file.read_text() == "of root"


@pytest.mark.usefixtures("privileges")
def test_filesystem_is_marked_by_the_marker_when_the_caller_may_not(folder: Path) -> None:
    fanotify = Fanotify()
    marker = Marker(fanotify)

    def by_marker() -> None:
        assert marker.watch_filesystem(os.fsencode(folder))
        assert not marker.watch_filesystem(b"/nowhere")
        assert not marker.watch_filesystem(b"/" * 10_000)
        assert not fanotify.watch_filesystem(os.fsencode(folder))

    try:
        assert outcome(as_sensor, [by_marker]) == ["done"]
    finally:
        marker.close()
        fanotify.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(marker.pid, 0)
