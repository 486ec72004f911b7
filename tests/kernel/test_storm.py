"""Short-lived programs whose files are gone at once: every hash, every byte.

PICOSNITCH_STORM_BINARIES and PICOSNITCH_STORM_PROCESSES set the size (500 and 20,000), for slower
machines.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator, Program
from tests.kernel.scrape import Account

BINARIES = int(os.environ.get("PICOSNITCH_STORM_BINARIES", "500"))
PROCESSES = int(os.environ.get("PICOSNITCH_STORM_PROCESSES", "20000"))
AT_ONCE = 8
UDP = ("udp", "loopback")


@pytest.fixture(scope="module")
def every_exe(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    with Exporter.start({"identity": {"every_exe": True}}) as running:
        yield running


def start_and_unlink(program: Program, links: list[Path], *arguments: str) -> None:
    """Start one process by each name; the name is gone before the process is done."""
    for link in links:
        with subprocess.Popen(
            [link, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            link.unlink()
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0, program.path


def storm(generator: Generator, count: int, *arguments: str) -> tuple[list[Program], Counter[str]]:
    """All processes of all programs; how many there were of each, by hash."""
    programs = [generator.copy("storm") for _ in range(BINARIES)]
    started: Counter[str] = Counter()
    jobs = []
    for index, program in enumerate(programs):
        runs = count // BINARIES + (index < count % BINARIES)
        links = [program.path]
        for run in range(1, runs):
            link = program.path.with_name(f"{program.path.name}-{run}")
            link.hardlink_to(program.path)
            links.append(link)
        started[program.sha256] = runs
        jobs.append((program, links))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(start_and_unlink, *job, *arguments) for job in jobs]
    for future in futures:
        future.result()
    return programs, started


def test_all_hashes_and_bytes_are_there_when_short_lived_programs_send(
    exporter: Exporter, shared_generator: Generator
) -> None:
    before = exporter.scrape().losses()
    sink = shared_generator.copy("sink")
    with sink.start("udp-server", via="recvfrom") as server:
        port = server.ready().port
        _, started = storm(shared_generator, PROCESSES, "oneshot", f"port={port}", "bytes=21")
        server.close()
        received = server.done()
        assert received.received == 21 * PROCESSES

    scrape = exporter.await_accounts(
        {
            sha256: Account(transmit={UDP: 21 * runs}, connections={(*UDP, "outbound"): runs})
            for sha256, runs in started.items()
        }
        | {
            sink.sha256: Account(
                receive={UDP: 21 * PROCESSES},
                # Some of the processes get a port that another has had.
                connections={(*UDP, "inbound"): len(received.peers)},
            )
        }
    )
    assert before == scrape.losses()


def test_all_hashes_are_there_when_short_lived_programs_use_no_network(
    every_exe: Exporter, shared_generator: Generator
) -> None:
    before = every_exe.scrape().losses()
    programs, _ = storm(shared_generator, BINARIES, "idle")
    wanted = {program.sha256 for program in programs}

    scrape = every_exe.await_scrape(
        lambda shown: wanted <= {executable.sha256 for executable in shown.executables},
        f"{BINARIES} hashes of executables",
    )
    assert before == scrape.losses()
