import _sqlite3
import ctypes
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from picosnitch_exporter.errors import StorageBusyError, StorageError, StorageFullError
from picosnitch_exporter.log import opening
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import (
    HOST,
    Commit,
    Executable,
    KnownVerdict,
    Persisted,
    Sha256,
    Verdict,
    VirusTotalResult,
    Workload,
)
from tests.log_samples import (
    CURL,
    NOTHING,
    SHELL,
    commit,
    known_executable,
    known_file,
    row,
    total,
)

NOW = 1_700_000_000.0
DAY = 86_400
COLUMNS = (
    "contime send recv events exe name cmdline sha256 pexe pname pcmdline psha256 gpexe gpname"
    " gpcmdline gpsha256 uid protocol direction lport rport laddr raddr domain netns container"
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage" / "snitch.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Callable[..., Database]]:
    databases = []

    def opening(*, boot_id: str = "boot", keep_rows: bool = True, days: int = 90) -> Database:
        database = Database(
            path,
            boot_id=boot_id,
            keep_rows=keep_rows,
            retention_days=days,
            busy_seconds=0.05,
            clock=clock,
        )
        databases.append(database)
        return database

    yield opening
    for database in databases:
        database.close()


@contextmanager
def shell(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with shell(path) as connection:
        return connection.execute(sql).fetchall()


def test_view_shows_the_contract_when_rows_were_committed(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    opened().commit(commit(row()))
    with shell(path) as connection:
        cursor = connection.execute("SELECT * FROM connection_log")
        assert COLUMNS.split() == [column[0] for column in cursor.description]
        assert cursor.fetchall() == [
            (
                1_700_000_000,
                10,
                20,
                3,
                "/usr/bin/curl",
                "curl",
                "curl https://example.com/",
                "ab" * 32,
                "/usr/bin/dash",
                "sh",
                "sh -c 'curl'",
                "cd" * 32,
                "",
                "",
                "",
                "",
                1000,
                "tcp",
                "outbound",
                50_000,
                443,
                "10.0.0.2",
                "93.184.216.34",
                "com.example",
                4_026_531_840,
                "",
            ),
        ]


def test_equal_values_are_one_object_when_loaded(opened: Callable[..., Database]) -> None:
    database = opened()
    database.load()
    database.commit(
        replace(
            NOTHING,
            totals=(total(1), replace(total(2), metric="receive_bytes")),
            executables=(known_executable(first_seen=NOW, last_seen=NOW),),
            files=(known_file(),),
        ),
    )
    loaded = database.load()
    (known,), (file,) = loaded.executables, loaded.files
    assert [each.labels.executable is known.executable for each in loaded.totals] == [True, True]
    assert {id(each.labels.workload) for each in loaded.totals} == {id(HOST)}
    assert known.workload is HOST
    assert file.sha256 is known.executable.sha256


def test_everything_is_back_when_loaded_again(opened: Callable[..., Database]) -> None:
    saved = Commit(
        rows=(row(),),
        totals=(total(5),),
        executables=(known_executable(first_seen=1.5, last_seen=2.5),),
        files=(known_file(inode=(1 << 63) + 9),),
        journal_segment=7,
        ring_instance=(1 << 64) - 1,
        ring_position=(1 << 63) + 1,
    )
    database = opened()
    assert Persisted() == database.load()
    database.commit(saved)
    database.close()
    again = opened()
    expected = Persisted(
        totals=tuple(saved.totals),
        executables=saved.executables,
        files=saved.files,
        journal_segment=7,
        ring_instance=(1 << 64) - 1,
        ring_position=(1 << 63) + 1,
    )
    assert expected == again.load()
    assert again.is_same_boot


def test_totals_start_anew_when_the_machine_was_booted(opened: Callable[..., Database]) -> None:
    database = opened(boot_id="before")
    database.load()
    database.commit(replace(NOTHING, totals=(total(5),), files=(known_file(),)))
    database.close()
    persisted = (after := opened(boot_id="after")).load()
    assert persisted.totals == ()
    assert persisted.files == (known_file(),)
    assert not after.is_same_boot


@given(paths=st.sets(st.binary(min_size=1, max_size=12), max_size=4), escaped=st.booleans())
@example(paths={b"/opt/caf\xe9", b"/opt/caf\\xe9", b"/opt/caf\\x5cxe9"}, escaped=False)
@example(paths={b"\\x41", b"\\x00", b"\\x5c", b"\\\xe9"}, escaped=False)
@settings(deadline=None, max_examples=50)
def test_paths_are_the_very_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    paths: set[bytes],
    *,
    escaped: bool,
) -> None:
    names = {os.fsdecode(path.replace(b"\0", b"\\x" if escaped else b"")) for path in paths}
    programs = [replace(CURL, exe=name, name=name) for name in sorted(names)]
    executables = tuple(
        replace(
            known_executable(first_seen=NOW, last_seen=NOW),
            executable=Executable(sha256=CURL.sha256, exe=program.exe),
            name=program.name,
            parent=Executable(sha256=SHELL.sha256, exe=program.exe),
        )
        for program in programs
    )
    totals = tuple(total(n, program=program) for n, program in enumerate(programs, 1))
    path = tmp_path_factory.mktemp("paths") / "snitch.db"
    for _start in range(3):
        database = Database(path, boot_id="b", clock=lambda: NOW)
        database.load()
        new = database.commit(replace(NOTHING, totals=totals, executables=executables))
        loaded = database.load()
        database.close()
        assert set(totals) == set(loaded.totals)
        assert set(executables) == set(loaded.executables)
    assert new == ()


def test_total_is_kept_once_when_its_path_was_stored_otherwise_before(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    # Earlier versions left a path as it is where it reads like an escape.
    saved = total(5, program=replace(CURL, exe=r"/opt/\x41"))
    database = opened()
    database.load()
    database.commit(replace(NOTHING, totals=(total(5, program=replace(CURL, exe="/before")),)))
    database.close()
    with shell(path) as connection:
        connection.execute(r"UPDATE executables SET exe = '/opt/\x41'")
    database = opened()
    assert database.load().totals == (saved,)
    database.commit(replace(NOTHING, totals=(replace(saved, value=7),)))
    assert database.load().totals == (replace(saved, value=7),)


def test_totals_are_replaced_when_committed_again(opened: Callable[..., Database]) -> None:
    database = opened()
    database.load()
    other = replace(CURL, exe="/usr/bin/other")
    database.commit(replace(NOTHING, totals=(total(5), total(1, program=other))))
    database.commit(replace(NOTHING, totals=(total(9),)))
    assert {total(9), total(1, program=other)} == set(database.load().totals)


def test_totals_of_an_executable_stay_together_when_one_is_stale(
    opened: Callable[..., Database],
    clock: Clock,
) -> None:
    database = opened()
    database.load()
    quiet = replace(total(1), metric="receive_bytes")
    stale = total(2, program=replace(CURL, exe="/usr/bin/stale"))
    other = replace(
        total(3),
        labels=replace(total(3).labels, executable=Executable(sha256=Sha256("other"), exe="other")),
    )
    database.commit(replace(NOTHING, totals=(quiet, stale, other)))
    clock.now += DAY / 2
    database.commit(replace(NOTHING, totals=(total(4),)))
    clock.now += DAY / 2 + 1
    assert {quiet, total(4), other} == set(database.load().totals)


def test_first_seen_stays_the_earliest_when_seen_again(opened: Callable[..., Database]) -> None:
    database = opened()
    database.commit(replace(NOTHING, executables=(known_executable(first_seen=5, last_seen=6),)))
    database.commit(replace(NOTHING, executables=(known_executable(first_seen=8, last_seen=9),)))
    assert database.load().executables == (known_executable(first_seen=5, last_seen=9),)


def test_latest_are_loaded_when_their_paths_take_much_memory(
    opened: Callable[..., Database],
) -> None:
    # One character beyond the basic plane, and each of the path takes four bytes.
    paths = [f"/opt/\N{PACKAGE}{number:05}".ljust(4089, "x") for number in range(2_100)]
    shells = [
        replace(
            known_executable(first_seen=number, last_seen=number),
            executable=Executable(sha256=CURL.sha256, exe=path),
        )
        for number, path in enumerate(paths)
    ]
    files = [
        replace(known_file(inode=number), path=path[::-1]) for number, path in enumerate(paths)
    ]
    judged = [
        KnownVerdict(
            sha256=Sha256(f"{number:064x}"),
            exe=f"{path}/",
            result=VirusTotalResult(verdict=Verdict.CLEAN, checked_seconds=number),
        )
        for number, path in enumerate(paths)
    ]
    database = opened()
    database.commit(
        replace(NOTHING, executables=tuple(shells), files=tuple(files), verdicts=tuple(judged)),
    )
    loaded = database.load()
    texts = (
        [each.executable.exe for each in loaded.executables],
        [each.path for each in loaded.files],
        [each.exe for each in loaded.verdicts],
    )
    for exes in texts:
        assert 30 << 20 < sum(map(sys.getsizeof, exes)) < 33 << 20
    assert shells[-1] == loaded.executables[0]
    assert judged[-1] == loaded.verdicts[-1]
    # It is known all the same.
    assert shells[0] not in loaded.executables
    assert database.commit(replace(NOTHING, executables=(shells[0],))) == ()


def test_totals_that_are_to_be_forgotten_stay_away_when_loaded(
    opened: Callable[..., Database],
) -> None:
    database = opened()
    database.load()
    database.commit(replace(NOTHING, totals=(total(5),)))
    database.commit(replace(NOTHING, totals=(replace(total(0), created_seconds=0.0),)))
    assert database.load().totals == ()


def test_files_are_replaced_when_their_content_changed(opened: Callable[..., Database]) -> None:
    database = opened()
    database.commit(replace(NOTHING, files=(known_file(),)))
    database.commit(replace(NOTHING, files=(known_file(sha256="00" * 32),)))
    assert database.load().files == (known_file(sha256="00" * 32),)


def test_no_rows_are_kept_when_the_log_is_off(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    database = opened(keep_rows=False)
    database.load()
    database.commit(replace(commit(row(), segment=3), totals=(total(5),)))
    assert query(path, "SELECT count(*) FROM connection_log") == [(0,)]
    persisted = database.load()
    assert (3, (total(5),)) == (persisted.journal_segment, persisted.totals)


def test_roll_up_equals_the_rows_when_there_are_several_windows(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    database = opened()
    other = replace(CURL, exe="/usr/bin/other")
    database.commit(commit(row(), row(), row(program=other)))
    database.commit(commit(row(contime=NOW + 5), row(contime=NOW + 4000)))
    rolled = query(
        path,
        "SELECT exe, sum(send), sum(recv), sum(events), sum(rows) FROM executable_traffic"
        " JOIN executables ON id = executable_id GROUP BY exe ORDER BY exe",
    )
    assert rolled == query(
        path,
        "SELECT exe, sum(send), sum(recv), sum(events), count(*) FROM connection_log"
        " GROUP BY exe ORDER BY exe",
    )
    assert query(path, "SELECT count(*) FROM executable_traffic") == [(3,)]


@given(
    text=st.text(st.characters(exclude_categories=()), max_size=30),
    number=st.integers(0, (1 << 64) - 1),
)
@settings(deadline=None, max_examples=50)
def test_any_value_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    number: int,
) -> None:
    database = Database(tmp_path_factory.mktemp("any") / "snitch.db", boot_id="b")
    hostile = replace(CURL, exe=text, name=text, cmdline=text)
    database.commit(
        replace(
            commit(
                replace(
                    row(program=hostile, send=number, recv=number),
                    domain=text,
                    remote_address=text,
                    container=text,
                    events=number,
                ),
            ),
            totals=(total(number, program=hostile),),
            executables=(
                replace(
                    known_executable(first_seen=0, last_seen=0),
                    workload=Workload(pod=text),
                    size_bytes=number,
                ),
            ),
        ),
    )
    database.load()
    database.close()


def test_undecodable_bytes_are_readable_when_stored(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    exe = b"/tmp/\xff\xc3\xa9\x00x".decode("utf-8", "surrogateescape")
    opened().commit(commit(row(program=replace(CURL, exe=exe))))
    assert query(path, "SELECT exe FROM connection_log") == [("/tmp/\\xffé\\x00x",)]  # noqa: S108


def test_files_are_private_when_made(opened: Callable[..., Database], path: Path) -> None:
    opened().commit(commit(row()))
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == {"snitch.db": 0o600, "snitch.db-wal": 0o600, "snitch.db-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["snitch.db", "snitch.db-wal", "snitch.db-journal"])
def test_symlink_is_refused_when_it_stands_in_the_way(
    opened: Callable[..., Database],
    path: Path,
    name: str,
) -> None:
    path.parent.mkdir()
    victim = path.parent / "victim"
    victim.write_bytes(b"")
    path.with_name(name).symlink_to(victim)
    with pytest.raises(StorageError, match="is a symlink"):
        opened()
    assert victim.read_bytes() == b""


def test_newer_database_is_refused_and_untouched(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    opened().close()
    with shell(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="schema version 99"):
        opened()
    assert query(path, "PRAGMA user_version") == [(99,)]


def test_somebody_elses_database_is_refused_and_untouched(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    path.parent.mkdir()
    with shell(path) as connection:
        connection.execute("CREATE TABLE connections (contime TEXT)")
    with pytest.raises(StorageError, match="not a database of picosnitch-exporter"):
        opened()
    assert query(path, "SELECT name FROM sqlite_schema") == [("connections",)]


def test_older_database_is_upgraded_when_opened(
    opened: Callable[..., Database],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = opened()
    first.commit(commit(row()))
    first.close()
    newer = (*opening.UPGRADES, ("ALTER TABLE executable_traffic ADD COLUMN more INTEGER",))
    monkeypatch.setattr(opening, "UPGRADES", newer)
    opened()
    assert query(path, "PRAGMA user_version") == [(len(newer),)]
    assert query(path, "SELECT rows, more FROM executable_traffic") == [(1, None)]


def test_older_database_is_left_as_it_was_when_the_upgrade_fails(
    opened: Callable[..., Database],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened().close()
    newer = (*opening.UPGRADES, ("CREATE TABLE extra (a)", "CREATE TABLE extra (a)"))
    monkeypatch.setattr(opening, "UPGRADES", newer)
    with pytest.raises(StorageError, match="extra"):
        opened()
    assert query(path, "PRAGMA user_version") == [(len(newer) - 1,)]
    assert query(path, "SELECT name FROM sqlite_schema WHERE name = 'extra'") == []


def test_commit_can_be_tried_again_when_the_database_was_locked(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    database = opened()
    with shell(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusyError, match="locked by another process"):
            database.commit(commit(row()))
        other.execute("ROLLBACK")
    database.commit(commit(row()))
    assert query(path, "SELECT count(*) FROM connection_log") == [(1,)]
    assert database.rows_written == 1


def test_nothing_is_half_committed_when_the_disk_is_full(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    database = opened()
    database.load()
    database.commit(replace(commit(row(), segment=1), totals=(total(1),)))
    programs = [replace(CURL, cmdline=f"curl {'x' * 400} {n}") for n in range(3000)]
    big = replace(
        commit(*(row(program=program) for program in programs), segment=2),
        totals=(total(2),),
    )
    # The write-ahead log is what grows first.
    room = path.with_name("snitch.db-wal").stat().st_size + 300_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(StorageError) as raised:
            database.commit(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(raised.value, StorageFullError | StorageError)
    persisted = database.load()
    assert (1, (total(1),)) == (persisted.journal_segment, persisted.totals)
    assert query(path, "SELECT count(*) FROM connection_log") == [(1,)]
    database.commit(big)
    assert query(path, "SELECT count(DISTINCT cmdline) FROM connection_log") == [(3001,)]
    assert database.load().journal_segment == 2


def test_damaged_database_is_set_aside_when_opened(
    opened: Callable[..., Database],
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    database = opened()
    database.commit(commit(row()))
    assert database.set_aside == 1
    aside = path.with_name("snitch.db.corrupt-20231114T221320Z")
    assert aside.read_bytes().startswith(b"this is no database")
    assert "database_corrupt" in caplog.text
    assert query(path, "SELECT count(*) FROM connection_log") == [(1,)]


def test_damaged_database_is_set_aside_when_committing(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    database = opened()
    programs = [replace(CURL, cmdline=f"curl {n}") for n in range(2000)]
    database.commit(commit(*(row(program=program) for program in programs)))
    database.close()
    database = opened()
    size = path.stat().st_size
    with path.open("r+b") as file:
        # Everything but the first page, so that it opens and fails later.
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    database.commit(commit(row(), segment=5))
    assert database.set_aside == 1
    assert database.load().journal_segment == 5
    assert query(path, "SELECT count(*) FROM connection_log") == [(1,)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE totals SET scope = 'pubmic'",
        "UPDATE totals SET value = -1",
        "UPDATE totals SET value = x'00'",
        "UPDATE known_executables SET first_seen = 'yesterday'",
        "UPDATE known_executables SET name = x'00'",
        "UPDATE known_files SET path = 1.5",
        "UPDATE executables SET exe = CAST(x'2fff' AS TEXT)",
        "UPDATE state SET value = '1x' WHERE name = 'ring_position'",
        "UPDATE state SET value = '-1' WHERE name = 'journal_segment'",
        "INSERT INTO outbox (target, key, rows, body) VALUES ('tex', x'00', 1, x'00')",
    ],
)
def test_damaged_database_is_set_aside_when_values_are_not_what_was_saved(
    opened: Callable[..., Database],
    path: Path,
    damage: str,
) -> None:
    database = opened()
    database.load()
    executables = (known_executable(first_seen=NOW, last_seen=NOW),)
    saved = replace(NOTHING, totals=(total(5),), executables=executables, files=(known_file(),))
    database.commit(saved)
    database.close()
    with shell(path) as connection:
        connection.execute(damage)
    database = opened()
    assert Persisted() == database.load()
    assert database.set_aside == 1
    database.commit(replace(saved, journal_segment=2))
    assert database.load().totals == saved.totals


def test_disk_is_not_filled_with_databases_when_each_is_damaged_at_once(
    opened: Callable[..., Database],
    path: Path,
    clock: Clock,
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    database = opened()
    database.commit(commit(row()))
    database.close()
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match="damaged"):
        database.commit(commit(row(), segment=2))
    clock.now += 61
    database.commit(commit(row(), segment=2))
    assert database.set_aside == 2
    assert database.load().journal_segment == 2


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from dataclasses import replace
        from pathlib import Path
        from picosnitch_exporter.log.sqlite import Database
        from tests.log_samples import commit, row, total
        database = Database(Path(sys.argv[1]), boot_id="b")
        number = database.load().journal_segment
        while True:
            number += 1
            rows = [row(contime=1_700_000_000 + number, send=n) for n in range(50)]
            database.commit(replace(commit(*rows, segment=number), totals=(total(number),)))
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
        """,
    )
    acknowledged = 0
    for lines in (1, 20, 7, 60, 13):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _line in range(lines):
                acknowledged = int(process.stdout.readline())
            process.kill()
    database = Database(path, boot_id="b")
    persisted = database.load()
    database.close()
    assert persisted.journal_segment >= acknowledged
    assert persisted.totals == (total(persisted.journal_segment),)
    assert query(path, "SELECT count(*), count(DISTINCT contime) FROM connection_log") == [
        (persisted.journal_segment * 50, persisted.journal_segment),
    ]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_old_rows_go_in_portions_when_pruned(
    opened: Callable[..., Database],
    path: Path,
    clock: Clock,
) -> None:
    database = opened(days=2)
    gone = replace(CURL, cmdline="curl gone")
    old = [replace(row(program=gone, rport=n), domain="com.gone") for n in range(12_000)]
    database.commit(commit(*old))
    clock.now += 2 * DAY
    database.commit(commit(row(contime=clock.now)))
    portions = 0
    clock.now += 1
    database = opened(days=2)
    while database.prune():
        portions += 1
        assert portions < 100
    assert portions >= 3
    assert query(path, "SELECT contime, cmdline, domain FROM connection_log") == [
        (int(NOW + 2 * DAY), CURL.cmdline, "com.example"),
    ]
    # The tables around it keep up to a day more.
    clock.now += DAY
    database = opened(days=2)
    while database.prune():
        pass
    assert query(path, "SELECT cmdline FROM programs WHERE cmdline LIKE '%gone'") == []
    assert query(path, "SELECT count(*) FROM executable_traffic") == [(1,)]
    assert query(path, "SELECT domain FROM domains") == [("com.example",)]


def test_file_shrinks_when_most_of_it_was_pruned(
    opened: Callable[..., Database],
    path: Path,
    clock: Clock,
) -> None:
    database = opened(days=1)
    for n in range(8):
        rows = [
            row(contime=NOW + n, program=replace(CURL, cmdline=f"{'x' * 500} {n} {m}"))
            for m in range(5000)
        ]
        database.commit(commit(*rows))
    database.close()
    before = path.stat().st_size
    clock.now += 3 * DAY
    database = opened(days=1)
    while database.prune():
        pass
    database.close()
    assert path.stat().st_size < before / 2


def test_pages_are_let_go_of_when_there_is_nothing_to_write(
    opened: Callable[..., Database],
    path: Path,
) -> None:
    used_bytes = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
    database = opened()
    database.rest()
    before_bytes = used_bytes()
    database.commit(commit(*(row(rport=n) for n in range(50_000))))
    assert used_bytes() > before_bytes + 1_000_000
    database.rest()
    assert used_bytes() < before_bytes + 200_000
    database.commit(commit(row()))
    assert query(path, "SELECT count(*) FROM connection_log") == [(50_001,)]
    database.close()
    database.rest()


def test_pruning_waits_when_the_clock_jumps_ahead(
    opened: Callable[..., Database],
    path: Path,
    clock: Clock,
) -> None:
    database = opened(days=1)
    database.commit(commit(row()))
    clock.now += 400 * DAY
    assert not database.prune()
    assert query(path, "SELECT count(*) FROM connection_log") == [(1,)]
