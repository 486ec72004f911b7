"""Memory of all processes (PSS), CPU while idle, and time to readiness.

::

    sudo .venv/bin/python -m bench.memory [EXECUTABLES]
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.running import Running

SETTLE_SECONDS = 12.0
"""Longer than the write limit: a commit lies in between."""
IDLE_SECONDS = 30.0
TICKS = os.sysconf("SC_CLK_TCK")


def pss_megabytes(pids: list[int]) -> float:
    """Proportional set size, in MB of 1,000,000 bytes."""
    kibibytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kibibytes += int(line.split()[1])
    return kibibytes * 1024 / 1e6


def cpu_seconds(pids: list[int]) -> float:
    """User and system time so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def talk(executables: int) -> None:
    """Run so many distinct programs, each of which sends a datagram."""
    root = Path(__file__).parent.parent
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-bench-"))
    try:
        sources = sorted((root / "tests/kernel/traffic").glob("*.c"))
        subprocess.run(["cc", "-O2", "-pthread", "-o", folder / "traffic", *sources], check=True)
        image = (folder / "traffic").read_bytes()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            port = receiver.getsockname()[1]
            for number in range(executables):
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


def main() -> None:
    """Measure and print."""
    executables = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with Running.start() as exporter:
        print("| what | figure |\n|---|---|")
        print(f"| start to ready | {exporter.start_seconds:.2f} s |")
        time.sleep(SETTLE_SECONDS)
        print(f"| memory of all processes, idle | {pss_megabytes(exporter.pids()):.1f} MB |")
        before = cpu_seconds(exporter.pids())
        time.sleep(IDLE_SECONDS)
        used = (cpu_seconds(exporter.pids()) - before) / IDLE_SECONDS
        print(f"| CPU, idle (of one core) | {used:.2%} |")
        talk(executables)
        time.sleep(SETTLE_SECONDS)
        memory = pss_megabytes(exporter.pids())
        print(f"| memory after {executables:,} executables | {memory:.1f} MB |")


if __name__ == "__main__":
    main()
