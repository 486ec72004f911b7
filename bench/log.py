"""The log: rows a second, bytes a row, memory while writing, and query times.

::

    sudo .venv/bin/python -m bench.log [--rows N]... [--no-servers]

SQLite at each of the sizes, all rows within one day; beside it picosnitch's published schema
written the obvious way; PostgreSQL and MariaDB, started in temporary folders, through the drivers
as the exporter uses them.
"""

import argparse
import contextlib
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import rounds
from bench.plain_log import PlainLog
from bench.rows import BATCH_ROWS, DAY_SECONDS, commit_of, traffic
from picosnitch_exporter.log.reader import BYTES, LogReader, Result
from picosnitch_exporter.log.remote import RemoteLog
from picosnitch_exporter.log.selection import Selection
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import LogRow
from picosnitch_exporter.settings import ServerSettings
from tests.database_servers import DatabaseServer, mariadb, postgresql

DEFAULT_ROWS = (1_000_000, 10_000_000)
PLAIN_ROWS = 1_000_000
SERVER_BATCHES = 30
QUERY_ROUNDS = 5
ROWS_A_SECOND, BYTES_A_ROW = "rows a second", "bytes a row"
TOP_TEN = "top ten executables of the last day, ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append", help="default: 1 and 10 million")
    parser.add_argument("--no-servers", action="store_true")
    arguments = parser.parse_args()
    sizes = sorted(arguments.rows or DEFAULT_ROWS)
    rounds.head("log", "rows", "what", "figure")
    with tempfile.TemporaryDirectory() as folder:
        for size, values in sqlite_figures(Path(folder), sizes):
            _print("SQLite", size, values)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        rounds.row("SQLite", f"{sizes[-1]:,}", "most memory of the process, MB", f"{peak:.0f}")
        size = min(PLAIN_ROWS, sizes[-1])
        values = plain_figures(Path(folder) / "plain.db", size)
        _print("published schema, the obvious way", size, values)
    if not arguments.no_servers:
        for kind in (postgresql, mariadb):
            with kind() as server:
                rate = server_rate(server)
            size = SERVER_BATCHES * BATCH_ROWS
            rounds.row(server.kind, f"{size:,}", ROWS_A_SECOND, f"{rate:,.0f}")


def sqlite_figures(folder: Path, sizes: list[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """Of one database that grows, at each size: figures by name."""
    path = folder / "snitch.db"
    database = Database(path, boot_id="bench")
    batches = _day(sizes[-1])
    written = 0
    for size in sizes:
        rates = []
        while written < size:
            commit = commit_of(next(batches))
            started = time.perf_counter()
            database.commit(commit)
            rates.append(len(commit.rows) / (time.perf_counter() - started))
            written += len(commit.rows)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        figures = {
            ROWS_A_SECOND: statistics.median(rates),
            BYTES_A_ROW: path.stat().st_size / written,
        }
        yield written, figures | query_figures(path)
    database.close()


def query_figures(path: Path) -> dict[str, float]:
    """The median of some runs of each query, in ms."""
    since = _yesterday()
    day = Selection(since=since)
    of_one = Selection(since=since, executable="program7")
    queries: dict[str, Callable[[LogReader], Result]] = {
        TOP_TEN: lambda log: log.sums(day, by=("exe",), sort=BYTES, limit=10),
        "the same by user, which no roll-up has, ms": lambda log: log.sums(
            day, by=("exe", "user"), sort=BYTES, limit=10
        ),
        "domains of one executable, ms": lambda log: log.sums(
            of_one, by=("domain",), sort=BYTES, limit=10
        ),
        "the latest hundred rows, ms": lambda log: log.rows(Selection(), limit=100),
    }
    reader = LogReader(path)
    found = {
        name: _median_milliseconds(lambda query=query: list(query(reader).rows))  # type: ignore[misc]
        for name, query in queries.items()
    }
    reader.close()
    return found


def plain_figures(path: Path, size: int) -> dict[str, float]:
    """The same of the plain log."""
    log = PlainLog(path)
    batches = _day(size)
    rates = []
    for _ in range(size // BATCH_ROWS):
        rows = next(batches)
        started = time.perf_counter()
        log.write(rows)
        rates.append(len(rows) / (time.perf_counter() - started))
    figures = {
        ROWS_A_SECOND: statistics.median(rates),
        BYTES_A_ROW: path.stat().st_size / size,
        TOP_TEN: _median_milliseconds(lambda: log.top_ten(_yesterday())),
    }
    log.close()
    return figures


def server_rate(server: DatabaseServer) -> float:
    """Rows a second through the driver."""
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
    batches = _day(SERVER_BATCHES * BATCH_ROWS)
    rates = []
    for number in range(SERVER_BATCHES):
        rows = next(batches)
        started = time.perf_counter()
        log.deliver(number.to_bytes(16, "big"), rows)
        rates.append(len(rows) / (time.perf_counter() - started))
    log.close()
    return statistics.median(rates)


def _print(log: str, size: int, values: dict[str, float]) -> None:
    for what, value in values.items():
        rounds.row(log, f"{size:,}", what, f"{value:,.0f}" if value >= 1000 else f"{value:.1f}")


def _day(rows: int) -> Iterator[tuple[LogRow, ...]]:
    """Batches that fill the last day when there are so many rows."""
    step_seconds = DAY_SECONDS * BATCH_ROWS / rows
    return traffic(int(time.time() - DAY_SECONDS + step_seconds / 2), step_seconds)


def _yesterday() -> int:
    """No whole hour, so that a roll-up by the hour does not answer alone."""
    return int(time.time()) - DAY_SECONDS + 123


def _median_milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(QUERY_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


if __name__ == "__main__":
    main()
