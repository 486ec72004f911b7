"""What a start finds from the run before, in SQLite: totals, executables, hashed files, positions.

All functions work inside the caller's transaction.
"""

import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.log import verdicts
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.schema import MAX_INTEGER, exact, storable
from picosnitch_exporter.model import (
    HOST,
    OTHER,
    Commit,
    CounterTotal,
    Direction,
    Executable,
    FileIdentity,
    KnownExecutable,
    KnownFile,
    Persisted,
    Scope,
    SeriesLabels,
    Sha256,
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
MAX_LOADED: Final = 50_000
"""Executables and files that a start gets back, those seen last; the others stay where they are."""
MAX_LOADED_BYTES: Final = 32 << 20
"""Of the texts of each in memory, where a path of 4,096 bytes can take 16 KB."""
MAX_FILES: Final = 200_000
"""Hashed files that are remembered: what is forgotten is hashed again."""

_UINT64 = 1 << 64
_Loaded = TypeVar("_Loaded")


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


def load(connection: sqlite3.Connection, dictionary: Dictionary) -> Persisted:
    """What was saved, the latest of it where it is much.

    Raises
    ------
    ValueError, TypeError
        if something has a value or type that nothing was ever saved with.
    """
    state = load_state(connection)
    shared = _Shared()
    _move_inexact(connection, dictionary)
    return Persisted(
        totals=tuple(_load_totals(connection, shared)),
        executables=tuple(shared.bounded(_load_executables(connection, shared))),
        files=tuple(shared.bounded(_load_files(connection, shared))),
        journal_segment=_count(int(state.get("journal_segment", "0"))),
        ring_instance=_count(int(state.get("ring_instance", "0"))),
        ring_position=_count(int(state.get("ring_position", "0"))),
        verdicts=tuple(shared.bounded(verdicts.load(connection, shared.word, shared.path)))[::-1],
    )


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


class _Shared:
    """Equal values as one object, which is kept for as long as there are series of it."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._size_bytes = 0
        self._executables: dict[tuple[str, str], Executable] = {}
        self._workloads = {_workload_values(HOST): HOST}

    def word(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.100} is no text")
        found = self._words.setdefault(text, text)
        if found is text:
            self._size_bytes += sys.getsizeof(text)
        return found

    def path(self, text: str) -> str:
        return self.word(exact(text))

    def bounded(self, loaded: Iterable[_Loaded]) -> Iterator[_Loaded]:
        """The first of what is loaded, until its texts take `MAX_LOADED_BYTES`."""
        bound_bytes = self._size_bytes + MAX_LOADED_BYTES
        for each in loaded:
            yield each
            if self._size_bytes >= bound_bytes:
                return

    def executable(self, sha256: str, exe: str) -> Executable:
        found = self._executables.get((sha256, exe))
        if found is None:
            found = Executable(sha256=Sha256(self.word(sha256)), exe=self.path(exe))
            self._executables[found.sha256, exe] = found
        return found

    def workload(self, namespace: str, pod: str, container: str) -> Workload:
        found = self._workloads.get((namespace, pod, container))
        if found is None:
            found = Workload(namespace=namespace, pod=pod, container=container)
            self._workloads[namespace, pod, container] = found
        return found


def _move_inexact(connection: sqlite3.Connection, dictionary: Dictionary) -> None:
    """Moves totals of a text that is no longer what is made of its path to the one that is.

    It was for paths with a backslash before what reads like a byte. Left where they are, they would
    be loaded beside those that go on from them.
    """
    for number, sha256, exe in connection.execute(
        "SELECT id, sha256, exe FROM executables WHERE instr(exe, '\\x')"
        " AND id IN (SELECT executable_id FROM totals)",
    ).fetchall():
        path = exact(exe)
        if label_value(path) != exe:
            moved = dictionary.executable(Executable(sha256=Sha256(sha256), exe=path))
            connection.execute(
                "UPDATE OR REPLACE totals SET executable_id = ? WHERE executable_id = ?",
                (moved, number),
            )


def _load_totals(connection: sqlite3.Connection, shared: _Shared) -> Iterable[CounterTotal]:
    # All that have a series, so that none begins anew: `metrics.max_executables` bounds them.
    for row in connection.execute(
        "SELECT metric, sha256, exe, namespace, pod, container, protocol, scope, direction,"
        " value, created FROM totals JOIN executables ON id = executable_id WHERE created <> 0",
    ):
        yield CounterTotal(
            metric=shared.word(row[0]),
            labels=SeriesLabels(
                executable=shared.executable(row[1], row[2]),
                workload=shared.workload(row[3], row[4], row[5]),
                protocol=shared.word(row[6]),
                scope=Scope(row[7]),
                direction=Direction(row[8]),
            ),
            value=_count(row[9]),
            created_seconds=float(row[10]),
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


def _load_executables(connection: sqlite3.Connection, shared: _Shared) -> Iterable[KnownExecutable]:
    for row in connection.execute(
        "SELECT e.sha256, e.exe, k.namespace, k.pod, k.container, k.name, p.sha256, p.exe,"
        " k.size, k.first_seen, k.last_seen"
        # Sorted before there are paths, which would have to be sorted on the disk.
        " FROM (SELECT * FROM known_executables ORDER BY last_seen DESC LIMIT ?) k"
        " CROSS JOIN executables e ON e.id = k.executable_id"
        " CROSS JOIN executables p ON p.id = k.parent_id",
        (MAX_LOADED,),
    ):
        yield KnownExecutable(
            executable=shared.executable(row[0], row[1]),
            workload=shared.workload(row[2], row[3], row[4]),
            name=shared.path(row[5]),
            parent=shared.executable(row[6], row[7]),
            size_bytes=int(row[8]),
            first_seen_seconds=float(row[9]),
            last_seen_seconds=float(row[10]),
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


def _load_files(connection: sqlite3.Connection, shared: _Shared) -> Iterable[KnownFile]:
    for row in connection.execute(
        "SELECT device, inode, generation, size, modified_ns, changed_ns, sha256, path, is_racy"
        " FROM (SELECT device, inode, generation FROM known_files ORDER BY hashed DESC LIMIT ?)"
        " CROSS JOIN known_files USING (device, inode, generation)",
        (MAX_LOADED,),
    ):
        yield KnownFile(
            identity=FileIdentity(
                device=int(row[0]), inode=int(row[1]) % _UINT64, generation=int(row[2])
            ),
            size_bytes=int(row[3]),
            modified_ns=int(row[4]),
            changed_ns=int(row[5]),
            sha256=Sha256(shared.word(row[6])),
            path=shared.word(os.fsdecode(row[7])),
            is_racy=bool(row[8]),
        )


def _workload_values(workload: Workload) -> tuple[str, str, str]:
    return storable(workload.namespace), storable(workload.pod), storable(workload.container)


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.100} is no count")
    return value


def _signed(value: int) -> int:
    """A 64-bit number as SQLite has it; overlayfs sets the highest bit of inode numbers."""
    return value if value <= MAX_INTEGER else value - _UINT64
