"""Memory of all processes (PSS), beside other tools and Python itself; time to readiness.

::

    sudo .venv/bin/python -m bench.memory [ROUNDS [EXECUTABLES]]
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import imported, rivals, rounds
from bench.loops import ROOT
from bench.running import Running
from bench.usage import family, pss_megabytes, samples

SETTLE_SECONDS = 12.0
"""Longer than the write limit: a commit lies in between."""
GIVEN_BACK_SECONDS = 62.0
"""Longer than it takes until free memory goes back to the system."""
NOWHERE = "http://127.0.0.1:9"
START, IDLE, SCRAPED = "start to ready, s", "idle", "idle, scraped"
"""What the first scrape imports stays."""
KERNEL = "idle, its maps in the kernel"
AFTER, AFTER_SCRAPED, AFTER_KERNEL = (
    f"after {{:,}} executables{more}" for more in ("", ", scraped", ", its maps in the kernel")
)
MAPS = "picosnitch_exporter_kernel_map_memory_bytes"
DEFAULT_ROUNDS, DEFAULT_EXECUTABLES = 3, 2000


def build_traffic(folder: Path) -> bytes:
    """A program that sends a datagram; with other bytes at its end it is another executable."""
    sources = sorted((ROOT / "tests/kernel/traffic").glob("*.c"))
    subprocess.run(["cc", "-O2", "-pthread", "-o", folder / "traffic", *sources], check=True)
    return (folder / "traffic").read_bytes()


def talk(executables: int, *, first: int = 0) -> None:
    """Runs so many distinct programs, each of which sends a datagram."""
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-bench-"))
    try:
        image = build_traffic(folder)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            port = receiver.getsockname()[1]
            for number in range(first, first + executables):
                path = folder / f"program-{number}"
                path.write_bytes(image + number.to_bytes(4, "little"))
                path.chmod(0o755)
                subprocess.run(
                    [path, "oneshot", "host=127.0.0.1", f"port={port}", "bytes=100"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                path.unlink()
    finally:
        shutil.rmtree(folder)


def with_otlp() -> AbstractContextManager[Running]:
    """An exporter that sends OTLP, to where nobody listens."""
    return Running(settings=f"otlp: {{endpoint: '{NOWHERE}', interval_seconds: 5}}\n")


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    executables = int(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_EXECUTABLES
    variants: dict[str, rounds.Variant] = {
        "exporter, log on": Running.start,
        "exporter, log and OTLP on": with_otlp,
        "its processes, which have imported what they need and do nothing": imported.importing,
        "three interpreters that have imported nothing": imported.interpreters,
        "nethogs": rivals.nethogs,
        "bpftrace, sum on the tracepoints": partial(rivals.bpftrace, rivals.ON_TRACEPOINTS),
        "bcc's tcptop": rivals.tcptop,
    }

    def measure(given: object) -> Mapping[str, float]:
        if isinstance(given, Running):
            time.sleep(SETTLE_SECONDS)
            idle = pss_megabytes(given.pids())
            kernel = samples(given.address)[MAPS] / 1e6
            time.sleep(SETTLE_SECONDS)
            scraped = pss_megabytes(given.pids())
            return {START: given.start_seconds, IDLE: idle, SCRAPED: scraped, KERNEL: kernel}
        pids = family(given) if isinstance(given, int) else given
        assert isinstance(pids, Sequence)
        return {IDLE: pss_megabytes(pids)}

    found = rounds.in_turns(variants, measure, rounds=number)
    rounds.head(f"memory of all processes (PSS), MB, {number} rounds", "median", "min", "max")
    for variant, values in found.values.items():
        for state in (IDLE, SCRAPED, KERNEL):
            if state in values:
                rounds.row(f"{variant}, {state}", *rounds.spread(values[state], digits=1))
    with Running.start() as running:
        talk(executables)
        time.sleep(GIVEN_BACK_SECONDS)
        after = {AFTER: pss_megabytes(running.pids())}
        kernel = samples(running.address)[MAPS] / 1e6
        time.sleep(SETTLE_SECONDS)
        after |= {AFTER_SCRAPED: pss_megabytes(running.pids()), AFTER_KERNEL: kernel}
    for state, megabytes in after.items():
        what = f"exporter, log on, {state.format(executables)}"
        rounds.row(what, *rounds.spread([megabytes], digits=1))
    print()
    rounds.head("start to `/-/ready`, s", "median", "min", "max")
    for variant, values in found.values.items():
        if START in values:
            rounds.row(variant, *rounds.spread(values[START]))
    rounds.missing(found)


if __name__ == "__main__":
    main()
