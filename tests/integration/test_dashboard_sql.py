"""The queries of the dashboard Log, on a real PostgreSQL and a real MariaDB.

They run as an account that may read the view and nothing else, on MariaDB with the SQL mode that it
and MySQL have by default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pymysql
import pytest

from dashboards.links import Uid
from picosnitch_exporter.log.remote import RemoteLog
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.model import Direction, LogRow
from picosnitch_exporter.settings import ServerSettings
from tests.database_servers import DatabaseServer, mariadb, postgresql
from tests.grafana import DASHBOARDS, PanelQuery, in_sql, panels, queries, variables
from tests.log_samples import CURL, SHELL, row

BEGIN = 1_700_000_100  # a multiple of the interval of the charts
SPAN = (BEGIN, BEGIN + 3600)
# The defaults of MariaDB 10.11 and of MySQL 8.
SQL_MODE = (
    "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,ONLY_FULL_GROUP_BY"
)
EVERYTHING: dict[str, tuple[str, ...]] = {
    "host": ("alpha", "beta"),
    "sha256": ("",),
    "exe": ("",),
    "domain": ("",),
    "address": ("",),
    "port": ("",),
}
ROWS = (
    row(contime=BEGIN + 10, send=1, recv=10),
    row(contime=BEGIN + 400, send=2, recv=20, program=SHELL, rport=53),
    replace(row(contime=BEGIN + 401, send=4, recv=40), domain="com.example.www"),
    replace(row(contime=BEGIN + 800, send=8, recv=80), domain="com.examples"),
    replace(
        row(contime=BEGIN + 900, send=16, recv=160),
        remote_address="2001:db8::1",
        local_port=22,
        direction=Direction.INBOUND,
    ),
    # Never on the network (identity.every_exe), and before the time range.
    row(contime=BEGIN + 30, send=0, recv=0, rport=-1),
    row(contime=BEGIN - 10, send=1 << 40, recv=1 << 40),
)


@dataclass(frozen=True, slots=True)
class Log:
    """One database, as Grafana sees it."""

    uid: Uid
    connection: "psycopg.Connection[tuple[Any, ...]] | pymysql.Connection[Any]"

    def fetch(self, sql: str) -> tuple[list[str], Sequence[tuple[Any, ...]]]:
        """Names of the columns, and rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            assert cursor.description is not None
            return [column[0] for column in cursor.description], cursor.fetchall()

    def panel(self, title: str, values: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
        """The rows of a panel's query, by the names of its columns."""
        (query,) = (one for one in panel_queries(self.uid) if one.title == title)
        names, rows = self.fetch(in_sql(query.text, values=values, span=SPAN, interval=300))
        return [dict(zip(names, found, strict=True)) for found in rows]


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    with {"postgresql": postgresql, "mariadb": mariadb}[request.param]() as server:
        fill(server)
        connection: Any
        if server.kind == "postgresql":
            uid = Uid.LOG_POSTGRESQL
            connection = psycopg.connect(
                host="127.0.0.1",
                port=server.port,
                user="grafana",
                password="secret",
                dbname="log",
                autocommit=True,
            )
        else:
            uid = Uid.LOG_MYSQL
            connection = pymysql.connect(
                host="127.0.0.1",
                port=server.port,
                user="grafana",
                password="secret",
                database="log",
                sql_mode=SQL_MODE,
            )
        try:
            yield Log(uid, connection)
        finally:
            connection.close()


def fill(server: DatabaseServer) -> None:
    """Two hosts write their rows, and an account gets the right to read the view."""
    server.query("CREATE DATABASE log")
    if server.kind == "postgresql":
        accounts = (
            "CREATE ROLE exporter LOGIN PASSWORD 'secret'",
            "GRANT CREATE, USAGE ON SCHEMA public TO exporter",
            "CREATE ROLE grafana LOGIN PASSWORD 'secret'",
        )
        client = "psycopg2"
    else:
        accounts = (
            "CREATE USER exporter IDENTIFIED BY 'secret'",
            "GRANT CREATE, CREATE VIEW, INSERT, SELECT ON log.* TO exporter",
            "CREATE USER grafana IDENTIFIED BY 'secret'",
        )
        client = "mariadb"
    for statement in accounts:
        server.query(statement, database="log")
    settings = ServerSettings(
        client=client,
        parameters=(
            ("host", "127.0.0.1"),
            ("port", server.port),
            ("user", "exporter"),
            ("password", "secret"),
            ("database", "log"),
        ),
    )
    for host, rows in (("alpha", ROWS), ("beta", ROWS[:1])):
        write(settings, host, rows)
    server.query("GRANT SELECT ON connection_log TO grafana", database="log")


def write(settings: ServerSettings, host: str, rows: tuple[LogRow, ...]) -> None:
    remote = RemoteLog.connect(sessions_of(settings), table_name="connections", host=host)
    try:
        assert remote.deliver(host.encode().ljust(16, b"."), rows)
    finally:
        remote.close()


def panel_queries(uid: Uid) -> list[PanelQuery]:
    return list(queries(uid, DASHBOARDS[uid]))


def test_every_query_returns_data(log: Log) -> None:
    for query in panel_queries(log.uid):
        text = in_sql(query.text, values=EVERYTHING, span=SPAN, interval=60)
        _names, rows = log.fetch(text)
        assert rows, query.title
        assert any(value is not None for value in rows[0]), query.title


def test_every_query_works_when_nothing_is_logged(log: Log) -> None:
    for query in panel_queries(log.uid):
        # Without any host, Grafana's "All" is one empty text.
        values = EVERYTHING | {"host": ("",)}
        _names, rows = log.fetch(in_sql(query.text, values=values, span=(0, 1), interval=60))
        assert not any(value for found in rows for value in found), query.title


def test_columns_are_called_as_units_and_links_name_them(log: Log) -> None:
    for panel in panels(DASHBOARDS[log.uid]):
        if panel["type"] != "table":
            continue
        (target,) = panel["targets"]
        names, _rows = log.fetch(
            in_sql(target["rawSql"], values=EVERYTHING, span=SPAN, interval=60)
        )
        overridden = {
            override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]
        }
        # A panel's links may name columns that only its siblings have.
        assert overridden & {"Sent", "Received"} <= set(names), panel["title"]
        assert len(set(names)) == len(names)


