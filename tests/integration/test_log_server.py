import itertools
import random
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picosnitch_exporter import catalog
from picosnitch_exporter.log.remote import RemoteLog, ServerError
from picosnitch_exporter.log.server import ServerCourier, sessions_of
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.writer import LogWriter
from picosnitch_exporter.settings import LogSettings, ServerSettings
from picosnitch_exporter.state.health import Health
from tests.database_servers import CuttingProxy, DatabaseServer, mariadb, postgresql
from tests.log_samples import CURL, SHELL, commit, row

KEY = bytes(range(16))
DEADLINE_SECONDS = 60
_numbers = itertools.count(1)


@dataclass
class Place:
    """A database of its own on a server, and an account that may do little in it."""

    server: DatabaseServer
    database: str
    account: str
    proxy: CuttingProxy

    def settings(self, **changes: str) -> ServerSettings:
        client = "psycopg2" if self.server.kind == "postgresql" else "mariadb"
        parameters: dict[str, str | int | bool | None] = {
            "host": "127.0.0.1",
            "port": self.proxy.port,
            "user": self.account,
            "password": "secret",
            "database": self.database,
        }
        table_name = changes.pop("table_name", "connections")
        parameters.update(changes)
        return ServerSettings(
            client=client,
            table_name=table_name,
            parameters=tuple(parameters.items()),
        )

    def connected(self, *, host: str = "here", **changes: str) -> RemoteLog:
        chosen = self.settings(**changes)
        return RemoteLog.connect(sessions_of(chosen), table_name=chosen.table_name, host=host)

    def fetch(self, sql: str) -> list[tuple[object, ...]]:
        session = sessions_of(self.settings())()
        try:
            return session.fetch(sql)
        finally:
            session.close()

    def administer(self, *statements: str) -> None:
        for statement in statements:
            self.server.query(statement, database=self.database)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    with {"postgresql": postgresql, "mariadb": mariadb}[request.param]() as running:
        yield running


@pytest.fixture
def place(server: DatabaseServer) -> Iterator[Place]:
    """With the privileges that the contract names: CREATE, INSERT and SELECT."""
    number = next(_numbers)
    proxy = CuttingProxy(server.port)
    made = Place(server, f"log{number}", f"account{number}", proxy)
    server.query(f"CREATE DATABASE {made.database}")
    if server.kind == "postgresql":
        made.administer(
            f"CREATE ROLE {made.account} LOGIN PASSWORD 'secret'",
            f"GRANT CREATE, USAGE ON SCHEMA public TO {made.account}",
        )
    else:
        made.administer(
            f"CREATE USER {made.account} IDENTIFIED BY 'secret'",
            f"GRANT CREATE, CREATE VIEW, INSERT, SELECT ON {made.database}.* TO {made.account}",
        )
    yield made
    proxy.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Exporter:
    """The log of an exporter, with all its threads."""

    def __init__(self, storage: Path, place: Place) -> None:
        self.storage = storage
        self.place = place
        self.health = Health()
        self.committed: list[int] = []

    @contextmanager
    def writer(self) -> Iterator[LogWriter]:
        database = Database(self.storage / "snitch.db", boot_id="b", retention_days=36_500)
        failures: list[BaseException] = []
        writer = LogWriter(
            database,
            settings=LogSettings(),
            storage=self.storage,
            health=self.health,
            committed=lambda each: self.committed.append(each.journal_segment),
            failed=failures.append,
            courier=ServerCourier(
                self.place.settings(),
                health=self.health,
                host="here",
                first_retry_seconds=0.01,
            ),
        )
        writer.start()
        try:
            yield writer
        finally:
            writer.close(timeout_seconds=5)
            database.close()
            assert failures == []

    def rows_waiting(self) -> float:
        return self._value(catalog.LOG_ROWS_WAITING)

    def rows_arrived(self) -> float:
        return self._value(catalog.LOG_ROWS_WRITTEN)

    def _value(self, metric: catalog.Metric) -> float:
        for family in self.health.collect():
            if family.metric is metric:
                return sum(each.value for each in family.readings if each.labels == ("server",))
        return 0

    def outbox_is_empty(self) -> bool:
        with closing(sqlite3.connect(self.storage / "snitch.db")) as connection:
            return not connection.execute("SELECT number FROM outbox LIMIT 1").fetchall()

    def local_rows(self) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.storage / "snitch.db")) as connection:
            return connection.execute("SELECT * FROM connection_log ORDER BY contime").fetchall()


