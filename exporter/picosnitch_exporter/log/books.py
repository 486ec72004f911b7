"""What is saved for the next start, in SQLite: totals, executables, hashed files, positions.

All functions work inside the caller's transaction.
"""

import os
import sqlite3
from collections.abc import Iterable
from typing import Final

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.log import verdicts
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.schema import MAX_INTEGER, storable
from picosnitch_exporter.model import (
    OTHER,
    Commit,
    CounterTotal,
    KnownExecutable,
    KnownFile,
    Workload,
)

TABLES: Final = (
    "CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE totals (
        metric TEXT NOT NULL, executable_id INTEGER NOT NULL, namespace TEXT NOT NULL,
        pod TEXT NOT NULL, container TEXT NOT NULL, protocol TEXT NOT NULL, scope TEXT NOT NULL,
        direction TEXT NOT NULL, value INTEGER NOT NULL, created REAL NOT NULL,
        changed REAL NOT NULL,
        PRIMARY KEY (metric, executable_id, namespace, pod, container, protocol, scope, direction)
    ) WITHOUT ROWID""",
    """CREATE TABLE known_executables (
        executable_id INTEGER NOT NULL, namespace TEXT NOT NULL, pod TEXT NOT NULL,
        container TEXT NOT NULL, name TEXT NOT NULL, parent_id INTEGER NOT NULL,
        size INTEGER NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL,
        PRIMARY KEY (executable_id, namespace, pod, container)
    ) WITHOUT ROWID""",
    """CREATE TABLE known_files (
        device INTEGER NOT NULL, inode INTEGER NOT NULL, generation INTEGER NOT NULL,
        size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
        sha256 TEXT NOT NULL, hashed REAL NOT NULL, path BLOB NOT NULL, is_racy INTEGER NOT NULL,
        PRIMARY KEY (device, inode, generation)
    ) WITHOUT ROWID""",
)
MAX_FILES: Final = 200_000
"""Hashed files that are remembered: what is forgotten is hashed again."""

_UINT64 = 1 << 64


def save(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    commit: Commit,
    *,
    now: float,
) -> tuple[KnownExecutable, ...]:
    """Saves all of a commit but its rows; returns the executables that were never saved before."""
    new = tuple(_unknown(connection, dictionary, commit.executables))
    _save_totals(connection, dictionary, commit.totals, now)
    _save_executables(connection, dictionary, commit.executables)
    _save_files(connection, commit.files, now)
    verdicts.save(connection, dictionary, commit.verdicts)
    save_state(
        connection,
        {
            "journal_segment": str(commit.journal_segment),
            "ring_instance": str(commit.ring_instance),
            "ring_position": str(commit.ring_position),
        },
    )
    return new


def remember(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    executables: Iterable[KnownExecutable],
) -> tuple[KnownExecutable, ...]:
    """Saves executables that were never saved before; returns them."""
    new = tuple(_unknown(connection, dictionary, executables))
    _save_executables(connection, dictionary, new)
    return new


def save_state(connection: sqlite3.Connection, values: dict[str, str]) -> None:
    """Sets these entries of the table of single values."""
    connection.executemany(
        "INSERT INTO state (name, value) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET value = excluded.value",
        values.items(),
    )


def load_state(connection: sqlite3.Connection) -> dict[str, str]:
    """All entries of the table of single values."""
    return dict(connection.execute("SELECT name, value FROM state").fetchall())


def begin_boot(connection: sqlite3.Connection, boot_id: str) -> bool:
    """Forgets the totals of another boot; true where it is the same as before."""
    if load_state(connection).get("boot_id") == boot_id:
        return True
    connection.execute("DELETE FROM totals")
    save_state(connection, {"boot_id": boot_id})
    return False


def forget_stale(connection: sqlite3.Connection, *, totals_before: float) -> None:
    """Deletes the totals of executables that have been silent since then, as the store does."""
    connection.execute(
        "DELETE FROM totals WHERE changed < ?1"
        " AND (executable_id, namespace, pod, container) NOT IN"
        " (SELECT executable_id, namespace, pod, container FROM totals WHERE changed >= ?1)"
        " AND executable_id NOT IN (SELECT id FROM executables WHERE sha256 = ?2)",
        (totals_before, OTHER.sha256),
    )


def forget_old(connection: sqlite3.Connection, *, workloads_before: float) -> None:
    """Deletes executables of containers that are long gone, and files beyond the bound."""
    connection.execute(
        "DELETE FROM known_executables WHERE last_seen < ?"
        " AND (namespace <> '' OR pod <> '' OR container <> '')",
        (workloads_before,),
    )
    (files,) = connection.execute("SELECT count(*) FROM known_files").fetchone()
    if files > MAX_FILES:
        connection.execute(
            "DELETE FROM known_files WHERE hashed <= (SELECT hashed FROM known_files"
            " ORDER BY hashed LIMIT 1 OFFSET ?)",
            (files - MAX_FILES - 1,),
        )


def _save_totals(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    totals: Iterable[CounterTotal],
    now: float,
) -> None:
    connection.executemany(
        "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET value = excluded.value, created = excluded.created, changed = excluded.changed",
        (
            (
                total.metric,
                dictionary.executable(total.labels.executable),
                *_workload_values(total.labels.workload),
                total.labels.protocol,
                total.labels.scope,
                total.labels.direction,
                min(total.value, MAX_INTEGER),
                total.created_seconds,
                now,
            )
            for total in totals
        ),
    )


def _unknown(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    executables: Iterable[KnownExecutable],
) -> Iterable[KnownExecutable]:
    seen = set()
    for known in executables:
        number = dictionary.executable(known.executable)
        is_known = connection.execute(
            "SELECT 1 FROM known_executables WHERE executable_id = ? LIMIT 1",
            (number,),
        ).fetchone()
        if number not in seen and not is_known:
            yield known
        seen.add(number)


def _save_executables(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    executables: Iterable[KnownExecutable],
) -> None:
    # The first sight is the earliest that was ever saved: what is not loaded may be seen again.
    connection.executemany(
        "INSERT INTO known_executables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET name = excluded.name, size = excluded.size,"
        " first_seen = min(first_seen, excluded.first_seen),"
        " last_seen = max(last_seen, excluded.last_seen)",
        (
            (
                dictionary.executable(known.executable),
                *_workload_values(known.workload),
                label_value(known.name),
                dictionary.executable(known.parent),
                min(known.size_bytes, MAX_INTEGER),
                known.first_seen_seconds,
                known.last_seen_seconds,
            )
            for known in executables
        ),
    )


def _save_files(connection: sqlite3.Connection, files: Iterable[KnownFile], now: float) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO known_files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                file.identity.device,
                _signed(file.identity.inode),
                file.identity.generation,
                min(file.size_bytes, MAX_INTEGER),
                file.modified_ns,
                file.changed_ns,
                file.sha256,
                now,
                os.fsencode(file.path),
                int(file.is_racy),
            )
            for file in files
        ),
    )


def _workload_values(workload: Workload) -> tuple[str, str, str]:
    return storable(workload.namespace), storable(workload.pod), storable(workload.container)


def _signed(value: int) -> int:
    """A 64-bit number as SQLite has it; overlayfs sets the highest bit of inode numbers."""
    return value if value <= MAX_INTEGER else value - _UINT64