def test_hosts_are_those_of_the_time_range(log: Log) -> None:
    query = variables(DASHBOARDS[log.uid])["host"]["query"]
    _names, rows = log.fetch(in_sql(query, values={}, span=SPAN, interval=60))
    assert list(rows) == [("alpha",), ("beta",)]


@pytest.mark.parametrize(
    ("chosen", "sent"),
    [
        ({}, [1, 1, 2, 4, 8, 16]),
        ({"host": ("beta",)}, [1]),
        ({"sha256": (SHELL.sha256,)}, [2]),
        ({"exe": (CURL.exe,), "host": ("alpha",)}, [1, 4, 8, 16]),
        ({"domain": ("com.example",)}, [1, 1, 2, 4, 16]),
        ({"domain": ("com.example.www",)}, [4]),
        ({"domain": ("com.ex_mple",)}, []),
        ({"address": ("2001:db8::1",)}, [16]),
        ({"port": ("53",)}, [2]),
        ({"port": ("22",)}, [16]),
        ({"exe": ("it's' OR ''='",)}, []),
    ],
)
def test_filters_leave_the_rows_that_fit(
    log: Log, chosen: dict[str, tuple[str, ...]], sent: list[int]
) -> None:
    rows = log.panel("Latest connections", EVERYTHING | chosen)
    assert sent == sorted(found["Sent"] for found in rows)


def test_sums_are_those_of_the_rows(log: Log) -> None:
    assert log.panel("Sent", EVERYTHING) == [{"Sent": 32}]
    assert log.panel("Received", EVERYTHING) == [{"Received": 320}]
    groups = log.panel("Bytes", EVERYTHING)
    assert [(int(found["Sent"]), int(found["Received"])) for found in groups] == [
        (2, 20),
        (6, 60),
        (8, 80),
        (16, 160),
    ]
    times = [int(found["time"]) for found in groups]
    assert times == sorted(times)
    assert all(time % 300 == 0 for time in times)


def test_ports_are_local_ones_where_a_connection_was_accepted(log: Log) -> None:
    rows = log.panel("Ports", EVERYTHING)
    assert {(22, "inbound", 16), (53, "outbound", 2), (443, "outbound", 14)} == {
        (found["Port"], found["direction"], int(found["Sent"])) for found in rows
    }
