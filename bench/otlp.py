"""An export by OTLP: time, processor time, memory, and how long the main thread waits for it.

::

    .venv/bin/python -m bench.otlp [--points N]...

Each measurement is a process of its own, so that its peak memory is; the receiver decodes what it
gets, in another one.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench import rounds
from picosnitch_exporter.model import Snapshot
from tests.unit.snapshots import large_snapshot

DEFAULT_POINTS = (1_000, 10_000, 50_000)
PROTOCOLS = ("http/protobuf", "grpc")
ROUNDS = 3
# A snapshot has four points for each executable, of which there are at most 2,000.
MOST_OF_EXECUTABLES = 8_000
TICK_SECONDS = 0.001


def main() -> None:
    """Prints a table, or with --url one of its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, action="append")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--protocol", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    points = arguments.points or list(DEFAULT_POINTS)
    if arguments.url is not None:
        measure(points[0], url=arguments.url, protocol=arguments.protocol)
        return
    from tests.otlp_receivers import grpc_receiver, http_receiver

    rounds.head(
        *("OTLP by", "points", "batches", "seconds", "of a processor", "longest wait, ms"),
        *("most memory, MB", "of that for OTLP, MB"),
    )
    with http_receiver() as http, grpc_receiver() as grpc:
        for protocol, receiver in zip(PROTOCOLS, (http, grpc), strict=True):
            for number in points:
                command = (sys.executable, "-m", "bench.otlp", f"--points={number}")
                to = (f"--url={receiver.url}", f"--protocol={protocol}")
                subprocess.run([*command, *to], check=True)
                receiver.got.clear()


def snapshot_of(points: int) -> Snapshot:
    """A snapshot that is about as many data points."""
    return large_snapshot(max(points // 2, points - MOST_OF_EXECUTABLES))


def measure(points: int, *, url: str, protocol: str) -> None:
    """Prints one line: the best time of some, the longest wait and most memory of all."""
    snapshot = snapshot_of(points)
    before_bytes = peak_bytes()
    # Imported here, as the exporter does: the libraries are part of what it takes.
    from picosnitch_exporter.config.otel import plan
    from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
    from picosnitch_exporter.outputs.otlp.mapping import Mapping
    from picosnitch_exporter.outputs.otlp.resource import detect
    from picosnitch_exporter.outputs.otlp.sender import metric_sender
    from picosnitch_exporter.settings import OtlpSettings

    made = plan(OtlpSettings(endpoint=url, protocol=protocol, timeout_seconds=60), {})
    if made is None or made.metrics is None:
        raise SystemExit("OTLP is switched off by OTEL_SDK_DISABLED or OTEL_METRICS_EXPORTER")
    mapping = Mapping(
        resource=detect({}, version="0", instance=""), scope=instrumentation_scope("0")
    )
    sender = metric_sender(made.metrics)
    batches = 0
    seconds: list[tuple[float, float]] = []

    def export() -> None:
        nonlocal batches
        for _ in range(ROUNDS):
            began, processor = time.perf_counter(), time.thread_time()
            batches = 0
            for batch in mapping.batches(snapshot):
                answer = sender.send(batch.data)
                if not answer.result.has_arrived:
                    raise SystemExit(f"{answer.result}: {answer.reason}")
                batches += 1
            seconds.append((time.perf_counter() - began, time.thread_time() - processor))

    thread = threading.Thread(target=export)
    thread.start()
    longest = 0.0
    while thread.is_alive():
        began = time.perf_counter()
        time.sleep(TICK_SECONDS)
        longest = max(longest, time.perf_counter() - began - TICK_SECONDS)
    sender.close()
    best, processor = min(seconds)
    rounds.row(
        *(protocol, f"{points:,}", str(batches), f"{best:.3f}", f"{processor:.3f}"),
        *(f"{longest * 1000:.1f}", f"{peak_bytes() / 1e6:.1f}"),
        f"{(peak_bytes() - before_bytes) / 1e6:.1f}",
    )


def peak_bytes() -> int:
    """The most memory that this process has had; getrusage would count its parent's as well."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        name, _colon, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM: this needs Linux")


if __name__ == "__main__":
    main()
