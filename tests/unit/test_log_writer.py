import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.log.outbox import Batch, Parcel, Target
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.text import TextFile, csv_lines
from picosnitch_exporter.log.writer import QUEUED_COMMITS, LogWriter
from picosnitch_exporter.model import Commit, KnownExecutable
from picosnitch_exporter.settings import LogSettings, SqliteSettings, TextSettings
from picosnitch_exporter.state.health import Health
from tests.log_samples import NOTHING, commit, known_executable, row

TEXT = LogSettings(text=TextSettings(enabled=True))
DEADLINE_SECONDS = 20


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Bench:
    """A writer with everything around it."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.health = Health()
        self.committed: list[int] = []
        self.failures: list[BaseException] = []
        self.discovered: list[KnownExecutable] = []

    @contextmanager
    def writer(
        self,
        settings: LogSettings = TEXT,
        *,
        courier: "RecordingCourier | None" = None,
        otlp: "RecordingCourier | None" = None,
    ) -> Iterator[LogWriter]:
        database = Database(
            self.storage / "snitch.db",
            boot_id="boot",
            keep_rows=settings.sqlite.enabled,
            # The samples are from 2023.
            retention_days=36_500,
            busy_seconds=0.01,
        )
        database.load()
        writer = LogWriter(
            database,
            settings=settings,
            storage=self.storage,
            health=self.health,
            committed=lambda each: self.committed.append(each.journal_segment),
            failed=self.failures.append,
            discovered=self.discovered.extend,
            courier=courier,
            otlp=otlp,
        )
        writer.start()
        try:
            yield writer
        finally:
            writer.close(timeout_seconds=2)
            database.close()

    def value(self, metric: Metric, *labels: str) -> float:
        for family in self.health.collect():
            if family.metric is metric:
                return sum(each.value for each in family.readings if each.labels == labels)
        return 0

    def shell(self) -> "closing[sqlite3.Connection]":
        return closing(sqlite3.connect(self.storage / "snitch.db", isolation_level=None))

    def count(self) -> int:
        with self.shell() as connection:
            (found,) = connection.execute("SELECT count(*) FROM connection_log").fetchone()
        return int(found)

    def lines(self, name: str = "conn.log") -> list[str]:
        path = self.storage / name
        return path.read_text().splitlines() if path.exists() else []


class RecordingCourier:
    """Holds each batch until it is told that it has arrived."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.arrived: Callable[[bytes], None] = lambda _key: None

    def start(
        self,
        arrived: Callable[[bytes], None],
        _failed: Callable[[BaseException], None],
    ) -> None:
        self.arrived = arrived

    def bring(self, batch: Batch) -> None:
        self.batches.append(batch)

    def encode(self, commit: Commit) -> bytes:
        return str(commit.journal_segment).encode()

    def close(self, *, timeout_seconds: float) -> None:
        assert timeout_seconds > 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    assert bench.failures == []


def test_commits_become_durable_in_order_when_handed_over(bench: Bench) -> None:
    with bench.writer() as writer:
        for segment in (1, 2, 3):
            writer.submit(commit(row(), row(), segment=segment))
    assert bench.committed == [1, 2, 3]
    assert bench.count() == 6
    assert len(bench.lines()) == 6
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "sqlite") == 6
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "text") == 6
    assert bench.value(catalog.LOG_ROWS_WAITING, "sqlite") == 0
    assert bench.value(catalog.LOG_ROWS_WAITING, "text") == 0


def test_values_are_hidden_in_every_log_when_settings_say_so(bench: Bench) -> None:
    courier = RecordingCourier()
    settings = replace(TEXT, addresses=False, commands=False, ports=False)
    with bench.writer(settings, courier=courier) as writer:
        writer.submit(commit(row()))
    with bench.shell() as connection:
        assert connection.execute(
            "SELECT cmdline, pcmdline, lport, rport, laddr, raddr, domain FROM connection_log",
        ).fetchall() == [("", "", 0, 0, "", "", "")]
    assert bench.lines()[0].endswith(",1000,0,0,,,")


def test_text_log_is_written_when_the_sqlite_log_is_off(bench: Bench) -> None:
    with bench.writer(replace(TEXT, sqlite=SqliteSettings(enabled=False))) as writer:
        writer.submit(commit(row()))
    assert bench.count() == 0
    assert len(bench.lines()) == 1
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "sqlite") == 0


