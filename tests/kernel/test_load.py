"""Nothing is lost and nothing counted twice under load; what a bound refuses is counted.

PICOSNITCH_LOAD_SOCKETS sets the number of sockets (100,000), for slower machines.
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account, Scrape

SOCKETS = int(os.environ.get("PICOSNITCH_LOAD_SOCKETS", "100000"))
TCP = ("tcp", "loopback")
UDP = ("udp", "loopback")


@pytest.fixture
def own_exporter(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    with Exporter.start() as running:
        yield running


@pytest.fixture
def tiny_ring(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    with Exporter.start({"bpf": {"ring_buffer_pages": 1}}) as running:
        yield running


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for as long as the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_sums_are_exact_when_three_programs_write_while_all_is_drained(
    exporter: Exporter, shared_generator: Generator
) -> None:
    before = exporter.scrape().losses()
    servers = [shared_generator.copy("server") for _ in range(3)]
    clients = [shared_generator.copy("client") for _ in range(3)]
    expected = {}
    size = 200_000_003
    sinks = [server.start("tcp-server") for server in servers]
    try:
        sources = [
            client.start("tcp-client", port=sink.ready().port, bytes=size, size=3000, threads=2)
            for client, sink in zip(clients, sinks, strict=True)
        ]
        for client, source in zip(clients, sources, strict=True):
            with source:
                assert source.done().sent == size
            expected[client.sha256] = Account(
                transmit={TCP: size}, connections={(*TCP, "outbound"): 1}
            )
        for server, sink in zip(servers, sinks, strict=True):
            assert sink.done().received == size
            expected[server.sha256] = Account(
                receive={TCP: size}, connections={(*TCP, "inbound"): 1}
            )
    finally:
        for sink in sinks:
            sink.kill()

    assert before == exporter.await_accounts(expected).losses()


def churn(generator: Generator, count: int) -> dict[str, Account]:
    """So many connections of 17 bytes each; what has to be shown of both ends."""
    server, client = generator.copy("server"), generator.copy("client")
    with server.start("churn-server", count=count) as listener:
        port = listener.ready().port
        with client.start("churn-client", port=port, count=count, bytes=17) as opener:
            assert opener.done().sent == 17 * count
        assert listener.done().received == 17 * count
    return {
        client.sha256: Account(transmit={TCP: 17 * count}, connections={(*TCP, "outbound"): count}),
        server.sha256: Account(receive={TCP: 17 * count}, connections={(*TCP, "inbound"): count}),
    }


def test_sums_are_exact_when_many_sockets_come_and_go(
    exporter: Exporter, shared_generator: Generator
) -> None:
    before = exporter.scrape().losses()
    expected = churn(shared_generator, SOCKETS)

    assert before == exporter.await_accounts(expected).losses()


def test_sums_are_exact_when_many_sockets_are_open_and_busy(
    exporter: Exporter, shared_generator: Generator
) -> None:
    count = min(SOCKETS, 9000)
    server, client = shared_generator.copy("server"), shared_generator.copy("client")
    with server.start("many-server", count=count) as sink:
        port = sink.ready().port
        with client.start("many-client", port=port, count=count, size=7, busy=1) as source:
            source.ready()
            exporter.await_scrape(
                lambda shown: shown.account(client.sha256).sums()[0] >= 3 * 7 * count,
                "three rounds of bytes on open sockets",
            )
            source.close()
            sent = source.done().sent
        assert sink.done().received == sent

    exporter.await_accounts(
        {
            client.sha256: Account(transmit={TCP: sent}, connections={(*TCP, "outbound"): count}),
            server.sha256: Account(receive={TCP: sent}, connections={(*TCP, "inbound"): count}),
        }
    )


def test_sums_are_exact_when_the_ring_overflows_as_nobody_reads(
    own_exporter: Exporter, shared_generator: Generator
) -> None:
    with stopped(own_exporter.sensor_pid):
        expected = churn(shared_generator, 5000)

    own_exporter.await_accounts(expected)
    late = {"stage": "final_record", "reason": "ring_full"}
    scrape = own_exporter.await_scrape(
        lambda shown: shown.value("events_delayed_total", **late) > 0, "records that were late"
    )
    assert scrape.value("events_lost_total", stage="final_record") == 0
    assert scrape.value("unattributed_bytes_total") == 0


def test_sums_are_exact_when_the_ring_is_one_page(
    tiny_ring: Exporter, shared_generator: Generator
) -> None:
    expected = churn(shared_generator, 1000)

    tiny_ring.await_accounts(expected)
    late = {"stage": "final_record", "reason": "ring_full"}
    scrape = tiny_ring.await_scrape(
        lambda shown: shown.value("events_delayed_total", **late) > 0, "records that were late"
    )
    assert scrape.value("unattributed_bytes_total") == 0


def test_what_is_missing_is_counted_when_ring_and_fallback_are_full(
    own_exporter: Exporter, shared_generator: Generator
) -> None:
    count = 36_000  # both ends: more than the 65,536 of the fallback map and the 1,724 of the ring
    with stopped(own_exporter.sensor_pid):
        expected = churn(shared_generator, count)

    def records(shown: Scrape) -> int:
        return sum(sum(shown.account(sha256).connections.values()) for sha256 in expected)

    def lost(shown: Scrape) -> int:
        return int(shown.value("events_lost_total", stage="final_record"))

    scrape = own_exporter.await_scrape(
        lambda shown: lost(shown) > 0 and records(shown) + lost(shown) >= 2 * count,
        "shown and lost records that add up",
    )
    # Others on this machine may have lost something as well, but not much.
    missing = 2 * count - records(scrape)
    assert 0 < missing <= lost(scrape) <= missing * 1.1 + 100
    shown_bytes = [sum(scrape.account(sha256).sums()) for sha256 in expected]
    assert 17 * 2 * count - sum(shown_bytes) == 17 * missing
    assert 17 * missing <= scrape.value("unattributed_bytes_total")


ROOM = 114_688  # in the map for peers
PEERS = 120_000
TALKER = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("", 29000))  # which makes it one of its own peers, after many that found no room
for number in range(int(sys.argv[1])):
    sender.sendto(b"seven b", (f"127.0.{1 + number // 30000}.1", 1 + number % 30000))
"""


