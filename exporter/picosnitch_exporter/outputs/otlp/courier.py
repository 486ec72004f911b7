"""The thread that brings rows of the connection log, batch by batch as the outbox has them.

OTLP knows no keys: a batch that the receiver has taken without our hearing of it comes twice.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from opentelemetry.sdk._logs import ReadableLogRecord

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Commit, LogRow
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.logs import LogMapping
from picosnitch_exporter.outputs.otlp.mapping import MAX_BYTES
from picosnitch_exporter.state.health import Health

LOG: Final = "otlp"
MAX_RECORDS: Final = 2_000
FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 60.0
_SAY_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


class Parcel(Protocol):
    """A batch of the outbox (`log.outbox.Batch`)."""

    @property
    def key(self) -> bytes:
        """Which one."""

    @property
    def rows(self) -> int:
        """How many."""

    @property
    def body(self) -> bytes:
        """What `encode` has made of them."""


class LogSender(Protocol):
    """`sender.Sender` for log records."""

    def send(self, data: Sequence[ReadableLogRecord], /) -> Answer:
        """How it ended."""

    def end_by(self, timeout_seconds: float) -> None:
        """Let no request that begins from now on last longer."""

    def close(self) -> None:
        """Ends it."""


class OtlpCourier:
    """Brings one batch after the other, each for as long as it takes.

    `encode` and `decode` are those of the log, which raise StorageError for what they can't read.
    """

    def __init__(  # noqa: PLR0913 - what it sends, how rows wait, and how patient it is
        self,
        *,
        sender: LogSender,
        mapping: LogMapping,
        encode: Callable[[tuple[LogRow, ...]], bytes],
        decode: Callable[[bytes], tuple[LogRow, ...]],
        health: Health,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._sender = sender
        self._mapping = mapping
        self._encode = encode
        self._decode = decode
        self._health = health
        self._first_retry_seconds = first_retry_seconds
        self._batches: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._max_records = MAX_RECORDS
        self._say_again = 0.0
        self._thread: threading.Thread | None = None

    def start(
        self,
        arrived: Callable[[bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begins; `arrived` is called with the key of each batch that needs no other attempt."""
        self._thread = threading.Thread(
            target=self._run, args=(arrived, failed), name="otlp-logs", daemon=True
        )
        self._thread.start()

    def bring(self, batch: Parcel) -> None:
        """Takes the next batch."""
        self._batches.put(batch)

    def encode(self, commit: Commit) -> bytes:
        """The rows of a commit as the body of a batch."""
        return self._encode(commit.rows)

    def close(self, *, timeout_seconds: float) -> None:
        """Ends the thread; a batch that has not arrived stays in the outbox."""
        self._closing.set()
        self._sender.end_by(timeout_seconds)
        self._batches.put(None)
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self._sender.close()

    def _run(
        self,
        arrived: Callable[[bytes], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        try:
            while not self._closing.is_set() and (batch := self._batches.get()) is not None:
                if self._bring(batch):
                    arrived(batch.key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the main thread has to know
            # While closing, the sender is taken away from this thread.
            if not self._closing.is_set():
                failed(error)

    def _bring(self, batch: Parcel) -> bool:
        """True once nothing of the batch needs another attempt, false when closing."""
        done = 0
        retry_seconds = self._first_retry_seconds
        while not self._closing.is_set():
            try:
                rows = self._decode(batch.body)[done:]
            except StorageError as error:
                # Kept, it would be in the way of all that come after it.
                self._drop("unreadable", batch.rows, str(error))
                return True
            sent, answer = self._send_all(rows)
            if answer is None:
                return True
            if sent:
                done += sent
                retry_seconds = self._first_retry_seconds
            # Many rows in memory are no use to a receiver that is away.
            del rows
            # A fleet loses its receiver at once, and must not come back at once.
            pause_seconds = retry_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            self._closing.wait(max(pause_seconds, answer.retry_after_seconds))
            retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)
        return False

    def _send_all(self, rows: tuple[LogRow, ...]) -> tuple[int, Answer | None]:
        """(rows that need no other attempt, why it ended before the last one)."""
        done = 0
        while done < len(rows):
            if self._closing.is_set():
                return done, Answer(result=Result.UNAVAILABLE)
            sent, answer = self._send_some(rows[done : done + self._max_records])
            done += sent
            if answer is not None:
                return done, answer
        return done, None

    def _send_some(self, rows: tuple[LogRow, ...]) -> tuple[int, Answer | None]:
        """(rows that need no other attempt, what to wait for before the next)."""
        records = next(
            self._mapping.batches(rows, max_records=self._max_records, max_bytes=MAX_BYTES)
        )
        answer = self._sender.send(records)
        self._health.count(catalog.OTLP_EXPORTS, (answer.result,))
        match answer.result:
            case Result.SUCCESS:
                self._say_again = 0.0
                self._health.count(catalog.LOG_ROWS_WRITTEN, (LOG,), len(records))
            case Result.PARTIAL:
                rejected = min(answer.rejected, len(records))
                self._health.count(catalog.LOG_ROWS_WRITTEN, (LOG,), len(records) - rejected)
                self._drop("rejected", rejected, answer.reason)
            case Result.REFUSED:
                self._drop("refused", len(records), answer.reason)
            case Result.TOO_LARGE if len(records) > 1:
                self._max_records = max(1, len(records) // 2)
                return 0, None
            case Result.TOO_LARGE:
                self._drop("too_large", 1, answer.reason)
            case _:
                self._note(answer)
                return 0, answer
        return len(records), None

    def _drop(self, reason: str, rows: int, why: str) -> None:
        self._health.count(catalog.LOG_ROWS_DROPPED, (LOG, reason), rows)
        if self._is_due():
            _log.error(
                Event("rows_dropped", {"log": LOG, "rows": rows, "because": reason, "reason": why})
            )

    def _note(self, answer: Answer) -> None:
        self._health.count(catalog.LOG_ERRORS, (LOG, answer.result))
        if self._is_due():
            _log.error(
                Event(
                    "log_write_failed",
                    {
                        "log": LOG,
                        "result": answer.result.value,
                        "reason": answer.reason,
                        "meaning": "rows wait on the disk",
                    },
                )
            )

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._say_again:
            return False
        self._say_again = now + _SAY_SECONDS
        return True