def test_commit_is_kept_and_tried_again_when_the_database_is_locked(bench: Bench) -> None:
    with bench.writer() as writer:
        with bench.shell() as shell:
            shell.execute("BEGIN IMMEDIATE")
            room = []
            for segment in range(1, QUEUED_COMMITS + 2):
                room.append(writer.has_room)
                writer.submit(commit(row(), segment=segment))
            wait_for(lambda: bench.value(catalog.LOG_ERRORS, "sqlite", "locked") >= 2)
            assert [*room, writer.has_room] == [True] * (QUEUED_COMMITS + 1) + [False]
            assert bench.value(catalog.LOG_ROWS_WAITING, "sqlite") == QUEUED_COMMITS + 1
            assert bench.committed == []
            shell.execute("ROLLBACK")
        wait_for(lambda: len(bench.committed) == QUEUED_COMMITS + 1)
        wait_for(lambda: writer.has_room)
    assert bench.count() == QUEUED_COMMITS + 1
    assert any("log_write_failed log=sqlite" in line for line in bench.lines("error.log"))


def test_writer_gives_up_in_time_when_it_is_closed_while_locked(bench: Bench) -> None:
    with bench.shell() as shell:
        with bench.writer() as writer:
            shell.execute("BEGIN IMMEDIATE")
            writer.submit(commit(row()))
            started = time.monotonic()
            writer.close(timeout_seconds=0.2)
            assert time.monotonic() - started < 2
        shell.execute("ROLLBACK")
    assert bench.committed == []
    assert bench.count() == 0


def test_rows_wait_for_the_text_log_when_it_cannot_be_written(bench: Bench) -> None:
    (bench.storage / "conn.log").mkdir()
    with bench.writer() as writer:
        writer.submit(commit(row(), segment=1))
        writer.submit(commit(row(), segment=2))
        wait_for(lambda: bench.committed == [1, 2])
        wait_for(lambda: bench.value(catalog.LOG_ERRORS, "text", "failed") >= 1)
        wait_for(lambda: bench.value(catalog.LOG_ROWS_WAITING, "text") == 2)
        (bench.storage / "conn.log").rmdir()
        writer.submit(commit(row(), segment=3))
    assert len(bench.lines()) == 3
    assert bench.count() == 3


@pytest.mark.parametrize("written", [slice(0), slice(None), slice(70)])
def test_text_rows_are_written_once_when_the_process_was_killed_before_or_after(
    bench: Bench,
    written: slice,
) -> None:
    body = csv_lines((row(), row(rport=80)))
    path = bench.storage / "conn.log"
    path.write_bytes(body[written])
    database = Database(bench.storage / "snitch.db", boot_id="boot")
    parcel = Parcel(target=Target.TEXT, rows=2, body=body)
    database.commit(commit(row(), row(rport=80)), parcels=(parcel,))
    database.close()
    with bench.writer():
        pass
    assert path.read_bytes() == body


def test_text_rows_are_written_once_when_the_process_was_killed_between_equal_ones(
    bench: Bench,
) -> None:
    body = csv_lines((row(), row()))
    parcel = Parcel(target=Target.TEXT, rows=2, body=body)
    conn_log = TextFile(bench.storage / "conn.log")
    database = Database(bench.storage / "snitch.db", boot_id="boot")
    database.commit(commit(), parcels=(parcel, parcel))
    first = database.first_waiting(Target.TEXT)
    assert first is not None
    conn_log.append(first.body)
    database.arrived(Target.TEXT, first.key, text_end=conn_log.end())
    database.close()
    conn_log.close()
    with bench.writer():
        pass
    assert (bench.storage / "conn.log").read_bytes() == 2 * body


def test_window_is_several_batches_in_order_when_it_has_many_rows(bench: Bench) -> None:
    courier = RecordingCourier()
    rows = [row(rport=port) for port in range(2_500)]
    with bench.writer(courier=courier) as writer:
        writer.submit(commit(*rows))
        for number in range(3):
            wait_for(lambda: len(courier.batches) > number)  # noqa: B023 called at once
            courier.arrived(courier.batches[number].key)
        wait_for(lambda: bench.value(catalog.LOG_ROWS_WAITING, "server") == 0)
    assert [batch.rows for batch in courier.batches] == [1_000, 1_000, 500]
    assert len({batch.key for batch in courier.batches}) == 3
    assert bench.lines() == csv_lines(tuple(rows)).decode().splitlines()


def test_rows_that_fit_are_kept_when_the_outbox_has_no_room_for_all(bench: Bench) -> None:
    rows = [row(rport=port) for port in range(2_500)]
    with bench.writer() as writer:
        limit_bytes = len(csv_lines(tuple(rows[:1_500])))
        writer._database._outbox.limit_bytes[Target.TEXT] = limit_bytes
        writer.submit(commit(*rows))
    assert bench.lines() == csv_lines((*rows[:1_000], *rows[2_000:])).decode().splitlines()
    assert bench.value(catalog.LOG_ROWS_DROPPED, "text", "full") == 1_000


