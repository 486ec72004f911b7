"""Deletes what is older than the log is kept, in portions that stall nobody."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Final

from picosnitch_exporter.log import books
from picosnitch_exporter.log.schema import (
    ADDRESSES,
    BUCKET_SECONDS,
    DOMAINS,
    FACTS,
    PROGRAMS,
    SOURCES,
)
from picosnitch_exporter.logging_format import Event

ROWS: Final = 5_000
"""In one portion, which takes some 10 ms."""
FREED_PAGES: Final = 500
KEPT_PAGES: Final = 2_500
"""10 MB of free pages are left for the rows to come."""
_DAY_SECONDS = 86_400
_JUMP_SECONDS = 3_600
_WAIT_SECONDS = 3_600
_OLD_FACTS = f"""
    DELETE FROM {FACTS} WHERE (contime, sequence) <= (
        SELECT contime, sequence FROM (
            SELECT contime, sequence FROM {FACTS} WHERE contime < :before
            ORDER BY contime, sequence LIMIT :rows
        ) ORDER BY contime DESC, sequence DESC LIMIT 1
    )"""  # noqa: S608 names of the schema
# A source marks its programs when it is marked itself, so none goes before those who name it.
_MARKED = (SOURCES, PROGRAMS, ADDRESSES, DOMAINS)

_log = logging.getLogger(__name__)


class Retention:
    """Prunes a database, one portion for each call, inside the caller's transaction.

    `boot_clock` has to go on while the machine is suspended (CLOCK_BOOTTIME).
    """

    def __init__(
        self,
        *,
        days: int,
        stale_after_seconds: float,
        clock: Callable[[], float],
        boot_clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._seconds = days * _DAY_SECONDS
        self._stale_after_seconds = stale_after_seconds
        self._clock = clock
        self._boot_clock = boot_clock
        self._offset = clock() - boot_clock()
        self._wait_until = -float("inf")

    def prune(self, connection: sqlite3.Connection) -> bool:
        """Deletes one portion; true if there may be more."""
        if self._has_jumped():
            return False
        before = int(self._clock() - self._seconds)
        cursor = connection.execute(_OLD_FACTS, {"before": before, "rows": ROWS})
        if cursor.rowcount:
            return True
        connection.execute(
            "DELETE FROM executable_traffic WHERE bucket < ?", (before // BUCKET_SECONDS,)
        )
        day = before // _DAY_SECONDS
        for table in _MARKED:
            cursor = connection.execute(
                f"DELETE FROM {table.name} WHERE id IN"  # noqa: S608 names of the schema
                f" (SELECT id FROM {table.name} WHERE used < ? LIMIT ?)",
                (day, ROWS),
            )
            if cursor.rowcount == ROWS:
                return True
        books.forget_stale(connection, totals_before=self._clock() - self._stale_after_seconds)
        books.forget_old(connection, workloads_before=before)
        return False

    def shrink(self, connection: sqlite3.Connection) -> bool:
        """Gives some free pages back to the file system; true if there are more.

        Outside any transaction.
        """
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free > KEPT_PAGES:
            # Frees one page with each step, and execute() takes only one.
            connection.executescript(f"PRAGMA incremental_vacuum({FREED_PAGES})")
        return bool(free > KEPT_PAGES + FREED_PAGES)

    def _has_jumped(self) -> bool:
        """Whether the wall clock can't be trusted just now.

        Where it jumps ahead by mistake, the whole log would look old; time to set it right.
        """
        boot = self._boot_clock()
        offset = self._clock() - boot
        if abs(offset - self._offset) > _JUMP_SECONDS:
            _log.warning(
                Event("clock_jumped", {"seconds": int(offset - self._offset), "pruning": "waits"})
            )
            self._offset = offset
            self._wait_until = boot + _WAIT_SECONDS
        return boot < self._wait_until
