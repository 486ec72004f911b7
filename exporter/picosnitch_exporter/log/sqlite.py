"""The database in the storage path: log, totals and positions, in one transaction each time."""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from picosnitch_exporter.errors import StorageBusyError, StorageError, StorageFullError
from picosnitch_exporter.log import books, outbox, retention
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.files import make_folder, open_private, translate
from picosnitch_exporter.log.outbox import Batch, Outbox, Parcel, Target, Waiting
from picosnitch_exporter.log.schema import (
    BUCKET_SECONDS,
    DICTIONARIES,
    DIRECTIONS,
    FACT_NAMES,
    FACTS,
    MAX_INTEGER,
    SQLITE,
)
from picosnitch_exporter.model import Commit, KnownExecutable, LogRow, Persisted

APPLICATION_ID: Final = 0x70736E31
"""'psn1', by which the file is known as this exporter's (file header, offset 68)."""
DAY_SECONDS: Final = 86_400

UPGRADES: Final[tuple[tuple[str, ...], ...]] = (
    (
        *(SQLITE.create_dictionary(table) for table in DICTIONARIES),
        SQLITE.create_facts(),
        SQLITE.create_view(with_host=False),
        """CREATE TABLE executable_traffic (
            bucket INTEGER NOT NULL, executable_id INTEGER NOT NULL, send INTEGER NOT NULL,
            recv INTEGER NOT NULL, events INTEGER NOT NULL, rows INTEGER NOT NULL,
            PRIMARY KEY (bucket, executable_id)
        ) WITHOUT ROWID""",
        *books.TABLES,
        *outbox.TABLES,
    ),
)
"""What makes version n + 1 of the schema of version n. Never changed, only added to."""

_INSERT_FACTS = (
    f"INSERT INTO {FACTS} (sequence, {', '.join(FACT_NAMES)})"  # noqa: S608 names of the schema
    f" VALUES ({', '.join('?' * (len(FACT_NAMES) + 1))})"
)
_DIRECTION_NUMBERS = {direction: number for number, direction in enumerate(DIRECTIONS)}

_WAL_BYTES = 64 * 1024 * 1024
_SET_ASIDE_SECONDS = 60
"""At most one damaged database in this time: a broken disk must not be filled with them."""

logger = logging.getLogger(__name__)


class _CorruptError(StorageError):
    """The database is damaged."""


