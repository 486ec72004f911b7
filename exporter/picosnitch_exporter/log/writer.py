"""The thread that makes commits durable, and then brings their rows to the other logs.

A commit that can't be written (locked database, full disk) is kept and tried again. The rows for
the other logs are in its transaction (see `outbox`), so those never wait for one another.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageBusyError, StorageError, StorageFullError
from picosnitch_exporter.log.outbox import Batch, Parcel, Target
from picosnitch_exporter.log.rows import Hiding
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.text import (
    ErrorLog,
    TextFile,
    csv_lines,
    executable_lines,
    verdict_lines,
)
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Commit, KnownExecutable
from picosnitch_exporter.settings import LogSettings
from picosnitch_exporter.state.health import Health

QUEUED_COMMITS: Final = 2
"""Beyond the one that is being written. Windows stay open, and rows merge, while they are full."""
PARCEL_ROWS: Final = 1_000
"""For another log, at once: 9 MB of conn.log where all have the longest paths."""
PRUNE_SECONDS: Final = 60.0
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 5.0
_REST_SECONDS: Final = 1.0
"""Without anything to write, until the database lets go of its pages."""
_SAY_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 0.5
"""For an attempt that is under way when the time to close is up: it is made again, or known."""
_SQLITE: Final = "sqlite"
_PACKAGE: Final = "picosnitch_exporter"

_log = logging.getLogger(__name__)


class Courier(Protocol):
    """Brings batches to a server, one at a time, in a thread of its own; counts what is there."""

    def start(
        self,
        arrived: Callable[[bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begins; `arrived` is called with the key of each batch that has arrived."""

    def bring(self, batch: Batch) -> None:
        """Takes the next batch; not called again before the previous one has arrived."""

    def encode(self, commit: Commit) -> bytes:
        """The rows of a commit as the body of a batch."""

    def close(self, *, timeout_seconds: float) -> None:
        """Ends the thread; a batch that has not arrived stays in the outbox."""


