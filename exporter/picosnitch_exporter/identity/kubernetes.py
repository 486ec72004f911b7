"""Asks the API server for the pods of this node, and watches them.

As https://kubernetes.io/docs/reference/using-api/api-concepts/ says: a list gives a version, a
watch goes on from it and moves it on, with BOOKMARK events too; 410 Gone, as a status or as an
ERROR event, means that the version is too old and the list has to be fetched anew. Whatever else
goes wrong is tried again, later each time. The token is read for each request, as the kubelet
replaces it.

The standard library is enough for two requests; the official client would take 40 MB.
"""

import contextlib
import http.client
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode, urlsplit

from picosnitch_exporter.config.kubernetes import KubernetesAccess
from picosnitch_exporter.identity.pods import Pods, mapping
from picosnitch_exporter.logging_format import Event

_log = logging.getLogger(__name__)

WATCH_SECONDS = 300
_LATE_SECONDS = 30.0
"""After the end that the server was asked for; a connection without a word for longer is dead."""
_CONNECT_SECONDS = 10.0
_PAGE_PODS = 100
_MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of one page: etcd holds no object above 1.5 MiB."""
_MAX_EVENT_BYTES = 4 * 1024 * 1024
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 60.0
_CLOSE_SECONDS = 2.0
_CHUNK_BYTES = 65_536
_MAX_TOKEN_BYTES = 65_536


class _GoneError(Exception):
    """The version is too old."""


class _RefusedError(Exception):
    """The server does not want to answer; the text is its status."""


class PodWatch:
    """A thread that keeps `pods` up to date.

    `count` is told of each request: what it was for and how it ended. `failed` is told what ended
    the thread. `jitter` is between 0 and 1.
    """

    def __init__(  # noqa: PLR0913  (what it asks, tells, and is tested by)
        self,
        access: KubernetesAccess,
        pods: Pods,
        *,
        count: Callable[[str, str], None],
        failed: Callable[[BaseException], None],
        watch_seconds: int = WATCH_SECONDS,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._access = access
        self._pods = pods
        self._count = count
        self._failed = failed
        self._watch_seconds = watch_seconds
        self._first_pause_seconds = first_pause_seconds
        self._jitter = jitter
        self._pause_seconds = first_pause_seconds
        self._version = ""
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubernetes", daemon=True)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop, also in the middle of a watch."""
        self._closing.set()
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._follow()
        except BaseException as error:  # noqa: BLE001  (handed on: it has to end the process)
            _log.exception(Event("kubernetes_failed"))
            self._failed(error)

    def _follow(self) -> None:
        """One list or watch, and a pause if it went wrong."""
        request = "watch" if self._version else "list"
        try:
            if self._version:
                self._watch()
            else:
                self._version = self._list()
        except _GoneError:
            # Not at once for ever, should a server say nothing else.
            self._count(request, "gone")
            self._version = ""
            self._rest()
        except (OSError, http.client.HTTPException, ValueError, _RefusedError) as error:
            if self._closing.is_set():
                return
            self._count(request, "refused" if isinstance(error, _RefusedError) else "error")
            self._pods.is_current = False
            _log.warning(
                Event(
                    "kubernetes_unavailable",
                    {
                        "url": self._access.url,
                        "error": str(error) or type(error).__name__,
                        "meaning": "new containers go by their ids until it answers",
                    },
                )
            )
            self._rest()
        else:
            self._count(request, "ok")
            self._pause_seconds = self._first_pause_seconds
        finally:
            self._disconnect()

    def _rest(self) -> None:
        self._closing.wait(self._pause_seconds * (0.5 + self._jitter() / 2))
        self._pause_seconds = min(2 * self._pause_seconds, _LAST_PAUSE_SECONDS)

    def _list(self) -> str:
        """Takes in all pods; the version from which to watch."""
        # From the server's cache: a few thousand nodes that ask at once must not reach etcd.
        query = {"limit": str(_PAGE_PODS), "resourceVersion": "0"}
        while True:
            answer = self._get(query, timeout_seconds=_LATE_SECONDS)
            body = _decode(answer.read(_MAX_BODY_BYTES))
            metadata = mapping(body.get("metadata"))
            items = body.get("items")
            for pod in items if isinstance(items, list) else ():
                self._pods.learn(pod)
            token = metadata.get("continue")
            if not token:
                break
            query = {"limit": str(_PAGE_PODS), "continue": str(token)}
        self._pods.is_current = True
        _log.info(Event("kubernetes_listed", {"pods": len(self._pods)}))
        return _version(metadata)

    def _watch(self) -> None:
        """Takes in what changes until the server ends it, as it was asked to."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(self._watch_seconds),
        }
        answer = self._get(query, timeout_seconds=self._watch_seconds + _LATE_SECONDS)
        self._pods.is_current = True
        began = time.monotonic()
        for line in _lines(answer):
            event = _decode(line)
            kind, subject = event.get("type"), mapping(event.get("object"))
            if kind == "ERROR":
                if subject.get("code") == http.client.GONE:
                    raise _GoneError
                raise _RefusedError(str(subject.get("message", "")))
            if kind in {"ADDED", "MODIFIED", "DELETED"}:
                self._pods.learn(subject, is_deleted=kind == "DELETED")
            self._version = _version(mapping(subject.get("metadata")))
            self._pause_seconds = self._first_pause_seconds
        if time.monotonic() - began < self._first_pause_seconds:
            self._closing.wait(self._first_pause_seconds)

    def _get(self, query: dict[str, str], *, timeout_seconds: float) -> http.client.HTTPResponse:
        self._disconnect()
        parts = urlsplit(self._access.url)
        connection = self._connect(parts.scheme, parts.hostname or "", parts.port)
        selector = {"fieldSelector": f"spec.nodeName={self._access.node_name}"}
        connection.request(
            "GET",
            f"{parts.path}/api/v1/pods?{urlencode(selector | query)}",
            headers={
                "Authorization": f"Bearer {self._token()}",
                "Accept": "application/json",
                "User-Agent": "picosnitch-exporter",
            },
        )
        connection.sock.settimeout(timeout_seconds)
        answer = connection.getresponse()
        if answer.status == http.client.GONE:
            raise _GoneError
        if answer.status != http.client.OK:
            raise _RefusedError(f"{answer.status} {answer.reason}")
        return answer

    def _connect(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if scheme == "https":
            context = ssl.create_default_context(cafile=str(self._access.ca_file))
            connection = http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
        self._connection = connection
        connection.connect()
        self._socket = connection.sock
        if self._closing.is_set():
            # Set before close() could see this socket, which nobody would shut down.
            raise ConnectionAbortedError
        # A server that has vanished without a word is noticed within two minutes.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        return connection

    def _token(self) -> str:
        with self._access.token_file.open(encoding="ascii") as file:
            return file.read(_MAX_TOKEN_BYTES).strip()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._socket = None
        if connection is not None:
            connection.close()


def _decode(data: bytes) -> Mapping[str, object]:
    """A JSON object. Raises ValueError where it is none."""
    try:
        return mapping(json.loads(data))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _version(metadata: Mapping[str, object]) -> str:
    """What a watch can go on from. Raises ValueError where there is nothing."""
    version = metadata.get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise ValueError("an answer without resourceVersion")
    return version


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The events of a watch, a line each.

    Raises ValueError where one is longer than an object can be.
    """
    rest = b""
    while data := answer.read1(_CHUNK_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        yield from filter(None, lines)
        if len(rest) > _MAX_EVENT_BYTES:
            raise ValueError("an event is too long")
