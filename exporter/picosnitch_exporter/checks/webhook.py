"""Posts events to a URL as JSON, in a thread."""

import html
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
from picosnitch_exporter.checks.events import Notice, Severity, compose, moment
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.state.cardinality import Counts

CAPACITY: Final = 1000
"""Events that wait while the receiver is away; of alerts as many more."""
BATCH: Final = 100
BATCH_BYTES: Final = 256 * 1024
"""Of the events of a batch, if there are several. One whose names have 4 KB takes up to 40 KB, and
receivers refuse what is too long (nginx: above 1 MB)."""
TOTAL_SECONDS: Final = 20.0
FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 60.0
MAX_ATTEMPTS: Final = 8
"""Of one batch, over some two minutes."""
_JOIN_SECONDS = 0.5
_CHANNEL = "webhook"
# What will not be better the next time (RFC 9110, section 15.5), but for time-outs and quotas.
_FINAL_STATUSES = range(HTTPStatus.MULTIPLE_CHOICES, HTTPStatus.INTERNAL_SERVER_ERROR)
_TOO_LARGE = f"HTTP status {HTTPStatus.REQUEST_ENTITY_TOO_LARGE}"
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
        self._alerts: deque[Notice] = deque()
        """They go first: others, which anybody can cause, must not keep them waiting."""
        self._batch_bytes = BATCH_BYTES
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Begins to post."""
        self._thread.start()

    def tell(self, notices: Sequence[Notice]) -> None:
        """Takes events of one kind."""
        with self._condition:
            queue = self._queue(notices[0])
            room = max(0, CAPACITY - len(queue))
            queue.extend(notices[:room])
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
                problem = self._post(batch)
                if problem == _TOO_LARGE and len(batch) > 1:
                    self._put_back(batch)
                    continue
                if problem:
                    _log.warning(Event("webhook_failed", {"error": problem, "events": len(batch)}))
                self._count("failed" if problem else "sent", len(batch))
        except Exception as error:  # noqa: BLE001  (handed to the main loop, which ends with it)
            self._failed(error)

    def _next(self) -> list[Notice]:
        with self._condition:
            while not self._alerts and not self._waiting and not self._is_closed:
                self._condition.wait()
            if self._is_closed:
                self._count("dropped", len(self._alerts) + len(self._waiting))
                return []
            queue = self._alerts or self._waiting
            batch = [queue.popleft()]
            size_bytes = _size(batch[0])
            while queue and len(batch) < BATCH:
                size_bytes += _size(queue[0])
                if size_bytes > self._batch_bytes:
                    break
                batch.append(queue.popleft())
            return batch

    def _put_back(self, batch: list[Notice]) -> None:
        """Has it sent in smaller ones, as all that comes after it."""
        with self._condition:
            self._batch_bytes = sum(map(_size, batch)) // 2
            self._queue(batch[0]).extendleft(reversed(batch))

    def _queue(self, notice: Notice) -> deque[Notice]:
        return self._alerts if notice.severity is Severity.ALERT else self._waiting

    def _post(self, batch: list[Notice]) -> str:
        """Delivers a batch or gives it up; what went wrong at last, empty if nothing."""
        content = document(batch)
        problem = ""
        pause_seconds = self._first_retry_seconds
        for attempt in range(1, MAX_ATTEMPTS + 1):
            problem, is_final = self._attempt(content)
            if not problem or is_final or attempt == MAX_ATTEMPTS or self._is_closed:
                break
            with self._condition:
                self._condition.wait_for(lambda: self._is_closed, pause_seconds)
            pause_seconds = min(2 * pause_seconds, LAST_RETRY_SECONDS)
        return problem

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
        "text": "\n".join(f"{host}: {each.title}\n{_code(each.body)}" for each in messages),
        "events": [_event(notice) for notice in batch],
    }
    return json.dumps(value).encode("ascii")


def _code(body: str) -> str:
    """The lines as code, in which nothing that strangers choose is markup, a link or a mention.

    Sources: Slack's "Formatting message text" (`&`, `<` and `>` are its only control characters, in
    code as well), CommonMark 0.31 (code spans). Mattermost mentions nobody who is named in code.
    """
    lines = html.escape(body, quote=False).replace("`", "'").split("\n")
    return "\n".join(f"`{line}`" for line in lines if line)


def _event(notice: Notice) -> dict[str, str | int]:
    return {
        "event": notice.kind,
        "severity": notice.severity,
        "time": _stamp(notice.time_seconds),
        "message": notice.text,
        **notice.fields(),
    }


def _size(notice: Notice) -> int:
    return len(json.dumps(_event(notice)))


def _stamp(seconds: float) -> str:
    return moment(seconds).isoformat(timespec="seconds").replace("+00:00", "Z")
