"""The thread that sends a snapshot of the state, every interval and once at the end."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from opentelemetry.sdk.metrics.export import MetricsData

from picosnitch_exporter import catalog
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.baseline import Baseline
from picosnitch_exporter.outputs.otlp.mapping import Limits, Mapping
from picosnitch_exporter.state.health import Health

_MIN_POINTS: Final = 50

_log = logging.getLogger(__name__)


class MetricSender(Protocol):
    """`sender.Sender` for metrics."""

    def send(self, data: MetricsData, /) -> Answer:
        """How it ended."""

    def end_by(self, timeout_seconds: float) -> None:
        """Let no request that begins from now on last longer."""

    def close(self) -> None:
        """Ends it."""


class MetricsThread:
    """Sends snapshots; whatever the receiver does, nobody else waits for it.

    What could not be sent is not kept: the next snapshot has it all. `failed` is called, from the
    thread, with what ended it.
    """

    def __init__(  # noqa: PLR0913 - what it sends, from where, and how
        self,
        *,
        sender: MetricSender,
        mapping: Mapping,
        baseline: Baseline | None,
        snapshot: Callable[[], Snapshot],
        health: Health,
        failed: Callable[[BaseException], None],
        interval_seconds: float,
    ) -> None:
        self._sender = sender
        self._mapping = mapping
        self._baseline = baseline
        self._snapshot = snapshot
        self._health = health
        self._failed = failed
        self._interval_seconds = interval_seconds
        self._limits = Limits()
        self._retry_after_seconds = 0.0
        self._last_said: Result = Result.SUCCESS
        self._ending = threading.Event()
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)

    def begin(self) -> None:
        """Deltas count from now on."""
        if self._baseline is not None:
            self._baseline.begin(self._snapshot())

    def start(self) -> None:
        """Start to send, first when the interval has passed."""
        self._thread.start()

    def finish(self, *, timeout_seconds: float) -> None:
        """Ask for the last export and return; it has so long."""
        self._sender.end_by(timeout_seconds)
        self._ending.set()

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for the last export."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        # What goes wrong from here on does so because it is taken away from the thread.
        self._is_abandoned = True
        self._sender.close()

    def _run(self) -> None:
        try:
            pause_seconds = self._interval_seconds
            while not self._ending.wait(pause_seconds):
                began = time.monotonic()
                self._export()
                took = time.monotonic() - began
                # An export that took longer than the interval leaves the missed ones out.
                pause_seconds = max(
                    self._interval_seconds - took % self._interval_seconds,
                    self._retry_after_seconds,
                )
            self._export()
        except BaseException as error:  # noqa: BLE001 - handed on: it has to end the process
            if not self._is_abandoned:
                self._failed(error)

    def _export(self) -> None:
        self._retry_after_seconds = 0.0
        snapshot = self._snapshot()
        for batch in self._mapping.batches(snapshot, self._limits):
            answer = self._sender.send(batch.data)
            self._health.count(catalog.OTLP_EXPORTS, (answer.result,))
            self._say(answer)
            if answer.result.has_arrived:
                if self._baseline is not None:
                    self._baseline.told(batch.positions)
                continue
            self._retry_after_seconds = answer.retry_after_seconds
            if answer.result is Result.TOO_LARGE:
                points = max(_MIN_POINTS, min(batch.points, self._limits.points) // 2)
                self._limits = replace(self._limits, points=points)
            if answer.result is not Result.REFUSED:
                # The next batch would fare no better, and take as long.
                break
        if self._baseline is not None:
            self._baseline.keep(snapshot)

    def _say(self, answer: Answer) -> None:
        """Log what has changed since the last export."""
        if answer.result is self._last_said:
            return
        if answer.result is Result.SUCCESS:
            _log.info(Event("otlp_recovered", {"signal": "metrics"}))
        else:
            _log.warning(
                Event(
                    "otlp_failed",
                    {
                        "signal": "metrics",
                        "result": answer.result.value,
                        "rejected": answer.rejected,
                        "reason": answer.reason,
                    },
                )
            )
        self._last_said = answer.result
