"""Connections: opened, accepted, failed, given up; each once, in its direction, at its program."""

import os
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.network import INTERFACE, Network, address, run
from tests.kernel.scrape import Account, Key

LOOPBACK = ("tcp", "loopback")
MANY = 20_000


def test_all_are_counted_when_20000_are_opened_and_closed(
    exporter: Exporter, shared_generator: Generator
) -> None:
    server, client = shared_generator.copy("server"), shared_generator.copy("client")
    with server.start("churn-server", count=MANY) as listener:
        port = listener.ready().port
        with client.start("churn-client", port=port, count=MANY, bytes=3, reset=1) as opener:
            assert opener.done().notes["connected"] == MANY
        received = listener.done().received

    exporter.await_accounts(
        {
            client.sha256: Account(
                transmit={LOOPBACK: 3 * MANY}, connections={(*LOOPBACK, "outbound"): MANY}
            ),
            # A reset may overtake the bytes.
            server.sha256: Account(
                receive={LOOPBACK: received}, connections={(*LOOPBACK, "inbound"): MANY}
            ),
        }
    )


def test_direction_is_inbound_when_nothing_was_sent_yet(
    exporter: Exporter, shared_generator: Generator
) -> None:
    server, client = shared_generator.copy("server"), shared_generator.copy("client")
    with server.start("accept-idle", count=7) as holder:
        port = holder.ready().port
        with client.start("tcp-client", port=port, count=7, bytes=0, hold=1) as opener:
            opener.done()
            holder.done()
            exporter.await_accounts(
                {
                    client.sha256: Account(connections={(*LOOPBACK, "outbound"): 7}),
                    server.sha256: Account(connections={(*LOOPBACK, "inbound"): 7}),
                }
            )


def test_accepted_connection_is_its_programs_when_the_program_ends_without_a_byte(
    exporter: Exporter, shared_generator: Generator
) -> None:
    server, client = shared_generator.copy("server"), shared_generator.copy("client")
    nobody = exporter.scrape().account("")
    with server.start("accept-idle", count=1) as holder:
        port = holder.ready().port
        with client.start("tcp-client", port=port, bytes=0) as opener:
            opener.done()
        holder.done()

    scrape = exporter.await_accounts(
        {
            client.sha256: Account(connections={(*LOOPBACK, "outbound"): 1}),
            server.sha256: Account(connections={(*LOOPBACK, "inbound"): 1}),
        }
    )
    assert nobody == scrape.account("")


@pytest.mark.parametrize(("host", "count"), [("127.0.0.1", 5), ("::1", 3)])
def test_connect_is_a_failure_when_it_is_refused(
    exporter: Exporter, shared_generator: Generator, host: str, count: int
) -> None:
    client = shared_generator.copy("refused")
    with client.start("refused", host=host, count=count) as running:
        running.done()

    exporter.await_accounts({client.sha256: Account(failures={LOOPBACK: count})})


@pytest.fixture
def dropping_host(network: Network) -> str:
    """Answers nothing: its neighbour entry points nowhere."""
    host = "10.77.0.99"
    run(
        *("ip", "-n", network.left, "neighbour", "replace", host, "dev", INTERFACE),
        *("lladdr", "02:00:00:00:00:99", "nud", "permanent"),
    )
    return host


def test_connect_is_a_failure_when_it_times_out(
    exporter: Exporter, shared_generator: Generator, network: Network, dropping_host: str
) -> None:
    client = shared_generator.copy("timeout")
    with client.start("timeout", netns=network.left, host=dropping_host, port=9) as running:
        running.done()

    exporter.await_accounts({client.sha256: Account(failures={("tcp", "private"): 1})})


def test_connect_is_no_failure_when_the_program_gives_up(
    exporter: Exporter, shared_generator: Generator, network: Network, dropping_host: str
) -> None:
    client, witness = shared_generator.copy("abort"), shared_generator.copy("witness")
    with client.start(
        "timeout", netns=network.left, host=dropping_host, port=9, deadline_ms=200
    ) as running:
        running.done()
    with witness.start("refused", count=1) as running:
        running.done()

    exporter.await_accounts(
        {witness.sha256: Account(failures={LOOPBACK: 1})}, nothing=[client.sha256]
    )


@pytest.mark.parametrize(
    ("host", "scope"),
    [("192.0.2.1", "public"), ("100.64.0.1", "private"), ("2001:db8::1", "public")],
)
def test_connect_is_a_failure_when_there_is_no_route(
    exporter: Exporter, shared_generator: Generator, network: Network, host: str, scope: str
) -> None:
    client = shared_generator.copy("unreachable")
    with client.start("unreachable", netns=network.left, host=host, port=9, count=4) as running:
        running.done()

    exporter.await_accounts({client.sha256: Account(failures={("tcp", scope): 4})})


