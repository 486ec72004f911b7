"""Reads the log in the storage path, while it is being written or not."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from picosnitch_exporter.errors import StorageError, UsageError
from picosnitch_exporter.log.opening import APPLICATION_ID, UPGRADES, translate_sqlite
from picosnitch_exporter.log.schema import BUCKET_SECONDS, DIRECTIONS, SQLITE
from picosnitch_exporter.log.selection import (
    Conditions,
    Selection,
    is_in_network,
    of_connections,
    of_executables,
)

Cell = str | int | float | None

_DIRECTION: Final = (
    "CASE f.direction "
    + " ".join(f"WHEN {n} THEN '{name}'" for n, name in enumerate(DIRECTIONS))
    + " END"
)
# What a sum can be by: the column of the connections that it takes, and what is shown for it.
GROUPS: Final[dict[str, tuple[str, str]]] = {
    "exe": ("source_id", "e.exe"),
    "name": ("source_id", "p.name"),
    "sha256": ("source_id", "e.sha256"),
    "pexe": ("source_id", "pe.exe"),
    "user": ("source_id", "s.uid"),
    "container": ("source_id", "s.container"),
    "domain": ("domain_id", "d.domain"),
    "raddr": ("raddr_id", "a.address"),
    "rport": ("rport", "f.rport"),
    "protocol": ("protocol", "f.protocol"),
    "direction": ("direction", _DIRECTION),
    "hour": ("contime / 3600 AS hour", "f.hour * 3600"),
    "day": ("contime / 86400 AS day", "f.day * 86400"),
}
_FACT_SUMS: Final = (
    "sum(send) AS send",
    "sum(recv) AS recv",
    "sum(events) AS events",
    "count(*) AS rows",
)
_FOREVER: Final = 1 << 40
SUMS: Final = ("send", "recv", "events", "rows")
BYTES: Final = "bytes"
"""Sorts by what was sent and received together."""
_ROLLED_UP: Final = {"exe", "sha256"}
_JOINS: Final = (
    (
        {"exe", "name", "sha256", "pexe", "user", "container"},
        "LEFT JOIN sources s ON s.id = f.source_id",
    ),
    ({"exe", "name", "sha256"}, "LEFT JOIN programs p ON p.id = s.program_id"),
    ({"exe", "sha256"}, "LEFT JOIN executables e ON e.id = p.executable_id"),
    ({"pexe"}, "LEFT JOIN programs pp ON pp.id = s.parent_id"),
    ({"pexe"}, "LEFT JOIN executables pe ON pe.id = pp.executable_id"),
    ({"domain"}, "LEFT JOIN domains d ON d.id = f.domain_id"),
    ({"raddr"}, "LEFT JOIN addresses a ON a.id = f.raddr_id"),
)
_PROGRESS_STEPS: Final = 1_000_000
"""Instructions of SQLite's machine, some 20 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a query finds; the rows come one by one, and raise `StorageError`."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Cell, ...]]


