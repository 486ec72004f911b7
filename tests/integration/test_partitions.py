"""The connection log of a fleet in PostgreSQL, with a partition for each day."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.log.remote import RemoteLog
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.settings import ServerSettings
from tests.database_servers import DatabaseServer, postgresql
from tests.log_samples import row

SCRIPT = Path(__file__).parents[2] / "deploy" / "postgresql" / "partitions.sql"
DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[DatabaseServer]:
    with postgresql() as running:
        running.query("CREATE DATABASE fleet")
        running.query("CREATE ROLE exporter LOGIN PASSWORD 'secret'")
        running.query("GRANT CREATE, USAGE ON SCHEMA public TO exporter", database="fleet")
        yield running


def connected(server: DatabaseServer, host: str) -> RemoteLog:
    settings = ServerSettings(
        client="psycopg",
        parameters=(
            ("host", "127.0.0.1"),
            ("port", server.port),
            ("user", "exporter"),
            ("password", "secret"),
            ("database", "fleet"),
        ),
    )
    return RemoteLog.connect(sessions_of(settings), table_name="connections", host=host)


def ask(server: DatabaseServer, sql: str) -> str:
    return (server.query(sql, database="fleet") or "").strip()


def test_rows_arrive_when_the_table_is_partitioned(server: DatabaseServer) -> None:
    now = int(time.time())
    before = connected(server, "one")
    before.deliver(bytes(range(16)), (row(contime=now - 40 * DAY_SECONDS), row(contime=now)))
    before.close()

    ask(server, SCRIPT.read_text())
    after = connected(server, "two")
    after.deliver(bytes(range(1, 17)), (row(contime=now), row(contime=now + DAY_SECONDS)))
    after.close()

    assert ask(server, "SELECT count(*), count(DISTINCT host) FROM connection_log") == "4\t2"
    assert ask(server, "SELECT count(*) FROM connections_other") == "1"
    plan = ask(server, f"EXPLAIN SELECT sum(send) FROM connections WHERE contime = {now}")  # noqa: S608 - a number
    assert len(set(re.findall(r"connections_[0-9]{8}", plan))) == 1
    assert "connections_other" not in plan

    ask(server, "SELECT picosnitch_partitions(ahead => 9, keep => 30)")

    assert ask(server, "SELECT count(*) FROM connection_log") == "3"
    days = ask(server, "SELECT count(*) FROM pg_class WHERE relname ~ '^connections_[0-9]{8}$'")
    assert days == "11"


def test_old_days_go_whole(server: DatabaseServer) -> None:
    ask(
        server,
        "CREATE TABLE connections_20200101 PARTITION OF connections "
        "FOR VALUES FROM (1577836800) TO (1577923200)",
    )

    ask(server, "SELECT picosnitch_partitions(ahead => 1, keep => 90)")

    assert ask(server, "SELECT to_regclass('connections_20200101') IS NULL") == "t"
