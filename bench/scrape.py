"""Time and size of a scrape, against prometheus_client's own way of rendering the same samples.

::

    sudo .venv/bin/python -m bench.scrape [SERIES...]

First whole scrapes of a running exporter, over HTTP, beside other exporters of Debian; then the
rendering alone. A series' labels are cached after its first scrape: what is printed is the best of
some later ones.
"""

import gzip
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as ClientMetric
from prometheus_client.registry import Collector, CollectorRegistry

from bench import history, rivals, rounds
from bench.running import Running
from bench.usage import samples
from picosnitch_exporter import catalog
from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.outputs.prometheus import Exposition, compress
from picosnitch_exporter.outputs.self_metrics import render_own
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import large_snapshot

DEFAULT_SERIES = (2_000, 10_000, 50_000)
ROUNDS = 5
SCRAPES = 15
BUSY_SECONDS = 17.0
"""In which it is scraped without a pause; the sensor reports each 5 s."""
OTHERS = {
    "prometheus-node-exporter": ("127.0.0.1:19100", "--web.listen-address=127.0.0.1:19100"),
    "prometheus-process-exporter": (
        "127.0.0.1:19256",
        "--web.listen-address=127.0.0.1:19256",
        "-procnames=python3,bash,systemd",
    ),
}


class PlainCollector(Collector):
    """The same samples, as a custom collector would give them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[ClientMetric]:
        """Make a family of each metric."""
        yield from self._traffic()
        yield from self._executables()

    def _executables(self) -> Iterator[ClientMetric]:
        info, first, last, verdict = (
            GaugeMetricFamily(
                metric.name, metric.help, labels=metric.label_names(with_workload_labels=False)
            )
            for metric in (
                catalog.EXECUTABLE_INFO,
                catalog.EXECUTABLE_FIRST_SEEN,
                catalog.EXECUTABLE_LAST_SEEN,
                catalog.VIRUSTOTAL_VERDICT,
            )
        )
        for fact in self._snapshot.executables:
            who = (fact.executable.sha256, fact.executable.exe)
            parent = (fact.parent.exe, fact.parent.sha256)
            info.add_metric((*who, fact.name, *parent, str(fact.size_bytes)), 1)
            first.add_metric(who, fact.first_seen_seconds)
            last.add_metric(who, fact.last_seen_seconds)
            verdict.add_metric((*who, fact.virustotal.verdict.value), 1)
        yield from (info, first, last, verdict)

    def _traffic(self) -> Iterator[ClientMetric]:
        shown = self._snapshot
        for metric, column in (
            (catalog.NETWORK_TRANSMIT_BYTES, shown.transmit_bytes),
            (catalog.NETWORK_RECEIVE_BYTES, shown.receive_bytes),
            (catalog.CONNECTIONS, shown.connections),
            (catalog.CONNECT_FAILURES, shown.connect_failures),
        ):
            names = metric.label_names(with_workload_labels=False)
            family = CounterMetricFamily(metric.name, metric.help, labels=names)
            for labels, value in zip(column.labels, column.values, strict=True):
                values = (
                    labels.executable.sha256,
                    labels.executable.exe,
                    labels.protocol,
                    labels.scope.value,
                    labels.direction.value,
                )
                family.add_metric(values[: len(names)], value)
            yield family


def best_milliseconds(work: Callable[[], object], *, rounds: int) -> float:
    """Time the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def measure(series: int) -> str:
    """Compare both for one number of series, as a row of a table."""
    shown = large_snapshot(series)
    exposition = Exposition(with_workload_labels=False)
    health = Health()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PlainCollector(shown))

    def client_rendered() -> bytes:
        own = render_own(health.collect(), openmetrics=False, with_workload_labels=False)
        return generate_latest(registry) + own

    def rendered(*, openmetrics: bool = False) -> Iterator[bytes]:
        return exposition.render(shown, health, openmetrics=openmetrics)

    def drain(chunks: Iterator[bytes]) -> int:
        return sum(map(len, chunks))

    plain_bytes = drain(rendered())
    gzip_bytes = drain(compress(rendered()))
    cached = best_milliseconds(lambda: drain(rendered()), rounds=ROUNDS)
    with_gzip = best_milliseconds(lambda: drain(compress(rendered())), rounds=ROUNDS)
    openmetrics = best_milliseconds(lambda: drain(rendered(openmetrics=True)), rounds=ROUNDS)
    client = best_milliseconds(client_rendered, rounds=2)
    client_gzip = best_milliseconds(lambda: gzip.compress(client_rendered()), rounds=2)
    return (
        f"| {series:,} | {client:.1f} | {cached:.1f} | {client / cached:.0f} | {client_gzip:.1f} "
        f"| {with_gzip:.1f} | {client_gzip / with_gzip:.0f} | {openmetrics:.1f} "
        f"| {plain_bytes / 1e6:.2f} | {gzip_bytes / 1e6:.2f} |"
    )


def milliseconds(address: str) -> tuple[float, int]:
    """The median of some scrapes with gzip, and the number of samples."""
    request = urllib.request.Request(
        f"http://{address}/metrics", headers={"Accept-Encoding": "gzip"}
    )
    times = []
    for _ in range(SCRAPES + 1):
        start = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as response:
            body = response.read()
            packed = response.headers.get("Content-Encoding") == "gzip"
        times.append(1000 * (time.perf_counter() - start))
    lines = (gzip.decompress(body) if packed else body).splitlines()
    count = sum(1 for line in lines if line and not line.startswith(b"#"))
    return statistics.median(times[1:]), count


def drains_a_second(address: str) -> float:
    """While somebody scrapes without a pause, between two reports of the sensor."""
    name = "picosnitch_exporter_drain_duration_seconds_count"
    reports: list[tuple[float, float]] = []
    until = time.monotonic() + BUSY_SECONDS
    last = samples(address)[name]
    while time.monotonic() < until:
        count = samples(address)[name]
        if count != last:
            last = count
            reports.append((time.monotonic(), count))
    (began, first), (ended, latest) = reports[0], reports[-1]
    return (latest - first) / (ended - began)


def measure_whole(series: list[int]) -> None:
    """Print a row for each number of series, and for each other exporter."""
    rounds.head(
        "scrape over HTTP, gzip", "series", "ms", "µs a series", "drains a second meanwhile"
    )
    for number in series:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            storage = Path(folder) / "storage"
            history.write(storage, series=number)
            with Running(storage=storage) as running:
                taken, count = milliseconds(running.address)
                drains = drains_a_second(running.address)
        cells = (f"{count:,}", f"{taken:.1f}", f"{1000 * taken / count:.1f}", f"{drains:.2f}")
        rounds.row("picosnitch-exporter", *cells)
    missing = {}
    for name, (address, *flags) in OTHERS.items():
        try:
            with rivals.prometheus_exporter([name, *flags]):
                taken, count = milliseconds(address)
        except rivals.UnavailableError as error:
            missing[name] = str(error)
            continue
        rounds.row(name, f"{count:,}", f"{taken:.1f}", f"{1000 * taken / count:.1f}", "")
    rounds.missing(rounds.Found(missing=missing))


def main() -> None:
    """Print both tables."""
    series = [int(text) for text in sys.argv[1:]] or list(DEFAULT_SERIES)
    measure_whole(series)
    print()
    rounds.head(
        *("series", "client ms", "here ms", "ratio", "client gzip ms", "here gzip ms", "ratio"),
        *("OpenMetrics ms", "MB", "MB gzip"),
    )
    for number in series:
        print(measure(number), flush=True)


if __name__ == "__main__":
    main()
