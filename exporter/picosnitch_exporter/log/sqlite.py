"""The database in the storage path: log, totals and positions, in one transaction each time."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from picosnitch_exporter.log import books, loading, verdicts
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.facts import insert_rows
from picosnitch_exporter.log.opening import (
    CorruptError,
    damaged,
    open_database,
    set_aside,
    translate_sqlite,
)
from picosnitch_exporter.log.outbox import Batch, Outbox, Parcel, Target, Waiting
from picosnitch_exporter.log.retention import Retention
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Commit, KnownExecutable, KnownVerdict, Persisted

DAY_SECONDS: Final = 86_400
_SET_ASIDE_SECONDS: Final = 60
"""At most one damaged database in this time: a broken disk must not be filled with them."""
_TEXT_END: Final = "text_end"

_log = logging.getLogger(__name__)


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
        self._retention = Retention(
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
        self._connection: sqlite3.Connection | None = None
        self._is_used = True
        """It may hold pages in memory."""
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
        except CorruptError as error:
            self._begin_anew(error)
            return self._load()

    def commit(
        self,
        commit: Commit,
        *,
        parcels: Iterable[Parcel] = (),
    ) -> tuple[KnownExecutable, ...]:
        """Makes all of it durable, or nothing; returns the executables that were never seen before.

        `parcels` is gone through once more where a damaged database is set aside.

        Raises
        ------
        StorageFullError, StorageBusyError
            if the disk is full or the database locked: trying again later may work.
        StorageError
            if it can't be written.
        """
        try:
            return self._commit(commit, parcels)
        except CorruptError as error:
            self._begin_anew(error)
            return self._commit(commit, parcels)

    def remember(
        self,
        executables: tuple[KnownExecutable, ...],
        found: tuple[KnownVerdict, ...],
    ) -> int:
        """Adds what another program knew, where nothing is known; how many executables were new.

        Raises
        ------
        StorageError
            as `commit` does.
        """
        with self._transaction() as connection:
            self._dictionary.begin(int(self._clock() // DAY_SECONDS))
            new = books.remember(connection, self._dictionary, executables)
            verdicts.add(connection, self._dictionary, found)
        return len(new)

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
            return self._outbox.first(self._reopened(), target)
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error

    def arrived(self, target: Target, key: bytes, *, text_end: str = "") -> None:
        """Forgets the batch with this key, if it is the first; `text_end` is where conn.log ends.

        Raises
        ------
        StorageError
            as `commit` does.
        """
        with self._transaction() as connection:
            self._outbox.remove(connection, target, key)
            if text_end:
                books.save_state(connection, {_TEXT_END: text_end})

    def text_end(self) -> str:
        """Where conn.log ended when its last batch had arrived, empty where that is not known.

        Raises
        ------
        StorageError
            if it can't be read.
        """
        try:
            return books.load_state(self._reopened()).get(_TEXT_END, "")
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error

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
        except CorruptError as error:
            self._begin_anew(error)
            return False

    def rest(self) -> None:
        """Lets go of the pages that it keeps in memory, up to 2 MB.

        The next commit finds those that it needs in the page cache of the system.
        """
        if self._connection is not None and self._is_used:
            self._connection.execute("PRAGMA shrink_memory")
            self._is_used = False

    def close(self) -> None:
        """Closes the database; what was committed stays."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _load(self) -> Persisted:
        try:
            with self._transaction() as connection:
                self._dictionary.begin(int(self._clock() // DAY_SECONDS))
                self.is_same_boot = books.begin_boot(connection, self._boot_id)
                books.forget_stale(
                    connection,
                    totals_before=self._clock() - self._stale_after_seconds,
                )
                return loading.load(connection, self._dictionary)
        except (ValueError, TypeError) as error:
            raise damaged(error, self._path) from error

    def _commit(self, commit: Commit, parcels: Iterable[Parcel]) -> tuple[KnownExecutable, ...]:
        now = self._clock()
        rows = commit.rows if self._keep_rows else ()
        newest = max((row.contime for row in rows), default=now)
        with self._transaction() as connection:
            # A clock that was set back must not make entries older than their rows.
            self._dictionary.begin(int(max(now, newest) // DAY_SECONDS))
            insert_rows(connection, self._dictionary, rows)
            new = books.save(connection, self._dictionary, commit, now=now)
            dropped = [
                (each.target, each.rows)
                for each in parcels
                if not self._outbox.add(connection, each)
            ]
        for target, count in dropped:
            self._outbox.waiting[target].rows_dropped += count
        self.rows_written += len(rows)
        return new

    def _shrink(self) -> bool:
        try:
            return self._retention.shrink(self._reopened())
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._reopened()
        self._is_used = True
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        # SQLite has rolled back by itself after some errors (a full disk among them).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        self._dictionary.clear()
        self._outbox.recount(connection)

    def _open_or_begin_anew(self) -> None:
        try:
            self._open()
        except CorruptError as error:
            self._set_aside(error)
            self._open()

    def _begin_anew(self, error: CorruptError) -> None:
        self._set_aside(error)
        self._open()

    def _reopened(self) -> sqlite3.Connection:
        # Closed where a damaged database could be set aside and no new one be begun.
        return self._connection or self._open()

    def _open(self) -> sqlite3.Connection:
        connection = open_database(self._path, busy_seconds=self._busy_seconds)
        try:
            self._outbox.recount(connection)
        except sqlite3.Error as error:
            connection.close()
            raise translate_sqlite(error, self._path) from error
        except (ValueError, TypeError) as error:
            connection.close()
            raise damaged(error, self._path) from error
        self._dictionary = Dictionary(connection)
        self._connection = connection
        return connection

    def _set_aside(self, error: CorruptError) -> None:
        now = self._clock()
        if now - self._last_set_aside < _SET_ASIDE_SECONDS:
            raise error
        self._last_set_aside = now
        self.close()
        target = set_aside(self._path, now)
        self.set_aside += 1
        _log.error(
            Event(
                "database_corrupt",
                {
                    "path": str(self._path),
                    "set_aside_as": str(target),
                    "error": str(error),
                    "what_now": "a new log was begun; try 'sqlite3 FILE .recover' on the old one",
                },
            )
        )