def test_view_equals_that_of_sqlite_when_the_same_rows_are_in_both(
    place: Place,
    tmp_path: Path,
) -> None:
    rows = (
        row(contime=1_700_000_000, send=(1 << 63) - 1, recv=1 << 40),
        row(contime=1_700_000_001, program=replace(SHELL, exe="/usr/bin/DASH")),
        replace(row(contime=1_700_000_002), container="c0ffee", local_port=-1, remote_port=-1),
    )
    exporter = Exporter(tmp_path, place)
    with exporter.writer() as writer:
        writer.submit(commit(*rows))
        wait_for(lambda: exporter.rows_arrived() == 3)
    local = [(*each, "here") for each in exporter.local_rows()]
    assert local == place.fetch("SELECT * FROM connection_log ORDER BY contime")
    assert len(local) == 3


def test_batch_is_there_once_when_it_was_brought_twice(place: Place) -> None:
    log = place.connected()
    assert log.deliver(KEY, (row(), row()))
    assert not log.deliver(KEY, (row(), row()))
    log.close()
    again = place.connected()
    assert not again.deliver(KEY, (row(), row()))
    again.close()
    assert place.fetch("SELECT count(*) FROM connection_log") == [(2,)]


def test_account_without_create_can_write_when_the_tables_exist(place: Place) -> None:
    place.connected().close()
    if place.server.kind == "postgresql":
        place.administer(
            "CREATE ROLE writer LOGIN PASSWORD 'secret'",
            "GRANT USAGE ON SCHEMA public TO writer",
            "GRANT INSERT, SELECT ON ALL TABLES IN SCHEMA public TO writer",
        )
    else:
        place.administer(
            "CREATE USER writer IDENTIFIED BY 'secret'",
            f"GRANT INSERT, SELECT ON {place.database}.* TO writer",
        )
    log = place.connected(user="writer")
    assert log.deliver(KEY, (row(),))
    log.close()
    assert place.fetch("SELECT exe FROM connection_log") == [("/usr/bin/curl",)]
    place.administer(
        *(["DROP OWNED BY writer"] if place.server.kind == "postgresql" else []),
        "DROP USER writer",
    )