def test_bytes_are_exact_when_there_are_more_peers_than_there_is_room_for(
    own_exporter: Exporter, exporter: Exporter, tmp_path: Path
) -> None:
    """All beyond it are counted without their peer; a moment later there is room again."""
    python = tmp_path / "python"
    python.write_bytes(Path(sys.executable).resolve().read_bytes() + b"more peers")
    python.chmod(0o755)
    sha256 = hashlib.sha256(python.read_bytes()).hexdigest()
    with stopped(own_exporter.sensor_pid):
        subprocess.run([python, "-I", "-S", "-c", TALKER, str(PEERS)], check=True)

    scrape = own_exporter.await_scrape(
        lambda shown: (
            shown.account(sha256).sums()[0] == 7 * PEERS
            and shown.value("events_lost_total", stage="peer") > 0
        ),
        "all bytes, and peers that found no room",
    )
    transmit = scrape.account(sha256).transmit
    assert {UDP, ("udp", "unknown")} == set(transmit)
    refused = scrape.value("events_lost_total", stage="peer", reason="flows_full")
    # Others on this machine may have been refused as well.
    assert transmit["udp", "unknown"] <= 7 * refused < transmit["udp", "unknown"] + 7 * 1000
    # The first peer needs none: the socket's own counters are for it.
    assert transmit[UDP] <= 7 * (ROOM + 1)
    assert scrape.value("unattributed_bytes_total") == 0
    for crowded in (own_exporter, exporter):
        crowded.await_scrape(
            lambda shown: shown.value("kernel_map_entries", map="flows") < ROOM / 2,
            "room for peers",
        )
