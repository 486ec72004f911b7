"""Posts events to a URL as JSON, in a thread."""

import json
import logging
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.client import Body, Client, RequestError
from picosnitch_exporter.checks.events import Notice, compose, moment
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.state.cardinality import Counts

CAPACITY: Final = 1000
"""Events that wait while the receiver is away."""
BATCH: Final = 100
TOTAL_SECONDS: Final = 20.0
FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 60.0
MAX_ATTEMPTS: Final = 8
"""Of one batch, over some two minutes."""
_JOIN_SECONDS = 0.5
_CHANNEL = "webhook"
# What will not be better the next time (RFC 9110, section 15.5), but for time-outs and quotas.
_FINAL_STATUSES = range(HTTPStatus.MULTIPLE_CHOICES, HTTPStatus.INTERNAL_SERVER_ERROR)
_RETRIED_STATUSES = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)

_log = logging.getLogger(__name__)


class Webhook:
    """Events in, POST requests out. All methods return at once.

    `failed` is called where the thread can't go on, which is a bug.
    """

    def __init__(
        self,
        url: str,
        *,
        client: Client,
        health: Counts,
        failed: Callable[[BaseException], None],
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._url = url
        self._client = client
        self._health = health
        self._failed = failed
        self._first_retry_seconds = first_retry_seconds
        self._condition = threading.Condition()
        self._waiting: deque[Notice] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Begins to post."""
        self._thread.start()

    def tell(self, notices: Sequence[Notice]) -> None:
        """Takes events of one kind."""
        with self._condition:
            room = max(0, CAPACITY - len(self._waiting))
            self._waiting.extend(notices[:room])
            self._condition.notify()
        if len(notices) > room:
            self._count("dropped", len(notices) - room)

    def close(self) -> None:
        """Ends the thread; what waits is lost, and counted."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._client.abort()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            while batch := self._next():
                self._count(self._post(batch), len(batch))
        except Exception as error:  # noqa: BLE001  (handed to the main loop, which ends with it)
            self._failed(error)

    def _next(self) -> list[Notice]:
        with self._condition:
            while not self._waiting and not self._is_closed:
                self._condition.wait()
            if self._is_closed:
                self._count("dropped", len(self._waiting))
                return []
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def _post(self, batch: list[Notice]) -> str:
        """Delivers a batch or gives it up; how it ended."""
        content = document(batch)
        pause_seconds = self._first_retry_seconds
        for attempt in range(1, MAX_ATTEMPTS + 1):
            problem, is_final = self._attempt(content)
            if not problem:
                return "sent"
            if is_final or attempt == MAX_ATTEMPTS or self._is_closed:
                break
            with self._condition:
                self._condition.wait_for(lambda: self._is_closed, pause_seconds)
            pause_seconds = min(2 * pause_seconds, LAST_RETRY_SECONDS)
        _log.warning(Event("webhook_failed", {"error": problem, "events": len(batch)}))
        return "failed"

    def _attempt(self, content: bytes) -> tuple[str, bool]:
        """What went wrong, empty if nothing; and whether it would the next time."""
        body = Body(
            size_bytes=len(content), content_type="application/json", pieces=iter([content])
        )
        try:
            answer = self._client.request("POST", self._url, body=body, total_seconds=TOTAL_SECONDS)
        except RequestError as error:
            return f"{error.result}: {error}", False
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return "", True
        is_final = answer.status in _FINAL_STATUSES and answer.status not in _RETRIED_STATUSES
        return f"HTTP status {answer.status}", is_final

    def _count(self, result: str, amount: int) -> None:
        if amount:
            self._health.count(catalog.NOTIFICATIONS, (_CHANNEL, result), amount)


def document(batch: Sequence[Notice]) -> bytes:
    """The JSON object that is posted; `text` is what chat services show."""
    by_kind: dict[str, list[Notice]] = {}
    for notice in batch:
        by_kind.setdefault(notice.kind, []).append(notice)
    messages = [compose(notices) for notices in by_kind.values()]
    host = platform.node()
    value = {
        "version": 1,
        "source": "picosnitch-exporter",
        "host": host,
        "sent": _stamp(time.time()),
        "text": "\n".join(f"{host}: {each.title}\n{each.body}" for each in messages),
        "events": [
            {
                "event": notice.kind,
                "severity": notice.severity,
                "time": _stamp(notice.time_seconds),
                "message": notice.text,
                **notice.fields(),
            }
            for notice in batch
        ],
    }
    return json.dumps(value).encode("ascii")


def _stamp(seconds: float) -> str:
    return moment(seconds).isoformat(timespec="seconds").replace("+00:00", "Z")
