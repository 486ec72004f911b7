"""What systemd is told, over a socket of the kind that it makes."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.sensor.supervisor import Supervisor


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def environment(sock: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(sock.getsockname()), **more}


def test_tells_each_state_when_there_is_a_socket(systemd: socket.socket) -> None:
    supervisor = Supervisor(environment(systemd))

    supervisor.ready()
    supervisor.alive()
    supervisor.stopping()

    told = [systemd.recv(256).decode().splitlines()[0] for _ in range(3)]
    assert told == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_start_is_extended_when_it_takes_long(systemd: socket.socket) -> None:
    Supervisor(environment(systemd)).starting()

    assert systemd.recv(256).decode().splitlines()[0] == "EXTEND_TIMEOUT_USEC=30000000"


def test_finds_the_socket_when_its_name_is_abstract() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(b"")  # autobind: the kernel chooses an abstract name
        sock.settimeout(5)
        name = sock.getsockname()[1:].decode()

        Supervisor({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert sock.recv(256).startswith(b"READY=1")


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/notify"])
def test_goes_on_when_nobody_listens(address: str) -> None:
    Supervisor({"NOTIFY_SOCKET": address}).ready()


def test_goes_on_when_the_queue_of_systemd_is_full(systemd: socket.socket) -> None:
    supervisor = Supervisor(environment(systemd))
    for _ in range(1000):
        supervisor.alive()


def test_is_due_three_times_within_the_timeout_when_watched(systemd: socket.socket) -> None:
    now = [100.0]
    supervisor = Supervisor(
        environment(systemd, WATCHDOG_USEC="30000000", WATCHDOG_PID="42"),
        clock=lambda: now[0],
        pid=42,
    )

    due = []
    for seconds in (0.0, 9.0, 10.0):
        now[0] = 100.0 + seconds
        due.append(supervisor.wants_alive)
        if seconds == 0.0:
            supervisor.alive()

    assert due == [True, False, True]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"},
        {"WATCHDOG_USEC": "", "WATCHDOG_PID": "42"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "0"},
    ],
)
def test_is_never_due_when_not_watched(variables: dict[str, str]) -> None:
    assert not Supervisor(variables, pid=42).wants_alive
