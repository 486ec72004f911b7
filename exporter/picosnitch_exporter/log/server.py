"""`DB sql server`: a thread that brings batches to a database server, in order and exactly once.

A thread of this process and not another process: both drivers wait for the network without holding
the interpreter's lock, and a process of its own takes 10 MB more. They are imported only here.
"""

import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.log.batches import decode_rows, encode_rows
from picosnitch_exporter.log.mysql import mysql_sessions
from picosnitch_exporter.log.outbox import Batch, Target
from picosnitch_exporter.log.postgresql import postgresql_sessions
from picosnitch_exporter.log.remote import RemoteLog, ServerError, Session
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Commit
from picosnitch_exporter.settings import ServerSettings
from picosnitch_exporter.state.health import Health

FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 60.0
_SAY_SECONDS: Final = 300.0
_POSTGRESQL: Final = ("psycopg", "psycopg2")

_log = logging.getLogger(__name__)


def sessions_of(settings: ServerSettings) -> Callable[[], Session]:
    """What opens a session with the configured server.

    Raises
    ------
    RequirementError
        if the driver is not installed.
    ConfigurationError
        if a parameter is not one of the driver's.
    """
    if settings.client in _POSTGRESQL:
        return postgresql_sessions(settings)
    return mysql_sessions(settings)


class ServerCourier:
    """Brings one batch after the other, each for as long as it takes.

    Raises
    ------
    RequirementError, ConfigurationError
        as `sessions_of` does.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        health: Health,
        host: str | None = None,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._connect = sessions_of(settings)
        self._table_name = settings.table_name
        self._health = health
        self._host = host or socket.gethostname()
        self._first_retry_seconds = first_retry_seconds
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._remote: RemoteLog | None = None
        self._say_again = 0.0
        self._thread: threading.Thread | None = None

    def start(
        self,
        arrived: Callable[[bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begins; `arrived` is called with the key of each batch that has arrived."""
        self._thread = threading.Thread(
            target=self._run,
            args=(arrived, failed),
            name="log-server",
            daemon=True,
        )
        self._thread.start()

    def bring(self, batch: Batch) -> None:
        """Takes the next batch; not called again before the previous one has arrived."""
        self._batches.put(batch)

    def encode(self, commit: Commit) -> bytes:
        """The rows of a commit as the body of a batch."""
        return encode_rows(commit.rows)

    def close(self, *, timeout_seconds: float) -> None:
        """Ends the thread; a batch that has not arrived stays in the outbox."""
        self._closing.set()
        self._batches.put(None)
        if self._thread is not None:
            # One that waits for the network ends with the process: its batch comes again.
            self._thread.join(timeout_seconds)

    def _run(
        self,
        arrived: Callable[[bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        try:
            while not self._closing.is_set() and (batch := self._batches.get()) is not None:
                if self._bring(batch):
                    arrived(batch.key)
            self._hang_up()
        except Exception as error:  # noqa: BLE001 whatever it is, the main thread has to know
            failed(error)

    def _bring(self, batch: Batch) -> bool:
        """True once the batch has arrived, false when closing."""
        try:
            rows = decode_rows(batch.body)
        except StorageError:
            # Kept, it would be in the way of all that come after it.
            self._health.count(catalog.LOG_ROWS_DROPPED, (Target.SERVER, "unreadable"), batch.rows)
            _log.exception(Event("rows_dropped", {"log": "server", "rows": batch.rows}))
            return True
        retry_seconds = self._first_retry_seconds
        while not self._closing.is_set():
            try:
                if self._remote is None:
                    self._remote = RemoteLog.connect(
                        self._connect,
                        table_name=self._table_name,
                        host=self._host,
                    )
                self._remote.deliver(batch.key, rows)
            except ServerError as error:
                self._note_error(error)
                self._hang_up()
            else:
                self._say_again = 0.0
                self._health.count(catalog.LOG_ROWS_WRITTEN, (Target.SERVER,), len(rows))
                return True
            # Many hosts lose the same server at once, and must not all come back at once.
            self._closing.wait(retry_seconds * random.uniform(0.5, 1.0))  # noqa: S311 no secret
            retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)
        return False

    def _hang_up(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()

    def _note_error(self, error: ServerError) -> None:
        self._health.count(catalog.LOG_ERRORS, (Target.SERVER, error.reason))
        now = time.monotonic()
        if now >= self._say_again:
            self._say_again = now + _SAY_SECONDS
            _log.error(
                Event(
                    "log_write_failed",
                    {
                        "log": "server",
                        "error": str(error),
                        "meaning": "rows wait on the disk",
                    },
                )
            )
