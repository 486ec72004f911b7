"""HTTP(S) requests to services that may be slow, wrong or hostile: bounded in time and size.

No redirect is followed, so that a key is never sent to anybody else. http.client is used as it is:
requests or vt-py would cost 25 to 33 MB more.
"""

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from picosnitch_exporter import __version__
from picosnitch_exporter.errors import PicosnitchError

MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
"""Reports of VirusTotal on much examined files have some 500 KB. As objects, a list of
empty lists of this length takes 52 MB for a moment."""
SOCKET_SECONDS: Final = 15.0
"""For each step: to connect, to send a piece, to get one."""
_PIECE_BYTES = 64 * 1024
_DEFAULT_PORTS = {"http": 80, "https": 443}


class RequestError(PicosnitchError):
    """No usable answer; `result` says why in one word, as metrics count it.

    timeout, tls, unreachable or garbage. The message never repeats URL or headers: they may hold
    a secret.
    """

    def __init__(self, result: str, message: str) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is sent: pieces that add up to `size_bytes`."""

    size_bytes: int
    content_type: str
    pieces: Iterable[bytes] = field(repr=False)


class Client:
    """Makes one request at a time; `abort` may be called by any thread."""

    def __init__(
        self,
        *,
        proxy_url: str | None = None,
        socket_seconds: float = SOCKET_SECONDS,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._proxy = urlsplit(proxy_url) if proxy_url else None
        self._socket_seconds = socket_seconds
        self._context = context
        self._is_aborted = False
        self._deadline = 0.0
        self._lock = threading.Lock()
        self._under_way: socket.socket | None = None

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        total_seconds: float,
    ) -> Answer:
        """The answer, whatever its status.

        Raises
        ------
        RequestError
            if there is none in time, or it can't be read.
        """
        parts = urlsplit(url)
        sent = {"User-Agent": f"picosnitch-exporter/{__version__}", "Accept": "application/json"}
        sent |= headers or {}
        if body is not None:
            sent |= {"Content-Type": body.content_type, "Content-Length": str(body.size_bytes)}
        with _translated(), self._watched(total_seconds):
            connection, target = self._prepare(parts, sent)
            try:
                connection.connect()
                connection.request(method, target, headers=sent, body=_pieces(body))
                return _read(connection.getresponse())
            finally:
                connection.close()

    def abort(self) -> None:
        """Ends the request that is under way, and lets no other begin."""
        with self._lock:
            self._is_aborted = True
        self._end()

    def _prepare(
        self, parts: SplitResult, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, str]:
        """A connection that is not open yet, and what to ask for on it."""
        host, port = parts.hostname or "", parts.port
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        via = self._proxy or parts
        via_host = via.hostname or ""
        # Never without a port: http.client would look for one in an IPv6 address.
        via_port = via.port or _DEFAULT_PORTS[via.scheme]
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = self._context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                via_host, via_port, timeout=self._socket_seconds, context=context
            )
            if self._proxy is not None:
                connection.set_tunnel(host, port or 443, headers=self._proxy_headers())
        else:
            connection = http.client.HTTPConnection(
                via_host, via_port, timeout=self._socket_seconds
            )
            if self._proxy is not None:
                headers |= self._proxy_headers()
                target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{target}"
        if parts.username:
            headers["Authorization"] = _basic(parts)
        # The only way to the socket while http.client waits for the proxy and for TLS.
        connection._create_connection = self._open  # type: ignore[attr-defined]  # noqa: SLF001
        return connection, target

    def _proxy_headers(self) -> dict[str, str]:
        if self._proxy is None or not self._proxy.username:
            return {}
        return {"Proxy-Authorization": _basic(self._proxy)}

    def _open(
        self, address: tuple[str, int], timeout: float, _source_address: object
    ) -> socket.socket:
        """What socket.create_connection does, with a socket that is watched from the beginning."""
        failure = OSError("the name has no address")
        host, port = address
        for family, kind, protocol, _name, where in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                self._watch(sock)
                sock.settimeout(timeout)
                sock.connect(where)
                # What came between the two could not be told to a socket without a connection.
                self._watch(sock)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _watch(self, sock: socket.socket) -> None:
        """Has `abort` and the end of the time end it; raises TimeoutError if they have come."""
        with self._lock:
            if self._is_aborted or time.monotonic() >= self._deadline:
                raise TimeoutError
            if self._under_way is not None:
                self._under_way.close()
            # A socket of its own for the same connection, as TLS detaches the one below it.
            self._under_way = sock.dup()

    @contextlib.contextmanager
    def _watched(self, total_seconds: float) -> Iterator[None]:
        """Ends the connection when time is up: a drop now and then would keep it for ever."""
        self._deadline = deadline = time.monotonic() + total_seconds
        timer = threading.Timer(total_seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException, RequestError) as error:
            if time.monotonic() >= deadline:
                raise RequestError("timeout", f"no answer in {total_seconds:.0f} s") from error
            raise
        else:
            if time.monotonic() >= deadline:
                raise RequestError("timeout", f"no whole answer in {total_seconds:.0f} s")
        finally:
            timer.cancel()
            timer.join()
            with self._lock:
                if self._under_way is not None:
                    self._under_way.close()
                self._under_way = None

    def _end(self) -> None:
        with self._lock:
            if self._under_way is not None:
                with contextlib.suppress(OSError):
                    self._under_way.shutdown(socket.SHUT_RDWR)


def _basic(parts: SplitResult) -> str:
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def _pieces(body: Body | None) -> Iterable[bytes] | None:
    return None if body is None else body.pieces


def _read(response: http.client.HTTPResponse) -> Answer:
    content = bytearray()
    while piece := response.read1(_PIECE_BYTES):
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise RequestError("garbage", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    missing = response.length or 0
    if missing:
        raise RequestError("garbage", f"the answer ended {missing} bytes too early")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(status=response.status, headers=headers, body=bytes(content))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise RequestError("timeout", "no answer in time") from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "failed"
        raise RequestError("tls", f"TLS: {reason}") from error
    except (http.client.HTTPException, UnicodeError, ValueError) as error:
        raise RequestError("garbage", f"no HTTP answer: {type(error).__name__}") from error
    except OSError as error:
        # Without a number it is http.client that speaks, of what a proxy has answered.
        raise RequestError("unreachable", error.strerror or str(error)[:200]) from error
