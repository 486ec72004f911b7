"""Rows of a connection log as a busy machine has them, the same ones each time."""

import random
from collections.abc import Iterator

from picosnitch_exporter.model import NO_PROGRAM, Commit, Direction, LogRow, Program, Sha256

DAY_SECONDS = 86_400
EXECUTABLES = 300
ADDRESSES = 20_000
BATCH_ROWS = 10_000


def commit_of(rows: tuple[LogRow, ...]) -> Commit:
    """Rows as a commit, with nothing else."""
    return Commit(
        rows=rows,
        totals=(),
        executables=(),
        files=(),
        journal_segment=1,
        ring_instance=1,
        ring_position=1,
    )


def traffic(begin: int, step_seconds: float) -> Iterator[tuple[LogRow, ...]]:
    """Batches of rows, each a step later, of some busy executables and many quiet ones."""
    source = random.Random(1)  # noqa: S311 repeatable
    programs = [
        Program(
            exe=f"/usr/bin/program{number}",
            name=f"program{number}",
            cmdline=f"program{number} --serve",
            sha256=Sha256(f"{number:064x}"),
        )
        for number in range(EXECUTABLES)
    ]
    when = float(begin)
    while True:
        yield tuple(_row(source, programs, int(when)) for _ in range(BATCH_ROWS))
        when += step_seconds


def _row(source: random.Random, programs: list[Program], when: int) -> LogRow:
    program = programs[min(int(source.expovariate(0.05)), len(programs) - 1)]
    peer = int(source.expovariate(0.001)) % ADDRESSES
    return LogRow(
        contime=when,
        send_bytes=source.randrange(100_000),
        receive_bytes=source.randrange(1_000_000),
        events=source.randrange(1, 50),
        program=program,
        parent=programs[0],
        grandparent=NO_PROGRAM,
        uid=1000,
        protocol="tcp",
        direction=Direction.OUTBOUND,
        local_port=source.randrange(32_768, 61_000),
        remote_port=443,
        local_address="10.0.0.2",
        remote_address=f"198.51.{peer >> 8}.{peer & 255}",
        domain=f"com.example.host{peer}",
        netns=4_026_531_840,
        container="",
    )