def test_log_does_without_its_view_when_the_account_cannot_make_one(
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if place.server.kind == "postgresql":
        pytest.skip("no privilege of its own")
    place.administer(f"REVOKE CREATE VIEW ON {place.database}.* FROM {place.account}")
    log = place.connected()
    assert log.deliver(KEY, (row(),))
    log.close()
    assert place.fetch("SELECT count(*) FROM connections") == [(1,)]
    assert 'make_it_with="CREATE VIEW connection_log' in caplog.text


def test_another_table_is_used_when_picosnitch_has_one_of_that_name(
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place.administer("CREATE TABLE connections (contime varchar(20), send integer, exe text)")
    log = place.connected()
    assert log.deliver(KEY, (row(),))
    log.close()
    assert "server_table_taken table=connections using=picosnitch_connections" in caplog.text
    assert place.fetch("SELECT count(*) FROM picosnitch_connections") == [(1,)]
    assert place.fetch("SELECT send FROM connection_log") == [(10,)]


def test_rows_go_to_the_named_table_when_there_is_a_name(place: Place) -> None:
    log = place.connected(table_name="traffic")
    assert log.deliver(KEY, (row(),))
    log.close()
    assert place.fetch("SELECT send FROM traffic") == [(10,)]
    assert place.fetch("SELECT send FROM connection_log") == [(10,)]


def test_newer_tables_are_refused(place: Place) -> None:
    place.connected().close()
    place.administer("INSERT INTO picosnitch_schema (version) VALUES (99)")
    with pytest.raises(ServerError, match="have version 99"):
        place.connected()


def test_error_is_the_servers_when_a_value_is_none_of_ours(place: Place) -> None:
    place.administer(
        "CREATE TABLE picosnitch_schema (version varchar(20))",
        "INSERT INTO picosnitch_schema (version) VALUES ('two')",
        f"GRANT SELECT ON picosnitch_schema TO {place.account}",
    )
    with pytest.raises(ServerError, match="'two'") as raised:
        place.connected()
    assert raised.value.reason == "failed"


def test_error_is_the_servers_when_the_driver_cannot_read_a_value(place: Place) -> None:
    if place.server.kind != "postgresql":
        pytest.skip("its driver reads no JSON")
    session = sessions_of(place.settings())()
    with pytest.raises(ServerError) as raised:
        session.fetch("SELECT repeat('9', 5000)::json")
    assert raised.value.reason == "failed"
    session.close()


def test_error_says_refused_when_the_password_is_wrong(place: Place) -> None:
    with pytest.raises(ServerError) as raised:
        place.connected(password="wrong")
    assert raised.value.reason == (
        "unreachable" if place.server.kind == "postgresql" else "refused"
    )
    assert "password" in str(raised.value)


def test_hosts_do_not_wait_for_each_other_when_they_share_a_server(place: Place) -> None:
    place.connected().close()
    batches, rounds = 8, 5
    failures: list[ServerError] = []

    def work(number: int) -> None:
        log = place.connected(host=f"host{number}")
        try:
            for n in range(rounds):
                programs = [replace(CURL, cmdline=f"curl {n} {m}") for m in range(100)]
                random.Random(number).shuffle(programs)  # noqa: S311 repeatable
                rows = tuple(row(program=program) for program in programs)
                log.deliver(bytes([number, n]) * 8, rows)
        except ServerError as error:
            failures.append(error)
        finally:
            log.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(batches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert place.fetch("SELECT count(*), count(DISTINCT host) FROM connection_log") == [
        (batches * rounds * 100, batches),
    ]
    assert place.fetch("SELECT count(*) FROM picosnitch_programs WHERE name = 'curl'") == [
        (rounds * 100,),
    ]


def test_any_text_can_be_stored(place: Place) -> None:
    log = place.connected()
    keys = itertools.count()

    @given(text=st.text(st.characters(exclude_categories=()), max_size=300))
    @settings(
        max_examples=100,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def check(text: str) -> None:
        hostile = replace(CURL, exe=text, name=text, cmdline=text)
        each = replace(row(program=hostile), domain=text, remote_address=text, container=text)
        assert log.deliver(next(keys).to_bytes(16, "big"), (each,))

    check()
    log.close()


def test_local_log_is_not_delayed_when_the_server_is_down(place: Place, tmp_path: Path) -> None:
    exporter = Exporter(tmp_path, place)
    place.proxy.is_down = True
    with exporter.writer() as writer:
        for segment in range(1, 21):
            wait_for(lambda: writer.has_room)
            writer.submit(commit(row(contime=1_700_000_000 + segment), segment=segment))
        wait_for(lambda: exporter.rows_waiting() == 20)
        assert len(exporter.local_rows()) == 20
        place.proxy.is_down = False
        wait_for(lambda: exporter.rows_arrived() == 20)
    ids = place.fetch("SELECT contime FROM connections ORDER BY id")
    assert ids == [(1_700_000_000 + segment,) for segment in range(1, 21)]


@pytest.mark.parametrize("seed", range(3))
def test_rows_arrive_once_and_in_order_when_connections_are_cut_anywhere(
    place: Place,
    tmp_path: Path,
    seed: int,
) -> None:
    place.connected().close()
    source = random.Random(seed)  # noqa: S311 repeatable
    # The first few thousand bytes are the log-in and the schema.
    place.proxy.next_cut = lambda: source.randrange(20_000)
    exporter = Exporter(tmp_path, place)
    batches = 25
    with exporter.writer() as writer:
        for segment in range(1, batches + 1):
            wait_for(lambda: writer.has_room)
            programs = [replace(CURL, cmdline=f"curl {segment} {n}") for n in range(10)]
            rows = [row(contime=1_700_000_000 + segment, program=each) for each in programs]
            writer.submit(commit(*rows, segment=segment))
        wait_for(lambda: exporter.rows_arrived() == 10 * batches)
    place.proxy.next_cut = lambda: None
    assert place.proxy.cuts > 5
    times = [
        int(str(contime))
        for (contime,) in place.fetch("SELECT contime FROM connections ORDER BY id")
    ]
    assert times == [1_700_000_000 + n for n in range(1, batches + 1) for _ in range(10)]
    assert place.fetch("SELECT count(DISTINCT cmdline) FROM connection_log") == [(batches * 10,)]


def test_rows_arrive_once_when_the_server_is_killed_and_comes_back(
    place: Place,
    tmp_path: Path,
) -> None:
    exporter = Exporter(tmp_path, place)
    batches = 60
    with exporter.writer() as writer:
        for segment in range(1, batches + 1):
            wait_for(lambda: writer.has_room)
            writer.submit(commit(row(contime=1_700_000_000 + segment), segment=segment))
            if segment in {20, 40}:
                place.server.kill()
                place.server.start()
        wait_for(lambda: exporter.rows_arrived() == batches)
    times = place.fetch("SELECT contime FROM connections ORDER BY id")
    assert times == [(1_700_000_000 + n,) for n in range(1, batches + 1)]


def test_rows_arrive_once_when_the_exporter_is_killed_anywhere(
    place: Place,
    tmp_path: Path,
) -> None:
    script = textwrap.dedent(
        """
        import sys
        import time
        from pathlib import Path
        from picosnitch_exporter.log.server import ServerCourier
        from picosnitch_exporter.log.sqlite import Database
        from picosnitch_exporter.log.writer import LogWriter
        from picosnitch_exporter.settings import LogSettings, ServerSettings
        from picosnitch_exporter.state.health import Health
        from tests.log_samples import commit, row
        storage, client, *pairs = sys.argv[1:]
        parameters = {"host": "127.0.0.1"} | dict(pair.split("=") for pair in pairs)
        parameters["port"] = int(parameters["port"])
        settings = ServerSettings(client=client, parameters=tuple(parameters.items()))
        database = Database(Path(storage) / "snitch.db", boot_id="b", retention_days=36_500)
        number = database.load().journal_segment
        health = Health()
        def committed(each):
            sys.stdout.write(f"{each.journal_segment}\\n")
            sys.stdout.flush()
        writer = LogWriter(
            database, settings=LogSettings(), storage=Path(storage), health=health,
            committed=committed, failed=print,
            courier=ServerCourier(settings, health=health, host="here"),
        )
        writer.start()
        while True:
            if writer.has_room:
                number += 1
                writer.submit(commit(row(contime=1_700_000_000 + number), segment=number))
            else:
                time.sleep(0.001)
        """,
    )
    chosen = place.settings()
    pairs = [f"{name}={value}" for name, value in chosen.parameters]
    command = [sys.executable, "-c", script, str(tmp_path), chosen.client, *pairs]
    for lines in (3, 40, 120, 7, 90):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _line in range(lines):
                assert process.stdout.readline()
            process.kill()
    exporter = Exporter(tmp_path, place)
    with exporter.writer() as writer:
        writer.submit(commit(row(contime=1_800_000_000), segment=10**6))
        wait_for(lambda: exporter.committed == [10**6] and exporter.outbox_is_empty())
    arrived = place.fetch("SELECT contime FROM connections ORDER BY id")
    assert arrived == [each[:1] for each in exporter.local_rows()]
    assert len(arrived) > 200