def test_executables_are_named_once_when_they_are_new(bench: Bench) -> None:
    known = known_executable(first_seen=1, last_seen=2)
    with bench.writer() as writer:
        writer.submit(replace(NOTHING, executables=(known,)))
        writer.submit(replace(NOTHING, executables=(replace(known, last_seen_seconds=3),)))
    with bench.writer() as writer:
        writer.submit(replace(NOTHING, executables=(known,)))
    assert bench.discovered == [known]
    assert [line[20:] for line in bench.lines("exe.log")] == [
        "curl /usr/bin/curl (new name, exe)",
        "abababababababab /usr/bin/curl (new hash)",
    ]


def test_batches_are_brought_one_by_one_when_there_is_a_server(bench: Bench) -> None:
    courier = RecordingCourier()
    with bench.writer(courier=courier) as writer:
        writer.submit(commit(row(), segment=1))
        writer.submit(commit(row(), row(), segment=2))
        writer.submit(NOTHING)
        wait_for(lambda: len(bench.committed) == 3)
        assert [batch.body for batch in courier.batches] == [b"1"]
        assert bench.value(catalog.LOG_ROWS_WAITING, "server") == 3
        courier.arrived(courier.batches[0].key)
        wait_for(lambda: len(courier.batches) == 2)
        assert (courier.batches[1].body, courier.batches[1].rows) == (b"2", 2)
        assert bench.value(catalog.LOG_ROWS_WAITING, "server") == 2


def test_couriers_do_not_wait_for_one_another_when_there_are_two(bench: Bench) -> None:
    server, otlp = RecordingCourier(), RecordingCourier()
    with bench.writer(courier=server, otlp=otlp) as writer:
        writer.submit(commit(row(), segment=1))
        writer.submit(commit(row(), row(), segment=2))
        wait_for(lambda: bench.committed == [1, 2])
        otlp.arrived(otlp.batches[0].key)
        wait_for(lambda: len(otlp.batches) == 2)
        assert [batch.body for batch in server.batches] == [b"1"]
        assert bench.value(catalog.LOG_ROWS_WAITING, "server") == 3
        assert bench.value(catalog.LOG_ROWS_WAITING, "otlp") == 2


def test_batch_is_brought_again_with_its_key_when_it_had_not_arrived(bench: Bench) -> None:
    first, second = RecordingCourier(), RecordingCourier()
    with bench.writer(courier=first) as writer:
        writer.submit(commit(row(), segment=1))
    with bench.writer(courier=second):
        wait_for(lambda: second.batches != [])
    assert first.batches == second.batches


def test_rows_are_dropped_and_counted_when_their_log_was_switched_off(bench: Bench) -> None:
    with bench.writer(courier=RecordingCourier()) as writer:
        writer.submit(commit(row(), row()))
    with bench.writer():
        wait_for(lambda: bench.value(catalog.LOG_ROWS_DROPPED, "server", "disabled") == 2)
    with bench.shell() as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_rows_are_dropped_and_counted_when_the_outbox_is_full(bench: Bench) -> None:
    with bench.writer(courier=RecordingCourier()) as writer:
        writer._database._outbox.limit_bytes[Target.SERVER] = 2
        for segment in (1, 2, 3):
            writer.submit(commit(row(), row(), segment=segment))
        wait_for(lambda: bench.committed == [1, 2, 3])
        wait_for(lambda: bench.value(catalog.LOG_ROWS_DROPPED, "server", "full") == 2)
    assert bench.count() == 6
    assert len(bench.lines()) == 6


def test_main_thread_is_told_when_the_writer_cannot_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.writer() as writer:
        nothing: dict[int, None] = {}
        writer._committed = lambda written: nothing[written.journal_segment]
        writer.submit(commit(row(), segment=9))
        wait_for(lambda: bench.failures != [])
    assert isinstance(bench.failures[0], KeyError)


def test_database_rests_once_each_time_there_is_nothing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("picosnitch_exporter.log.writer._REST_SECONDS", 0.01)
    monkeypatch.setattr(Database, "rest", lambda _database: rests.append(time.monotonic()))

    def await_rests(number: int) -> None:
        wait_for(lambda: len(rests) >= number)
        time.sleep(0.1)
        assert len(rests) == number

    with Bench(tmp_path).writer() as writer:
        await_rests(1)
        writer.submit(commit(row()))
        await_rests(2)
