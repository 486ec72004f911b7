"""What the state holds, in bytes, when there is far more of everything than anybody has."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.model import Direction, Executable, Scope, SeriesLabels, Workload
from picosnitch_exporter.outputs.prometheus import Exposition
from picosnitch_exporter.settings import MetricsSettings
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store
from tests.dns_samples import dns_record, resolver_flow, simple_answer
from tests.identity_samples import FakeHealth, digest
from tests.unit.test_log_domains import ME, Timer

NOW = 1_700_000_000.0
HASHES = 100_000
CONTAINERS = 10_000
NAMES = 100_000
STORE_BYTES = 64 * 1024 * 1024
"""docs/security.md. Nearly all is what is kept of executables that got no series of their own, to
know them again: 65,536 of them, each with its path. Measured: 41 MB."""
NAMES_BYTES = 48 * 1024 * 1024
"""Measured: 27 MB."""


@contextmanager
def at_most(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        used, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < limit_bytes, f"{used / 2**20:.0f} MB"


def workload(number: int) -> Workload:
    return Workload(namespace=f"n{number % 10}", pod=f"pod-{number}", container="app")


@pytest.mark.parametrize(("hashes", "containers"), [(HASHES, 1), (10, CONTAINERS)])
def test_sums_are_right_and_memory_bounded_when_there_are_too_many(
    hashes: int, containers: int
) -> None:
    health = FakeHealth()
    bound = MetricsSettings().max_executables
    store = Store(health=health, max_executables=bound, stale_after_seconds=86_400.0)
    shell = Executable(sha256=digest("shell"), exe="/bin/sh")
    with at_most(STORE_BYTES):
        for number in range(hashes * containers):
            executable = Executable(
                sha256=digest(str(number % hashes)), exe=f"/opt/{number % hashes}/program"
            )
            home = workload(number // hashes)
            labels = SeriesLabels(
                executable=executable,
                workload=home,
                protocol="tcp",
                scope=Scope.PUBLIC,
                direction=Direction.UNKNOWN,
            )
            store.see(executable, home, name="p", parent=shell, size_bytes=1, time_seconds=NOW)
            store.add_traffic(labels, transmit_bytes=3, receive_bytes=2, time_seconds=NOW)
            if number % 10_000 == 0:
                store.changed_totals()
                store.changed_executables()
    snapshot = store.snapshot(NOW)
    assert sum(snapshot.transmit_bytes.values) == 3 * hashes * containers
    assert sum(snapshot.receive_bytes.values) == 2 * hashes * containers
    assert len(snapshot.executables) <= bound
    assert health.total(catalog.SERIES_REFUSED) >= hashes * containers - bound
    page = b"".join(
        Exposition(with_workload_labels=True).render(snapshot, Health(), openmetrics=False)
    )
    assert b'sha256="other"' in page


def test_memory_is_bounded_when_there_are_too_many_domains() -> None:
    domains = DomainTable(health=FakeHealth(), to_unix=lambda ns: ns / 1e9, timer=Timer())
    domains.introduce(resolver_flow(owner=ME))
    template = bytearray(simple_answer("n000000." + "a" * 60 + ".example"))
    with at_most(NAMES_BYTES):
        for number in range(NAMES):
            template[13:20] = b"n%06d" % number
            template[-4:] = (0x0A000000 + number).to_bytes(4, "big")
            domains.learn(dns_record(bytes(template), cookie=100 + number % 3))
