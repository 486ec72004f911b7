"""What became of one request, which the official exporters tell as success or failure only.

Sources: OTLP 1.x (partial success, retryable statuses, throttling), RFC 9110 (Retry-After),
google/rpc/error_details.proto (RetryInfo).
"""

import math
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final

MAX_RETRY_AFTER_SECONDS: Final = 600.0
"""A receiver that asks for more is asked again by then."""
_MAX_REASON_CHARACTERS: Final = 300


class Result(StrEnum):
    """How a request ended, as `otlp_exports_total` counts it."""

    SUCCESS = "success"
    PARTIAL = "partial"
    """Taken, but for what it rejects."""
    REFUSED = "refused"
    """This content is refused, and will be again."""
    DENIED = "denied"
    """Nobody there takes any: credentials, path or permission are wrong."""
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    """No answer in time, or one that says later."""

    @property
    def has_arrived(self) -> bool:
        """Whether it needs no other attempt."""
        return self in (Result.SUCCESS, Result.PARTIAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a request ended."""

    result: Result
    reason: str = ""
    rejected: int = 0
    """Points or records that were not taken."""
    retry_after_seconds: float = 0.0
    """How long the receiver asks to be left alone."""


# Set by the transport, within the call of the thread that reads it afterwards.
@dataclass(slots=True)
class Watch:
    """Sees the answers below an official exporter, and bounds its time."""

    answer: Answer | None = None
    deadline: float = field(default=math.inf)
    """On the monotonic clock."""

    def bounded(self, timeout_seconds: float | None) -> float:
        """A time-out that ends by the deadline."""
        left = max(self.deadline - time.monotonic(), 0.001)
        return left if timeout_seconds is None else min(timeout_seconds, left)

    def take(self) -> Answer | None:
        """The last answer, once."""
        answer, self.answer = self.answer, None
        return answer


_TRANSIENT: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_ABOUT_CONTENT: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})


def of_status(status: int, reason: str, retry_after: str | None, *, now: float) -> Answer:
    """The answer that an HTTP status other than 2xx is; `now` in Unix seconds."""
    if status in _TRANSIENT:
        result = Result.UNAVAILABLE
    elif status in _ABOUT_CONTENT:
        result = Result.REFUSED
    elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        result = Result.TOO_LARGE
    else:
        # A redirection is among these: exporters do not follow, and the official one calls it
        # success.
        result = Result.DENIED
    return Answer(
        result=result,
        reason=shortened(f"{status} {reason}"),
        retry_after_seconds=parse_retry_after(retry_after, now=now),
    )


def of_partial_success(rejected: int, message: str) -> Answer:
    """The answer of a receiver that took it; with a message alone, it warns."""
    rejected = max(rejected, 0)  # it is signed on the wire
    return Answer(
        result=Result.PARTIAL if rejected else Result.SUCCESS,
        reason=shortened(message),
        rejected=rejected,
    )


def parse_retry_after(text: str | None, *, now: float) -> float:
    """Seconds to wait, within bounds; 0 where there is no (right) Retry-After."""
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text.strip()).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    if not math.isfinite(seconds):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def shortened(text: str) -> str:
    """A reason that fits in a line of the log."""
    return text.strip()[:_MAX_REASON_CHARACTERS]