class LogReader:
    """A read-only connection to `snitch.db`.

    `progress` is called many times a second while a query takes long.

    Raises
    ------
    StorageError
        if there is no database, or it is not one that this version reads.
    """

    def __init__(self, path: Path, *, progress: Callable[[], None] | None = None) -> None:
        self._path = path
        with self._translating():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro",
                uri=True,
                isolation_level=None,
            )
        try:
            self._check_version()
            self._connection.create_function("in_network", 2, is_in_network, deterministic=True)
            if progress is not None:
                self._connection.set_progress_handler(progress, _PROGRESS_STEPS)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def rows(self, selection: Selection, *, limit: int) -> "Result":
        """The latest rows that are selected, oldest first; as `connection_log` shows them.

        Raises
        ------
        UsageError
            if a part of the selection is malformed.
        StorageError
            if the database can't be read.
        """
        conditions = of_connections(selection)
        _add_times(conditions, selection)
        latest = (
            f"SELECT * FROM connections{conditions.where()}"  # noqa: S608 as written in selection
            " ORDER BY contime DESC, sequence DESC LIMIT ?"
        )
        # The view, over these rows in place of all.
        view = SQLITE.create_view("chosen", with_host=False).partition(" AS ")[2]
        sql = f"WITH chosen AS ({latest}) {view} ORDER BY c.contime, c.sequence"
        return self._result(sql, [*conditions.values, limit])

    def sums(
        self,
        selection: Selection,
        *,
        by: tuple[str, ...],
        sort: str,
        limit: int,
    ) -> "Result":
        """Sums of what is selected, largest first, by any of `GROUPS`.

        Sorted by one of `SUMS`, by `BYTES`, or by one of the groups.

        Raises
        ------
        UsageError
            if a part of the selection is malformed, or there is no such group or sum.
        StorageError
            if the database can't be read.
        """
        known = (*SUMS, BYTES, *by)
        for name in by:
            if name not in GROUPS:
                raise UsageError(f"no sums by {name!r}: choose from {', '.join(GROUPS)}")
        if sort not in known:
            raise UsageError(f"can't sort by {sort!r}: choose from {', '.join(known)}")
        if set(by) <= _ROLLED_UP and selection.is_by_executable:
            source, values = _rolled_up(selection)
            joins = "LEFT JOIN executables e ON e.id = f.executable_id"
        else:
            source, values = _summed(selection, by)
            joins = " ".join(join for needed, join in _JOINS if needed & set(by))
        shown = [f"{GROUPS[name][1]} AS {name}" for name in by]
        sums = [f"coalesce(sum(f.{name}), 0) AS {name}" for name in SUMS]
        grouping = f"GROUP BY {', '.join(map(str, range(1, len(by) + 1)))}" if by else ""
        order = "sum(f.send + f.recv) DESC" if sort == BYTES else sort
        if sort in SUMS:
            order = f"{sort} DESC"
        sql = (
            f"WITH f AS MATERIALIZED ({source}) SELECT {', '.join([*shown, *sums])}"  # noqa: S608
            f" FROM f {joins} {grouping} ORDER BY {', '.join([order, *by])} LIMIT ?"
        )
        return self._result(sql, [*values, limit])

    def executables(self, selection: Selection, *, limit: int) -> "Result":
        """What is known of the selected executables, those seen last first.

        Raises
        ------
        UsageError, StorageError
            as `rows` does.
        """
        conditions = of_executables(selection, identifier="k.executable_id")
        if selection.container:
            conditions.add("k.container GLOB ?", f"{selection.container}*")
        if selection.since is not None:
            conditions.add("k.last_seen >= ?", selection.since)
        if selection.until is not None:
            conditions.add("k.first_seen < ?", selection.until)
        chosen = (
            "SELECT e.sha256, e.exe, k.namespace, k.pod, k.container"  # noqa: S608 as below
            " FROM known_executables k"
            f" JOIN executables e ON e.id = k.executable_id{conditions.where()}"
        )
        sql = (
            "SELECT * FROM executable_log"  # noqa: S608 conditions are written in selection
            " WHERE (sha256, exe, namespace, pod, container)"
            f" IN ({chosen}) ORDER BY last_seen DESC LIMIT ?"
        )
        return self._result(sql, [*conditions.values, limit])

    def _result(self, sql: str, values: list[str | int]) -> "Result":
        with self._translating():
            cursor = self._connection.execute(sql, values)
            columns = tuple(str(column[0]) for column in cursor.description)
        return Result(columns=columns, rows=self._rows(cursor))

    def _rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[Cell, ...]]:
        with self._translating():
            yield from cursor

    def _check_version(self) -> None:
        with self._translating():
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StorageError(f"{self._path} is not a database of picosnitch-exporter")
        if version != len(UPGRADES):
            raise StorageError(
                f"{self._path} has schema version {version}, this picosnitch-exporter reads "
                f"{len(UPGRADES)}: use the version that runs, or let this one run once",
            )

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate_sqlite(error, self._path) from error


def _add_times(conditions: Conditions, selection: Selection) -> None:
    if selection.since is not None:
        conditions.add("contime >= ?", selection.since)
    if selection.until is not None:
        conditions.add("contime < ?", selection.until)


def _summed(selection: Selection, by: tuple[str, ...]) -> tuple[str, list[str | int]]:
    """Sums of the connections by the few columns that are needed, before anything is joined."""
    conditions = of_connections(selection)
    _add_times(conditions, selection)
    columns = list(dict.fromkeys(GROUPS[name][0] for name in by))
    grouping = f" GROUP BY {', '.join(map(str, range(1, len(columns) + 1)))}" if columns else ""
    source = (
        f"SELECT {', '.join([*columns, *_FACT_SUMS])} FROM connections"  # noqa: S608 constants
        f"{conditions.where()}{grouping}"
    )
    return source, conditions.values


def _rolled_up(selection: Selection) -> tuple[str, list[str | int]]:
    """The roll-up for all whole buckets, and the connections before and after them."""
    first = -(-(selection.since or 0) // BUCKET_SECONDS)
    last = _FOREVER if selection.until is None else selection.until // BUCKET_SECONDS
    chosen = of_executables(selection, identifier="executable_id")
    chosen.add("bucket >= ?", first)
    chosen.add("bucket < ?", last)
    table = f"executable_traffic{chosen.where()}"
    parts = [f"SELECT executable_id, send, recv, events, rows FROM {table}"]  # noqa: S608
    values = [*chosen.values]
    edges = []
    if selection.since is not None:
        end = first * BUCKET_SECONDS
        edges.append(
            (selection.since, end if selection.until is None else min(end, selection.until))
        )
    if selection.until is not None:
        begin = last * BUCKET_SECONDS
        edges.append((max(begin, edges[0][1] if edges else 0), selection.until))
    for begin, end in edges:
        if begin < end:
            source, edge_values = _summed(replace(selection, since=begin, until=end), ("exe",))
            parts.append(
                "SELECT p.executable_id, x.send, x.recv, x.events, x.rows"  # noqa: S608 as above
                f" FROM ({source}) x JOIN sources s ON s.id = x.source_id"
                " JOIN programs p ON p.id = s.program_id",
            )
            values += edge_values
    return " UNION ALL ".join(parts), values
