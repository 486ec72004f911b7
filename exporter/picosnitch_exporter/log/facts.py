"""The rows of the log, in SQLite."""

import sqlite3
from collections.abc import Iterable, Iterator

from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.schema import (
    BUCKET_SECONDS,
    DIRECTIONS,
    FACT_NAMES,
    FACTS,
    MAX_INTEGER,
)
from picosnitch_exporter.model import LogRow

_INSERT_FACTS = (
    f"INSERT INTO {FACTS} (sequence, {', '.join(FACT_NAMES)})"  # noqa: S608 names of the schema
    f" VALUES ({', '.join('?' * (len(FACT_NAMES) + 1))})"
)
_DIRECTION_NUMBERS = {direction: number for number, direction in enumerate(DIRECTIONS)}


def insert_rows(
    connection: sqlite3.Connection,
    dictionary: Dictionary,
    rows: Iterable[LogRow],
) -> None:
    """Adds rows and what they add up to for each executable, in the caller's transaction."""
    traffic: dict[tuple[int, int], list[int]] = {}
    facts = _facts(rows, dictionary, _Sequences(connection), traffic)
    connection.executemany(_INSERT_FACTS, facts)
    connection.executemany(
        "INSERT INTO executable_traffic VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " send = send + excluded.send, recv = recv + excluded.recv,"
        " events = events + excluded.events, rows = rows + excluded.rows",
        ((*key, *(min(value, MAX_INTEGER) for value in sums)) for key, sums in traffic.items()),
    )


def _facts(
    rows: Iterable[LogRow],
    dictionary: Dictionary,
    sequences: "_Sequences",
    traffic: dict[tuple[int, int], list[int]],
) -> Iterator[tuple[str | int, ...]]:
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
