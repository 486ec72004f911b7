"""Opens the database in the storage path: made, upgraded, refused, or set aside if damaged."""

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from picosnitch_exporter.errors import StorageBusyError, StorageError, StorageFullError
from picosnitch_exporter.log import books, outbox, verdicts
from picosnitch_exporter.log.files import make_folder, open_private, translate
from picosnitch_exporter.log.schema import DICTIONARIES, SQLITE
from picosnitch_exporter.logging_format import Event

APPLICATION_ID: Final = 0x70736E31
"""'psn1', by which the file is known as this exporter's (file header, offset 68)."""

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
        *verdicts.TABLES,
    ),
)
"""What makes version n + 1 of the schema of version n. Never changed, only added to."""
_WAL_BYTES: Final = 64 * 1024 * 1024

_log = logging.getLogger(__name__)


class CorruptError(StorageError):
    """The database is damaged: it has to be set aside."""


def open_database(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """A connection without implicit transactions to a database of the newest schema.

    Raises
    ------
    CorruptError
        if the database is damaged.
    StorageBusyError
        if somebody holds a lock on it for longer than `busy_seconds`.
    StorageError
        if it can't be opened, is of a newer version or not this exporter's.
    """
    make_folder(path.parent)
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    for suffix in ("-wal", "-shm", "-journal"):
        if path.with_name(path.name + suffix).is_symlink():
            raise StorageError(f"{path}{suffix} is a symlink: move it away")
    try:
        connection = sqlite3.connect(
            path,
            timeout=busy_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translate_sqlite(error, path) from error
    return connection


def set_aside(path: Path, now: float) -> Path:
    """Moves a damaged database out of the way, with what belongs to it; where it is now.

    Raises
    ------
    StorageError
        if it can't be moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = path.with_name(f"{path.name}.corrupt-{stamp}")
    try:
        path.rename(target)
        for suffix in ("-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(target.with_name(target.name + suffix))
    except OSError as error:
        raise translate(error, f"cannot set aside the damaged {path}") from error
    return target


def translate_sqlite(error: sqlite3.Error, path: Path) -> StorageError:
    """An error of SQLite as the matching `StorageError`."""
    # The lower byte is the primary code (sqlite.org/rescode.html). Python's module itself, which
    # gives none, says OperationalError of a text that is not UTF-8, and only of that.
    unknown = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.OperationalError) else 0
    code = getattr(error, "sqlite_errorcode", unknown) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageBusyError(
            f"{path} is locked by another process: close the shell that has it open",
        )
    if code == sqlite3.SQLITE_FULL:
        return StorageFullError(f"no room for {path}: free some space")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(error, path)
    return StorageError(f"{path}: {error}")


def damaged(error: Exception, path: Path) -> CorruptError:
    """What is in the database is nothing that was ever written there."""
    return CorruptError(f"{path} is damaged: {error}")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # Takes effect in an empty file only; before the journal mode, which writes the header.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    # Enforced foreign keys cost a fifth of the speed; ids come from one place here.
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}").fetchall()
    connection.execute("BEGIN IMMEDIATE")
    try:
        _upgrade(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (things,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if things and application != APPLICATION_ID:
        raise StorageError(
            f"{path} is not a database of picosnitch-exporter: move it away, "
            "or set another storage.path",
        )
    if version > len(UPGRADES):
        raise StorageError(
            f"{path} has schema version {version}, this picosnitch-exporter knows "
            f"{len(UPGRADES)}: install the newer version again, or move the file away",
        )
    if version == len(UPGRADES):
        return
    if version:
        _log.warning(Event("database_upgrade", {"path": str(path), "from": version}))
    for statements in UPGRADES[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(UPGRADES)}")