class LogWriter:
    """Owns the database from `start` to `close`.

    `committed` is called from its thread for each commit that has become durable, `failed` where it
    can't go on (a bug: what the system refuses is tried again), `discovered` for executables that
    have never been seen before. `courier` is the configured server's, unless one is given.

    Raises
    ------
    RequirementError, ConfigurationError
        if a server is configured whose driver is missing or does not know a parameter.
    """

    def __init__(  # noqa: PLR0913 the composition root hands over all that the thread needs
        self,
        database: Database,
        *,
        settings: LogSettings,
        storage: Path,
        health: Health,
        committed: Callable[[Commit], None],
        failed: Callable[[BaseException], None],
        discovered: Callable[[tuple[KnownExecutable, ...]], None] | None = None,
        courier: Courier | None = None,
        otlp: Courier | None = None,
    ) -> None:
        self._database = database
        self._health = health
        self._committed = committed
        self._failed = failed
        self._discovered = discovered
        couriers = {Target.SERVER: courier or _courier_of(settings, health), Target.OTLP: otlp}
        self._couriers = {target: each for target, each in couriers.items() if each is not None}
        self._keeps_rows = settings.sqlite.enabled
        self._hiding = Hiding.of(settings)
        self._connections = TextFile(storage / "conn.log") if settings.text.enabled else None
        self._encoders: dict[Target, Callable[[Commit], bytes]] = {
            target: courier.encode for target, courier in self._couriers.items()
        }
        if self._connections is not None:
            self._encoders[Target.TEXT] = lambda commit: csv_lines(commit.rows)
        self._executables = TextFile(storage / "exe.log")
        self._errors = ErrorLog(storage / "error.log")
        self._events: queue.SimpleQueue[Commit | _Arrival | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._rows_waiting = 0
        self._under_way: set[Target] = set()
        self._written_text: bytes | None = None
        self._say_again: dict[str, float] = {}
        self._closing = threading.Event()
        self._next_prune = 0.0
        self._is_resting = False
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    @property
    def has_room(self) -> bool:
        """Whether to hand over another commit."""
        return self._unfinished <= QUEUED_COMMITS

    def start(self) -> None:
        """Begins to write."""
        logging.getLogger(_PACKAGE).addHandler(self._errors)
        self._thread.start()
        for target, courier in self._couriers.items():
            courier.start(partial(self._note_key, target), self._failed)

    def submit(self, commit: Commit) -> None:
        """Hands a commit over; they become durable in this order."""
        with self._lock:
            self._unfinished += 1
            self._rows_waiting += len(commit.rows)
        self._show_waiting()
        self._events.put(commit)

    def close(self, *, timeout_seconds: float) -> None:
        """Writes what was handed over, for so long; what is left is in the journal."""
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        # Before the thread, which writes on: what arrives while they end is still noted.
        for courier in self._couriers.values():
            courier.close(timeout_seconds=_JOIN_SECONDS)
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(max(self._deadline - time.monotonic(), 0.0) + _JOIN_SECONDS)
        if self._unfinished:
            _log.error(
                Event(
                    "log_unfinished",
                    {"commits": self._unfinished, "meaning": "the next start has them"},
                )
            )
        logging.getLogger(_PACKAGE).removeHandler(self._errors)
        self._errors.close()
        if not self._thread.is_alive():
            for file in (self._connections, self._executables):
                if file is not None:
                    file.close()

    def _run(self) -> None:
        try:
            self._begin()
            while self._take_next():
                pass
        except _GivenUpError:
            return
        except Exception as error:  # noqa: BLE001 whatever it is, the main thread has to know
            self._failed(error)

    def _take_next(self) -> bool:
        """Waits for an event and does what it asks for; False where it was the last.

        On its own, so that a commit, with some MB of rows, is let go of before the next one comes.
        """
        try:
            event = self._events.get(timeout=self._pause())
        except queue.Empty:
            self._prune()
            if self._pause():
                self._database.rest()
                self._is_resting = True
            return True
        self._is_resting = False
        if event is None:
            return False
        if isinstance(event, Commit):
            self._write(event)
        else:
            self._note_arrival(event)
        self._feed_couriers()
        return True

    def _begin(self) -> None:
        try:
            self._drop_unwanted()
        except StorageError as error:
            self._note_error(_SQLITE, error)
        self._deliver_text()
        if not self._database.waiting(Target.TEXT).rows:
            # Whatever is written from here on was not begun by another process.
            self._written_text = b""
        self._feed_couriers()

    def _write(self, commit: Commit) -> None:
        shown = replace(commit, rows=self._hiding.apply(commit.rows))
        parcels = _Parcels(commit=shown, encoders=self._encoders)
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            try:
                new = self._database.commit(shown, parcels=parcels)
                break
            except StorageError as error:
                self._note_error(_SQLITE, error)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    raise _GivenUpError from error
            self._closing.wait(retry_seconds)
            retry_seconds = min(2 * retry_seconds, _LAST_RETRY_SECONDS)
            if self._closing.is_set():
                time.sleep(_FIRST_RETRY_SECONDS)
        self._committed(commit)
        self._note_written(commit)
        self._deliver_text()
        self._append_to_exe_log(executable_lines(new, time.time()))
        self._append_to_exe_log(verdict_lines(commit.verdicts, time.time()))
        if new and self._discovered is not None:
            self._discovered(new)

    def _deliver_text(self) -> None:
        """Appends what waits for conn.log; what can't be written now waits for the next time."""
        if self._connections is None:
            return
        try:
            while (batch := self._database.first_waiting(Target.TEXT)) is not None:
                if batch.key != self._written_text:
                    if self._written_text is None:
                        # The process before this one may have been killed while it wrote this.
                        before = self._database.text_end()
                        self._connections.finish(batch.body, before=before)
                    else:
                        self._connections.append(batch.body)
                    self._written_text = batch.key
                    self._health.count(catalog.LOG_ROWS_WRITTEN, (Target.TEXT,), batch.rows)
                end = self._connections.end()
                self._database.arrived(Target.TEXT, batch.key, text_end=end)
        except StorageError as error:
            self._note_error(Target.TEXT, error)
        self._show_waiting()

    def _feed_couriers(self) -> None:
        for target, courier in self._couriers.items():
            if target in self._under_way:
                continue
            try:
                batch = self._database.first_waiting(target)
            except StorageError as error:
                self._note_error(_SQLITE, error)
                return
            if batch is not None:
                self._under_way.add(target)
                courier.bring(batch)

    def _note_key(self, target: Target, key: bytes) -> None:
        """Called by a courier's thread."""
        self._events.put(_Arrival(target=target, key=key))

    def _note_arrival(self, arrival: "_Arrival") -> None:
        self._under_way.discard(arrival.target)
        try:
            # Where this fails the batch is brought again, and a database knows its key.
            self._database.arrived(arrival.target, arrival.key)
        except StorageError as error:
            self._note_error(_SQLITE, error)
            return
        self._show_waiting()

    def _drop_unwanted(self) -> None:
        """Forgets what waits for a log that has been switched off since."""
        wanted = {*self._couriers, *((Target.TEXT,) if self._connections is not None else ())}
        for target in (each for each in Target if each not in wanted):
            rows = self._database.waiting(target).rows
            while (batch := self._database.first_waiting(target)) is not None:
                self._database.arrived(target, batch.key)
            if rows:
                self._health.count(catalog.LOG_ROWS_DROPPED, (target, "disabled"), rows)
                _log.warning(
                    Event(
                        "rows_dropped",
                        {"log": target, "rows": rows, "meaning": "it was switched off"},
                    )
                )

    def _append_to_exe_log(self, lines: bytes) -> None:
        if not lines:
            return
        try:
            self._executables.append(lines)
        except StorageError as error:
            self._note_error("exe", error)

    def _note_written(self, commit: Commit) -> None:
        with self._lock:
            self._unfinished -= 1
            self._rows_waiting -= len(commit.rows)
        if self._keeps_rows:
            self._health.count(catalog.LOG_ROWS_WRITTEN, (_SQLITE,), len(commit.rows))
        if self._database.set_aside:
            self._health.set_counter(
                catalog.LOG_ERRORS,
                (_SQLITE, "damaged"),
                self._database.set_aside,
            )
        for target in Target:
            if dropped := self._database.waiting(target).rows_dropped:
                self._health.set_counter(catalog.LOG_ROWS_DROPPED, (target, "full"), dropped)
        self._show_waiting()

    def _show_waiting(self) -> None:
        self._health.set(catalog.LOG_ROWS_WAITING, (_SQLITE,), self._rows_waiting)
        if self._connections is not None:
            waiting = self._database.waiting(Target.TEXT).rows
            self._health.set(catalog.LOG_ROWS_WAITING, (Target.TEXT,), waiting)
        for target in self._couriers:
            waiting = self._database.waiting(target).rows
            self._health.set(catalog.LOG_ROWS_WAITING, (target,), waiting)

    def _note_error(self, log: str, error: StorageError) -> None:
        reason = "failed"
        if isinstance(error, StorageFullError):
            reason = "full"
        elif isinstance(error, StorageBusyError):
            reason = "locked"
        self._health.count(catalog.LOG_ERRORS, (log, reason))
        now = time.monotonic()
        if now >= self._say_again.get(log, 0.0):
            self._say_again[log] = now + _SAY_SECONDS
            _log.error(
                Event(
                    "log_write_failed",
                    {"log": log, "error": str(error), "meaning": "it is tried again"},
                )
            )

    def _prune(self) -> None:
        if time.monotonic() < self._next_prune:
            return
        try:
            has_more = self._database.prune()
        except StorageError as error:
            self._note_error(_SQLITE, error)
            has_more = False
        if not has_more:
            self._next_prune = time.monotonic() + PRUNE_SECONDS
        self._deliver_text()

    def _pause(self) -> float:
        until_prune = max(self._next_prune - time.monotonic(), 0.0)
        return until_prune if self._is_resting else min(until_prune, _REST_SECONDS)


def _courier_of(settings: LogSettings, health: Health) -> Courier | None:
    if settings.server is None:
        return None
    # Its drivers take memory that most do without.
    from picosnitch_exporter.log.server import ServerCourier

    return ServerCourier(settings.server, health=health)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcels:
    """What a commit has for other logs, encoded anew each time it is gone through.

    In parcels of some rows, in order: what all of them take is never in memory at once, and a log
    that is full for some has room for the others.
    """

    commit: Commit
    encoders: dict[Target, Callable[[Commit], bytes]]

    def __iter__(self) -> Iterator[Parcel]:
        rows = self.commit.rows
        for target, encode in self.encoders.items():
            for begin in range(0, len(rows), PARCEL_ROWS):
                some = replace(self.commit, rows=rows[begin : begin + PARCEL_ROWS])
                yield Parcel(target=target, rows=len(some.rows), body=encode(some))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """A batch that needs no other attempt."""

    target: Target
    key: bytes


class _GivenUpError(Exception):
    """Closing, and what was handed over can't be written: the journal has it."""