def test_connect_is_a_failure_when_the_host_is_not_there(
    exporter: Exporter, shared_generator: Generator, network: Network
) -> None:
    client = shared_generator.copy("unreachable")
    with client.start("unreachable", netns=network.left, host="10.77.0.50", port=9) as running:
        running.done()

    exporter.await_accounts({client.sha256: Account(failures={("tcp", "private"): 1})})


def test_pairs_are_counted_when_one_socket_has_many_peers(
    exporter: Exporter, shared_generator: Generator
) -> None:
    echo, talker = shared_generator.copy("echo"), shared_generator.copy("talker")
    servers = [echo.start("udp-server", mode="echo") for _ in range(6)]
    try:
        ports = [server.ready().port for server in servers]
        with talker.start(
            "udp-many",
            to=",".join(f"127.0.0.1:{port}" for port in ports),
            mode="pingpong",
            threads=3,
            count=10,
            size=100,
        ) as running:
            moved = running.done()
    finally:
        for server in servers:
            with server:
                pass

    udp = ("udp", "loopback")
    exporter.await_accounts(
        {
            talker.sha256: Account(
                transmit={udp: moved.sent},
                receive={udp: moved.received},
                connections={(*udp, "outbound"): 6},
            ),
            echo.sha256: Account(
                transmit={udp: moved.received},
                receive={udp: moved.sent},
                connections={(*udp, "inbound"): 6},
            ),
        }
    )


def test_peers_are_known_when_threads_are_the_first_at_a_socket_at_once(
    exporter: Exporter, shared_generator: Generator
) -> None:
    """All but one of them lose the race for it; a hundred sockets, as few races are that close."""
    sink, talker = shared_generator.copy("sink"), shared_generator.copy("talker")
    sent = 0
    with sink.start("udp-server") as server:
        to = ",".join([f"127.0.0.1:{server.ready().port}"] * 8)
        for _ in range(100):
            with talker.start("udp-many", to=to, threads=8, size=100) as running:
                sent += running.done().sent

    exporter.await_accounts(
        {
            talker.sha256: Account(
                transmit={("udp", "loopback"): sent},
                connections={("udp", "loopback", "outbound"): 100},
            )
        }
    )


def test_peers_keep_their_scopes_when_one_socket_talks_to_near_and_far(
    exporter: Exporter, shared_generator: Generator, network: Network
) -> None:
    echo, talker = shared_generator.copy("echo"), shared_generator.copy("talker")
    scopes = ("private", "public", "link_local")
    hosts = [address(scope, of_right=True) for scope in scopes]
    servers = [
        echo.start("udp-server", netns=network.right, bind=host, mode="echo") for host in hosts
    ]
    try:
        peers = [
            f"{host}:{server.ready().port}" for host, server in zip(hosts, servers, strict=True)
        ]
        with talker.start(
            "udp-many", netns=network.left, to=",".join(peers), mode="pingpong", count=4, size=50
        ) as running:
            running.done()
    finally:
        for server in servers:
            with server:
                pass

    bytes_by_scope: dict[Key, int] = {
        ("udp", scope): 4 * (50 + place) for place, scope in enumerate(scopes)
    }
    exporter.await_accounts(
        {
            talker.sha256: Account(
                transmit=bytes_by_scope,
                receive=bytes_by_scope,
                connections={("udp", scope, "outbound"): 1 for scope in scopes},
            ),
        }
    )


CONNECT_TO_ITSELF = """
import ctypes, socket, sys
one = socket.socket()
one.connect(("127.0.0.1", int(sys.argv[1])))
one.sendall(bytes(100_000))
assert one.recv(1) == b"!"
ctypes.CDLL(None).connect(one.fileno(), bytes(16), 16)  # AF_UNSPEC: it is nobody's any more
one.bind(("127.0.0.1", 0))
one.connect(one.getsockname())
one.sendall(bytes(30))
assert len(one.recv(100)) == 30
"""


def test_nothing_is_forgotten_when_a_socket_connects_to_itself(
    exporter: Exporter, tmp_path: Path
) -> None:
    """It becomes established by the state that a listener's children come by."""
    program = tmp_path / "itself"
    program.write_bytes(Path(sys.executable).resolve().read_bytes() + os.urandom(16))
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [str(program), "-I", "-c", CONNECT_TO_ITSELF, str(listener.getsockname()[1])]
        with subprocess.Popen(command, env={"PYTHONHOME": sys.base_prefix}) as running:
            accepted, _address = listener.accept()
            with accepted:
                left = 100_000
                while left:
                    left -= len(accepted.recv(left))
                accepted.sendall(b"!")
                assert running.wait(30) == 0

    exporter.await_accounts(
        {
            sha256(program.read_bytes()).hexdigest(): Account(
                transmit={LOOPBACK: 100_030},
                receive={LOOPBACK: 31},
                connections={(*LOOPBACK, "outbound"): 2},
            )
        }
    )
