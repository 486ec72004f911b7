"""Sockets whose bytes no hook can see: they are told of, with their executable, and no bytes."""

from collections.abc import Callable

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator, Program, UnsupportedError
from tests.kernel.network import INTERFACE, Network
from tests.kernel.scrape import Account, Scrape


def is_told_of(program: Program, kind: str) -> Callable[[Scrape], bool]:
    labels = {"sha256": program.sha256, "exe": str(program.path), "kind": kind}
    return lambda shown: shown.value("unseen_sockets_total", **labels) == 1


def test_a_mapped_packet_ring_is_told_of_when_it_is_made(
    exporter: Exporter, shared_generator: Generator, network: Network
) -> None:
    sink, source = shared_generator.copy("ring"), shared_generator.copy("source")
    with sink.start(
        "packet-rx-ring", netns=network.right, interface=INTERFACE, count=9, hold=1
    ) as ring:
        ring.ready()
        with source.start(
            "packet-send", netns=network.left, interface=INTERFACE, count=9, size=200
        ) as sender:
            assert sender.done().sent == 1800
        assert ring.done().notes["ring_bytes"] == 1800
        scrape = exporter.await_scrape(is_told_of(sink, "packet_ring"), "the packet ring")

    assert not is_told_of(source, "packet_ring")(scrape)
    key = ("packet", "unknown")
    moved = Account(transmit={key: 1800}, connections={(*key, "outbound"): 1})
    exporter.await_accounts({source.sha256: moved}, nothing=[sink.sha256])


def test_an_xdp_socket_is_told_of_when_it_was_there_before_the_exporter(
    shared_generator: Generator, network: Network
) -> None:
    program = shared_generator.copy("xdp")
    with program.start("xdp", netns=network.left, interface=INTERFACE, count=3, hold=1) as running:
        try:
            running.done()
        except UnsupportedError as error:
            pytest.skip(f"this kernel: {error}")
        with Exporter.start() as exporter:
            scrape = exporter.await_scrape(is_told_of(program, "xdp"), "the AF_XDP socket")

    assert not scrape.account(program.sha256).transmit