class Database:
    """`snitch.db`. Not safe for use by two threads at once.

    Opening makes or upgrades it. A damaged database is set aside, and a new one begun.

    Raises
    ------
    StorageBusyError
        if somebody holds a lock on it for longer than `busy_seconds`.
    StorageError
        if it can't be opened, is of a newer version or not this exporter's.
    """

    def __init__(  # noqa: PLR0913 each has a default that fits
        self,
        path: Path,
        *,
        boot_id: str,
        retention_days: int = 90,
        keep_rows: bool = True,
        stale_after_seconds: float = DAY_SECONDS,
        busy_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._boot_id = boot_id
        self._retention = retention.Retention(
            days=retention_days,
            stale_after_seconds=stale_after_seconds,
            clock=clock,
        )
        self._keep_rows = keep_rows
        self._stale_after_seconds = stale_after_seconds
        self._busy_seconds = busy_seconds
        self._clock = clock
        self.rows_written = 0
        self.set_aside = 0
        """Databases that were damaged."""
        self.is_same_boot = False
        """Whether the run before was in the same boot: otherwise totals are not restored."""
        self._last_set_aside = -float(_SET_ASIDE_SECONDS)
        self._outbox = Outbox()
        self._open_or_begin_anew()

    def load(self) -> Persisted:
        """What the run before has left.

        Raises
        ------
        StorageError
            if it can't be read.
        """
        try:
            return self._load()
        except _CorruptError as error:
            self._begin_anew(error)
            return self._load()

    def commit(
        self,
        commit: Commit,
        *,
        parcels: tuple[Parcel, ...] = (),
    ) -> tuple[KnownExecutable, ...]:
        """Makes all of it durable, or nothing; returns the executables that were never seen before.

        Raises
        ------
        StorageFullError, StorageBusyError
            if the disk is full or the database locked: trying again later may work.
        StorageError
            if it can't be written.
        """
        try:
            return self._commit(commit, parcels)
        except _CorruptError as error:
            self._begin_anew(error)
            return self._commit(commit, parcels)

    def waiting(self, target: Target) -> Waiting:
        """How much waits for another log."""
        return self._outbox.waiting[target]

    def first_waiting(self, target: Target) -> Batch | None:
        """The batch that has waited longest for another log.

        Raises
        ------
        StorageError
            if it can't be read.
        """
        try:
            return self._outbox.first(self._connection, target)
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error

    def arrived(self, target: Target, key: bytes) -> None:
        """Forgets the batch with this key, if it is the first.

        Raises
        ------
        StorageError
            as `commit` does.
        """
        with self._transaction() as connection:
            self._outbox.remove(connection, target, key)

    def prune(self) -> bool:
        """Deletes one small portion of what is too old; true if there is more.

        Raises
        ------
        StorageError
            as `commit` does.
        """
        try:
            with self._transaction() as connection:
                has_more = self._retention.prune(connection)
            return has_more or self._shrink()
        except _CorruptError as error:
            self._begin_anew(error)
            return False

    def close(self) -> None:
        """Closes the database; what was committed stays."""
        self._connection.close()

    def _load(self) -> Persisted:
        with self._transaction() as connection:
            self.is_same_boot = books.begin_boot(connection, self._boot_id)
            books.forget_stale(
                connection,
                totals_before=self._clock() - self._stale_after_seconds,
            )
            return books.load(connection)

    def _commit(self, commit: Commit, parcels: tuple[Parcel, ...]) -> tuple[KnownExecutable, ...]:
        now = self._clock()
        rows = commit.rows if self._keep_rows else ()
        newest = max((row.contime for row in rows), default=now)
        with self._transaction() as connection:
            # A clock that was set back must not make entries older than their rows.
            self._dictionary.begin(int(max(now, newest) // DAY_SECONDS))
            self._insert_rows(connection, rows)
            new = books.save(connection, self._dictionary, commit, now=now)
            dropped = [each for each in parcels if not self._outbox.add(connection, each)]
        for parcel in dropped:
            self._outbox.waiting[parcel.target].rows_dropped += parcel.rows
        self.rows_written += len(rows)
        return new

    def _insert_rows(self, connection: sqlite3.Connection, rows: tuple[LogRow, ...]) -> None:
        if not rows:
            return
        sequences = _Sequences(connection)
        traffic: dict[tuple[int, int], list[int]] = {}
        facts = self._facts(rows, sequences, traffic)
        connection.executemany(_INSERT_FACTS, facts)
        connection.executemany(
            "INSERT INTO executable_traffic VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " send = send + excluded.send, recv = recv + excluded.recv,"
            " events = events + excluded.events, rows = rows + excluded.rows",
            ((*key, *(min(value, MAX_INTEGER) for value in sums)) for key, sums in traffic.items()),
        )

    def _facts(
        self,
        rows: Iterable[LogRow],
        sequences: "_Sequences",
        traffic: dict[tuple[int, int], list[int]],
    ) -> Iterator[tuple[str | int, ...]]:
        dictionary = self._dictionary
        for row in rows:
            contime = int(row.contime)
            source, executable = dictionary.source(row)
            key = (contime // BUCKET_SECONDS, executable)
            sums = traffic.get(key)
            if sums is None:
                sums = traffic[key] = [0, 0, 0, 0]
            sums[0] += row.send_bytes
            sums[1] += row.receive_bytes
            sums[2] += row.events
            sums[3] += 1
            yield (
                sequences.next(contime),
                contime,
                min(row.send_bytes, MAX_INTEGER),
                min(row.receive_bytes, MAX_INTEGER),
                min(row.events, MAX_INTEGER),
                source,
                row.protocol,
                _DIRECTION_NUMBERS[row.direction],
                row.local_port,
                row.remote_port,
                dictionary.address(row.local_address),
                dictionary.address(row.remote_address),
                dictionary.domain(row.domain),
            )

    def _shrink(self) -> bool:
        try:
            return self._retention.shrink(self._connection)
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors (a full disk among them).
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._dictionary.clear()
        self._outbox.recount(self._connection)

    def _open_or_begin_anew(self) -> None:
        try:
            self._open()
        except _CorruptError as error:
            self._set_aside(error)
            self._open()

    def _begin_anew(self, error: _CorruptError) -> None:
        self._connection.close()
        self._set_aside(error)
        self._open()

    def _open(self) -> None:
        make_folder(self._path.parent)
        os.close(open_private(self._path, os.O_RDWR | os.O_CREAT))
        for suffix in ("-wal", "-shm", "-journal"):
            if self._path.with_name(self._path.name + suffix).is_symlink():
                raise StorageError(f"{self._path}{suffix} is a symlink: move it away")
        try:
            self._connection = sqlite3.connect(
                self._path,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            try:
                self._prepare(self._connection)
                self._outbox.recount(self._connection)
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise _translate(error, self._path) from error
        self._dictionary = Dictionary(self._connection)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Takes effect in an empty file only; before the journal mode, which writes the header.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = NORMAL")
        # Enforced foreign keys cost a fifth of the speed; ids come from one place here.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._upgrade(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (things,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if things and application != APPLICATION_ID:
            raise StorageError(
                f"{self._path} is not a database of picosnitch-exporter: move it away, "
                "or set another storage.path",
            )
        if version > len(UPGRADES):
            raise StorageError(
                f"{self._path} has schema version {version}, this picosnitch-exporter knows "
                f"{len(UPGRADES)}: install the newer version again, or move the file away",
            )
        if version == len(UPGRADES):
            return
        if version:
            logger.warning("database_upgrade path=%s from=%d", self._path, version)
        for statements in UPGRADES[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(UPGRADES)}")

    def _set_aside(self, error: _CorruptError) -> None:
        now = self._clock()
        if now - self._last_set_aside < _SET_ASIDE_SECONDS:
            raise error
        self._last_set_aside = now
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        target = self._path.with_name(f"{self._path.name}.corrupt-{stamp}")
        try:
            self._path.rename(target)
            for suffix in ("-wal", "-shm"):
                source = self._path.with_name(self._path.name + suffix)
                if source.exists():
                    source.rename(target.with_name(target.name + suffix))
        except OSError as problem:
            raise translate(problem, f"cannot set aside the damaged {self._path}") from problem
        self.set_aside += 1
        logger.error(
            "database_corrupt path=%s set_aside_as=%s error=%r what_now=%r",
            self._path,
            target,
            str(error),
            "a new log was begun; try 'sqlite3 FILE .recover' on the old one",
        )


class _Sequences:
    """Numbers the rows of one second, after those that are there already."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._next: dict[int, int] = {}

    def next(self, contime: int) -> int:
        number = self._next.get(contime)
        if number is None:
            (number,) = self._connection.execute(
                f"SELECT coalesce(max(sequence) + 1, 0) FROM {FACTS}"  # noqa: S608 as above
                " WHERE contime = ?",
                (contime,),
            ).fetchone()
        self._next[contime] = number + 1
        return int(number)


def _translate(error: sqlite3.Error, path: Path) -> StorageError:
    # The lower byte is the primary code (sqlite.org/rescode.html).
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageBusyError(
            f"{path} is locked by another process: close the shell that has it open",
        )
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError(f"no room for {path}: free some space")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _CorruptError(f"{path} is damaged: {error}")
    return StorageError(f"{path}: {error}")
