"""What a start gets back of what `books` has saved, in the caller's transaction."""

import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.log import books, verdicts
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.schema import exact
from picosnitch_exporter.model import (
    HOST,
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

MAX_LOADED: Final = 50_000
"""Executables and files that a start gets back, those seen last; the others stay where they are."""
MAX_LOADED_BYTES: Final = 32 << 20
"""Of the texts of each in memory, where a path of 4,096 bytes can take 16 KB."""

_UINT64 = 1 << 64
_Loaded = TypeVar("_Loaded")


def load(connection: sqlite3.Connection, dictionary: Dictionary) -> Persisted:
    """What was saved, the latest of it where it is much.

    Raises
    ------
    ValueError, TypeError
        if something has a value or type that nothing was ever saved with.
    """
    state = books.load_state(connection)
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


class _Shared:
    """Equal values as one object, which is kept for as long as there are series of it."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._size_bytes = 0
        self._executables: dict[tuple[str, str], Executable] = {}
        self._workloads = {("", "", ""): HOST}

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


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.100} is no count")
    return value
