"""The log: rows a second, bytes a row, memory while writing, and query times.

::

    .venv/bin/python -m bench.log [--rows N]... [--servers]

With --servers, PostgreSQL and MariaDB are started in temporary folders and measured as well.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from picosnitch_exporter.log.reader import BYTES, LogReader, Result
from picosnitch_exporter.log.remote import RemoteLog
from picosnitch_exporter.log.selection import Selection
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import NO_PROGRAM, Commit, Direction, LogRow, Program, Sha256
from picosnitch_exporter.settings import ServerSettings
from tests.database_servers import mariadb, postgresql

DAY_SECONDS = 86_400
EXECUTABLES = 300
ADDRESSES = 20_000
BATCH_ROWS = 10_000


def main() -> None:
    """Prints one line for each number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="default: 1 and 10 million")
    parser.add_argument("--servers", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_sqlite(Path(folder), sorted(arguments.rows or [1_000_000, 10_000_000]))
    if arguments.servers:
        measure_servers()


def measure_sqlite(folder: Path, totals: list[int]) -> None:
    """One database that grows, with all rows within one day."""
    path = folder / "snitch.db"
    database = Database(path, boot_id="bench")
    end = int(time.time())
    begin = end - DAY_SECONDS
    batches = traffic(begin, DAY_SECONDS * BATCH_ROWS / totals[-1])
    written = 0
    for total in totals:
        seconds = 0.0
        before = written
        while written < total:
            commit = commit_of(next(batches))
            started = time.perf_counter()
            database.commit(commit)
            seconds += time.perf_counter() - started
            written += len(commit.rows)
        rate = (written - before) / seconds
        say(f"sqlite rows_a_second rows={written} value={rate:.0f}")
        say(f"sqlite bytes_a_row rows={written} value={path.stat().st_size / written:.1f}")
        measure_queries(path, written)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"sqlite peak_resident_mib value={peak:.0f}")
    database.close()


def measure_queries(path: Path, rows: int) -> None:
    """The median of a few runs of each query."""
    since = int(time.time()) - DAY_SECONDS + 123
    day = Selection(since=since)
    queries: dict[str, Callable[[LogReader], Result]] = {
        "top_ten_of_the_day": lambda log: log.sums(day, by=("exe",), sort=BYTES, limit=10),
        "top_ten_from_rows": lambda log: log.sums(day, by=("exe", "user"), sort=BYTES, limit=10),
        "domains_of_one": lambda log: log.sums(
            Selection(since=since, executable="program7"),
            by=("domain",),
            sort=BYTES,
            limit=10,
        ),
        "latest_hundred": lambda log: log.rows(Selection(), limit=100),
    }
    reader = LogReader(path)
    medians = {}
    for name, query in queries.items():
        times = []
        for _ in range(5):
            started = time.perf_counter()
            list(query(reader).rows)
            times.append(time.perf_counter() - started)
        medians[name] = sorted(times)[2]
        say(f"sqlite query={name} rows={rows} milliseconds={1000 * medians[name]:.1f}")
    reader.close()
    ratio = medians["top_ten_from_rows"] / medians["top_ten_of_the_day"]
    say(f"sqlite roll_up_gain rows={rows} times={ratio:.0f}")


def measure_servers() -> None:
    """Rows a second through the drivers, as the exporter uses them."""
    for kind in (postgresql, mariadb):
        with kind() as server:
            server.query("CREATE DATABASE log")
            if server.kind == "postgresql":
                server.query("CREATE ROLE bench SUPERUSER LOGIN PASSWORD 'bench'")
            else:
                server.query("CREATE USER bench IDENTIFIED BY 'bench'")
                server.query("GRANT ALL ON log.* TO bench")
            settings = ServerSettings(
                client="psycopg" if server.kind == "postgresql" else "pymysql",
                parameters=(
                    ("host", "127.0.0.1"),
                    ("port", server.port),
                    ("user", "bench"),
                    ("password", "bench"),
                    ("database", "log"),
                ),
            )
            log = RemoteLog.connect(sessions_of(settings), table_name="connections", host="bench")
            batches = traffic(int(time.time()) - DAY_SECONDS, 10)
            rates = []
            for number in range(30):
                rows = next(batches)
                started = time.perf_counter()
                log.deliver(number.to_bytes(16, "big"), rows)
                rates.append(len(rows) / (time.perf_counter() - started))
            log.close()
            say(f"{server.kind} rows_a_second value={sorted(rates)[len(rates) // 2]:.0f}")


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


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


if __name__ == "__main__":
    main()
