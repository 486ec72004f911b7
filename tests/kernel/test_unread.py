"""Nobody reads for a while: what fits into ring and fallback comes later, the rest is counted."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account, Key, Scrape
from tests.kernel.steady import SteadyTraffic

pytestmark = pytest.mark.usefixtures("privileges")

BYTES = 7
FITTING = 10_000
"""Connections, each closed at two ends: 20 s without a reader at 1,000 closes a second."""
TOO_MANY = 35_000
LOOPBACK = ("tcp", "loopback")
OUTBOUND: Key = (*LOOPBACK, "outbound")
INBOUND: Key = (*LOOPBACK, "inbound")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that are suspended for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def churn(generator: Generator, count: int) -> dict[str, Account]:
    """Short connections between two executables; what is to be shown of them."""
    client, server = generator.copy("client"), generator.copy("server")
    with server.start("churn-server", count=count) as listener:
        port = listener.ready().port
        with client.start("churn-client", port=port, count=count, bytes=BYTES, reset=1) as opener:
            assert opener.done().sent == count * BYTES
        received = listener.done().received
    return {
        client.sha256: Account(transmit={LOOPBACK: count * BYTES}, connections={OUTBOUND: count}),
        # A reset may overtake the bytes.
        server.sha256: Account(receive={LOOPBACK: received}, connections={INBOUND: count}),
    }


def sums(accounts: Iterable[Account]) -> tuple[int, int]:
    """Bytes sent and received in all."""
    pairs = [account.sums() for account in accounts]
    return sum(sent for sent, _received in pairs), sum(received for _sent, received in pairs)


def shown_and_lost(scrape: Scrape, hashes: Iterable[str]) -> tuple[int, int, int]:
    """Ends of connections, bytes sent and received: what is shown and what is said to be lost."""
    accounts = [scrape.account(sha256) for sha256 in hashes]
    sent, received = sums(accounts)
    return (
        sum(sum(account.connections.values()) for account in accounts)
        + int(scrape.value("events_lost_total", stage="final_record")),
        sent + int(scrape.value("unattributed_bytes_total", direction="transmit")),
        received + int(scrape.value("unattributed_bytes_total", direction="receive")),
    )


def test_nothing_is_lost_when_the_exporter_process_hangs_for_seconds(
    shared_generator: Generator,
) -> None:
    with Exporter.start() as exporter, SteadyTraffic(shared_generator) as traffic:
        with stopped(exporter.exporter_pid):
            expected = churn(shared_generator, 6_000)
        expected |= traffic.finish()
        scrape = exporter.await_accounts(expected)
        assert not scrape.value("unattributed_bytes_total")


def test_nothing_is_lost_when_nobody_reads_20000_closes(shared_generator: Generator) -> None:
    with Exporter.start() as exporter:
        with stopped(exporter.sensor_pid, exporter.exporter_pid):
            expected = churn(shared_generator, FITTING)
        scrape = exporter.await_accounts(expected)
        assert not scrape.value("unattributed_bytes_total")
        assert not scrape.value("events_lost_total", stage="final_record")


def test_loss_is_exact_when_ring_and_fallback_are_full(shared_generator: Generator) -> None:
    with Exporter.start() as exporter:
        with stopped(exporter.sensor_pid, exporter.exporter_pid):
            expected = churn(shared_generator, TOO_MANY)

        wanted = (2 * TOO_MANY, *sums(expected.values()))

        def adds_up(scrape: Scrape) -> bool:
            # Other programs of this machine lose theirs at the same time.
            found = shown_and_lost(scrape, expected)
            return all(mine <= all_of_it for mine, all_of_it in zip(wanted, found, strict=True))

        scrape = exporter.await_scrape(adds_up, "what is shown and what is lost add up")
        assert scrape.value("events_lost_total", stage="final_record")
        assert sum(scrape.account(sha256).sums()[0] for sha256 in expected) < wanted[1]
