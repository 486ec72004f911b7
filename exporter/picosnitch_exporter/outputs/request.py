"""The head of an HTTP/1 request, strictly: what is not understood is refused.

Source: RFC 9112. A body is never read: the methods that are answered have none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

MAX_HEAD_BYTES = 16 * 1024
_MAX_HEADERS = 100
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (RFC 9110's word)
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/(\d)\.(\d)")
# A value begins with what is no blank: else each number of blanks before it would be tried.
_HEADER = re.compile(rf"({_TOKEN}):[ \t]*((?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?)")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class RefusedError(Exception):
    """A request that gets an error as its answer; the message is for the client."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for; header names in lower case, repeated ones joined by commas."""

    method: str
    path: str
    """Decoded, without the query."""
    minor_version: int
    """Of HTTP/1."""
    headers: Mapping[str, str]

    @property
    def is_head(self) -> bool:
        """Whether the answer goes without its body."""
        return self.method == "HEAD"


def find_head(received: bytes) -> bytes | None:
    """Cut off the head without its empty line; None while that has not arrived.

    Raises
    ------
    RefusedError
        if the head is, or can only become, longer than `MAX_HEAD_BYTES`.
    """
    # RFC 9112, 2.2: empty lines before the request line are ignored. They count nevertheless: a
    # client that sends nothing else is to be refused some time.
    begin = len(received) - len(received.lstrip(b"\r\n"))
    end = _HEAD_END.search(received, begin)
    if (end.start() if end else len(received)) > MAX_HEAD_BYTES:
        raise RefusedError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"request line and headers are longer than {MAX_HEAD_BYTES} bytes",
        )
    return received[begin : end.start()] if end else None


def parse_head(head: bytes) -> Request:
    """Turn a head into a request.

    Raises
    ------
    RefusedError
        if it is not one, or is of another HTTP than 1.0 and 1.1.
    """
    lines = head.decode("latin-1").replace("\r\n", "\n").split("\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if not match:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "not an HTTP/1 request line")
    method, target, major, minor = match.groups()
    if major != "1":
        raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
    headers = _headers(lines[1:])
    if minor != "0" and "host" not in headers:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "HTTP/1.1 needs a Host header")
    return Request(method=method, path=_path(target), minor_version=int(minor), headers=headers)


def _headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > _MAX_HEADERS:
        raise RefusedError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {_MAX_HEADERS} headers"
        )
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if not match:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "malformed header")
        name = match[1].lower()
        value = match[2].rstrip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _path(target: str) -> str:
    # A proxy may send the absolute form, which a server has to take (RFC 9112, 3.2.2).
    without_authority = _ABSOLUTE.sub("", target, count=1) if target[0] != "/" else target
    path = without_authority.partition("?")[0]
    return unquote(path, errors="replace") or "/"
