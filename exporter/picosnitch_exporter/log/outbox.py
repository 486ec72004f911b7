"""What has been committed and is still on its way to another log, in the same SQLite database.

A batch gets in within the transaction of its commit, so it is neither lost nor made twice when the
process is killed; it goes once the other log has taken it. Each has a random key, by which a server
knows that it has it already.
"""

import os
import sqlite3
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

TABLES: Final = (
    """CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, key BLOB NOT NULL,
        rows INTEGER NOT NULL, body BLOB NOT NULL
    )""",
)
_KEY_BYTES = 16
_MIB = 1024 * 1024


class Target(StrEnum):
    """Where a batch goes."""

    TEXT = "text"
    SERVER = "server"
    OTLP = "otlp"


LIMIT_BYTES: Final = {
    Target.TEXT: 64 * _MIB,
    Target.SERVER: 256 * _MIB,
    Target.OTLP: 256 * _MIB,
}
"""Of the bodies that wait for each. What comes when it is reached is dropped and counted: dropping
the oldest instead would let a flood wash away what came before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Rows for another log, encoded as that log wants them."""

    target: Target
    rows: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A parcel that waits."""

    number: int
    key: bytes
    rows: int
    body: bytes


@dataclass(slots=True)
class Waiting:
    """How much waits for one target."""

    rows: int = 0
    size_bytes: int = 0
    rows_dropped: int = 0


@dataclass(slots=True)
class Outbox:
    """Books of the outbox. Everything happens in the caller's transaction.

    `recount` has to be called after opening a database and after a transaction was rolled back.
    """

    limit_bytes: dict[Target, int] = field(default_factory=lambda: dict(LIMIT_BYTES))
    waiting: dict[Target, Waiting] = field(
        default_factory=lambda: {target: Waiting() for target in Target},
    )

    def recount(self, connection: sqlite3.Connection) -> None:
        """Reads again how much waits."""
        for waiting in self.waiting.values():
            waiting.rows = waiting.size_bytes = 0
        for target, rows, size_bytes in connection.execute(
            "SELECT target, sum(rows), sum(length(body)) FROM outbox GROUP BY target",
        ):
            waiting = self.waiting[Target(target)]
            waiting.rows, waiting.size_bytes = rows, size_bytes

    def add(self, connection: sqlite3.Connection, parcel: Parcel) -> bool:
        """Takes a parcel; false where its target has reached its bound."""
        waiting = self.waiting[parcel.target]
        if waiting.size_bytes + len(parcel.body) > self.limit_bytes[parcel.target]:
            return False
        connection.execute(
            "INSERT INTO outbox (target, key, rows, body) VALUES (?, ?, ?, ?)",
            (parcel.target, os.urandom(_KEY_BYTES), parcel.rows, parcel.body),
        )
        waiting.rows += parcel.rows
        waiting.size_bytes += len(parcel.body)
        return True

    def first(self, connection: sqlite3.Connection, target: Target) -> Batch | None:
        """The batch that has waited longest."""
        found = connection.execute(
            "SELECT number, key, rows, body FROM outbox WHERE target = ? ORDER BY number LIMIT 1",
            (target,),
        ).fetchone()
        if found is None:
            return None
        number, key, rows, body = found
        return Batch(number=number, key=key, rows=rows, body=body)

    def remove(self, connection: sqlite3.Connection, target: Target, key: bytes) -> None:
        """Forgets the first batch, which has arrived; nothing where it is another one."""
        batch = self.first(connection, target)
        if batch is None or batch.key != key:
            return
        connection.execute("DELETE FROM outbox WHERE number = ?", (batch.number,))
        self.waiting[target].rows -= batch.rows
        self.waiting[target].size_bytes -= len(batch.body)
