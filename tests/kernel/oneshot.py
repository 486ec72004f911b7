"""Programs that send one datagram, and what has to be shown of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.kernel.generator import Generator, Program
from tests.kernel.scrape import Account

UDP = ("udp", "loopback")


@contextmanager
def sink(generator: Generator) -> Iterator[int]:
    """The port of a program that takes datagrams."""
    with generator.copy("sink").start("udp-server", via="recvfrom") as server:
        yield server.ready().port


def sent(count: int, datagrams: int = 1) -> Account:
    return Account(
        transmit={UDP: count}, connections={(*UDP, "outbound"): datagrams} if datagrams else {}
    )


def shoot(program: Program, port: int, size: int) -> None:
    with program.start("oneshot", port=port, bytes=size) as running:
        assert running.done().sent == size
