"""What the state holds, in bytes, when there is far more of everything than anybody has."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.identity.registry import MAX_IDENTITIES, Registry
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.model import Direction, Executable, Scope, SeriesLabels, Workload
from picosnitch_exporter.outputs.prometheus import Exposition
from picosnitch_exporter.settings import MetricsSettings
from picosnitch_exporter.state.facts import MAX_REMEMBERED
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store
from tests.dns_samples import dns_record, resolver_flow, simple_answer
from tests.identity_samples import FakeHasher, FakeHealth, descriptor, digest, file, seen
from tests.unit.test_log_domains import ME, Timer

NOW = 1_700_000_000.0
HASHES = 100_000
CONTAINERS = 10_000
NAMES = 100_000
STORE_BYTES = 48 * 1024 * 1024
"""docs/security.md. Measured: 21 MB for either."""
LONGEST = 4095
"""PATH_MAX without its NUL."""
PATHS: dict[str, Callable[[int], str]] = {
    "ascii": lambda number: f"/opt/{number:06}/".ljust(LONGEST, "a"),
    "no_utf8": lambda number: os.fsdecode(b"/opt/%06d/" % number + b"\xff" * (LONGEST - 12)),
    # One such character makes four bytes of each in Python's memory.
    "wide": lambda number: f"/opt/{number:06}/\N{WASTEBASKET}".ljust(LONGEST - 3, "a"),
}
LONG_PATHS_BYTES = 112 * 1024 * 1024
"""Measured: 56, 63 and 78 MB; 32 MB of it are what one commit may speak of."""
REGISTRY_BYTES = 64 * 1024 * 1024
"""Measured: 45, 41 and 38 MB, of at most 32 MB of paths. With short ones, of which all 65,536 are
kept, 67 MB."""
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


@pytest.mark.parametrize("kind", PATHS)
def test_memory_of_the_state_is_bounded_when_paths_are_long(kind: str) -> None:
    store = Store(
        health=FakeHealth(),
        max_executables=MetricsSettings().max_executables,
        stale_after_seconds=86_400.0,
    )
    shell = Executable(sha256=digest("shell"), exe="/bin/sh")
    home = workload(0)
    with at_most(LONG_PATHS_BYTES):
        for number in range(MAX_REMEMBERED + 1):
            one = Executable(sha256=digest(str(number)), exe=PATHS[kind](number))
            store.see(one, home, name="p", parent=shell, size_bytes=1, time_seconds=NOW)
            if number % 10_000 == 0:
                store.changed_executables()


@pytest.mark.parametrize("kind", PATHS)
def test_memory_of_the_registry_is_bounded_when_paths_are_long(kind: str) -> None:
    hasher = FakeHasher()
    registry = Registry(hasher)
    with at_most(REGISTRY_BYTES):
        for number in range(MAX_IDENTITIES + 1):
            frame = seen(file(number + 1), path=os.fsencode(PATHS[kind](number)))
            hasher.finish(registry.seen(frame, descriptor()).ticket, digest(str(number)))
            registry.poll()
            registry.take_settled()
            registry.take_hashed()
            registry.take_new_files()
            registry.tick()


def test_memory_is_bounded_when_there_are_too_many_domains() -> None:
    domains = DomainTable(health=FakeHealth(), to_unix=lambda ns: ns / 1e9, timer=Timer())
    domains.introduce(resolver_flow(owner=ME))
    template = bytearray(simple_answer("n000000." + "a" * 60 + ".example"))
    with at_most(NAMES_BYTES):
        for number in range(NAMES):
            template[13:20] = b"n%06d" % number
            template[-4:] = (0x0A000000 + number).to_bytes(4, "big")
            domains.learn(dns_record(bytes(template), cookie=100 + number % 3))
