"""What one node costs who scrapes it: series, bytes of a scrape, and Prometheus's memory for both.

::

    sudo .venv/bin/python -m bench.fleet [EXECUTABLES [TARGETS]]

Starts an exporter, has so many different executables talk, as a service does (TCP to another
address and on loopback, UDP, one inbound connection), and scrapes it. Then a Prometheus scrapes the
same exporter under so many names as instances.
"""

import gzip
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from bench.running import Running

DEFAULT_EXECUTABLES = 100
DEFAULT_TARGETS = 50
SETTLE_SECONDS = 5.0
SCRAPES = 12
INTERVAL_SECONDS = 5
# Outbound by TCP and UDP, and one inbound connection, on loopback: that is three rows of traffic.
TALK = (
    "exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3; read -t 5 -u 3; "
    "exec 4<>/dev/udp/127.0.0.1/{port}; echo hello >&4"
)


def serve(listener: socket.socket) -> None:
    """Answers each connection with one line."""
    while True:
        connection, _address = listener.accept()
        with connection:
            connection.recv(64)
            connection.sendall(b"hello\n")


def talk(folder: Path, executables: int) -> None:
    """Runs so many different executables."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        for number in range(executables):
            program = folder / f"program-{number}"
            shutil.copy("/bin/bash", program)
            with program.open("ab") as file:
                file.write(os.urandom(16))
            subprocess.run([program, "-c", TALK.format(port=port)], check=True)


def scrape(url: str) -> str:
    """The text format, as it is."""
    with urllib.request.urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
    return text


def describe(text: str) -> int:
    """Prints what a scrape holds; returns its series."""
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    own = [line for line in samples if line.startswith("picosnitch_exporter_")]
    hashes = set(re.findall(r'sha256="([0-9a-f]{64})"', text))
    names = Counter(re.split(r"[{ ]", line)[0] for line in samples if line not in set(own))
    packed = len(gzip.compress(text.encode(), 1))
    print(f"series {len(samples)}, of the exporter itself {len(own)}, executables {len(hashes)}")
    print(f"per executable {(len(samples) - len(own)) / max(1, len(hashes)):.1f}")
    print(f"scrape {len(text)} bytes, gzip {packed}; per series {len(text) / len(samples):.0f}")
    for name, count in sorted(names.items()):
        print(f"  {count:6} {name}")
    return len(samples)


def resident_bytes(pid: int) -> int:
    """Of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def measure_prometheus(address: str, targets: int, series: int) -> None:
    """Prints what a Prometheus holds for so many instances."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = f"global: {{scrape_interval: {INTERVAL_SECONDS}s}}\nscrape_configs:\n"
        for number in range(targets):
            config += (
                f"  - {{job_name: p{number}, honor_labels: true, static_configs: "
                f"[{{targets: ['{address}'], labels: {{instance: node-{number}}}}}]}}\n"
            )
        (folder / "prometheus.yml").write_text(config)
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                "--web.listen-address=127.0.0.1:19190",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(SCRAPES * INTERVAL_SECONDS)
            own = scrape("http://127.0.0.1:19190/metrics")
            head = int(
                float(re.findall(r"^prometheus_tsdb_head_series (\S+)", own, re.MULTILINE)[0])
            )
            heap = float(re.findall(r"^go_memstats_heap_inuse_bytes (\S+)", own, re.MULTILINE)[0])
            cpu = float(re.findall(r"^process_cpu_seconds_total (\S+)", own, re.MULTILINE)[0])
            print(f"Prometheus: {head} series of {targets} x {series}")
            print(f"  resident {resident_bytes(process.pid) / head:.0f} bytes a series")
            print(f"  heap {heap / head:.0f} bytes a series, {cpu:.1f} s of CPU")
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Both parts."""
    executables = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_EXECUTABLES
    targets = int(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_TARGETS
    with Running() as running, tempfile.TemporaryDirectory() as name:
        talk(Path(name), executables)
        time.sleep(SETTLE_SECONDS)
        series = describe(scrape(f"http://{running.address}/metrics"))
        if targets:
            measure_prometheus(running.address, targets, series)


if __name__ == "__main__":
    main()
