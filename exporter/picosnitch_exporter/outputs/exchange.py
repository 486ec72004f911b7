"""One request and its answer on a connection: TLS, authentication, the site, and the sending."""

import logging
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import chain

from picosnitch_exporter import catalog
from picosnitch_exporter.outputs.connection import Connection
from picosnitch_exporter.outputs.request import RefusedError, Request
from picosnitch_exporter.outputs.site import Response, Site, refusal
from picosnitch_exporter.outputs.web_rules import WebRules
from picosnitch_exporter.outputs.web_watch import WebConfig
from picosnitch_exporter.state.health import Health

_REPORT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Exchange:
    """Serves connections; any number of threads may do so at once."""

    def __init__(self, *, site: Site, web_config: WebConfig, health: Health) -> None:
        self._site = site
        self._web_config = web_config
        self._health = health
        self._lock = threading.Lock()
        self._reported_at = -_REPORT_SECONDS

    def serve(self, connection: Connection) -> str:
        """Do everything up to, but not including, the close.

        The result is empty, or says why the client got no whole answer, as the label `reason`.
        """
        try:
            self._converse(connection)
        except TimeoutError:
            return "timeout"
        except OSError as error:
            if not isinstance(error, connection.tls_errors):
                return "reset"
            if getattr(error, "reason", None) == "HTTP_REQUEST":
                answer = refusal(HTTPStatus.BAD_REQUEST, "this port speaks HTTPS")
                connection.send_plain(answer.head(None, {}) + b"".join(answer.chunks()))
            return "tls"
        except Exception:  # noqa: BLE001  (of one request; the next one may do better)
            self._report()
            # The client must not take what it has got for all.
            connection.abort()
            return "failed"
        return ""

    def _converse(self, connection: Connection) -> None:
        rules = self._web_config.current()
        if rules.tls is not None:
            rules.check_certificate(connection.start_tls(rules.tls))
        try:
            request = connection.receive_request()
        except RefusedError as error:
            response = refusal(error.status, str(error))
            self._send(connection, None, response, response.chunks(), rules)
            connection.finish()
            return
        if request is None:
            return
        started = time.monotonic()
        response, chunks = self._prepared(connection, request, rules)
        self._send(connection, request, response, chunks, rules)
        if response.handler == "telemetry":
            self._health.observe(catalog.SCRAPE_DURATION, (), time.monotonic() - started)
        connection.finish()

    def _prepared(
        self, connection: Connection, request: Request, rules: WebRules
    ) -> tuple[Response, Iterator[bytes]]:
        """Make the answer up to its first chunk: what fails until there can still be answered."""
        try:
            response = self._response(connection, request, rules)
            chunks = response.chunks()
            first = next(chunks, b"")
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001  (answered, logged and counted)
            self._report()
            response = refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the exporter's log says why")
            return response, response.chunks()
        return response, chain((first,), chunks)

    def _response(self, connection: Connection, request: Request, rules: WebRules) -> Response:
        # All paths are protected, as with Prometheus's exporter-toolkit.
        authorization = request.headers.get("authorization", "")
        if not self._web_config.authenticate(
            rules, authorization, timeout_seconds=connection.remaining_seconds()
        ):
            return refusal(
                HTTPStatus.UNAUTHORIZED,
                "user name and password are needed",
                headers={"WWW-Authenticate": 'Basic realm="picosnitch-exporter", charset="UTF-8"'},
            )
        return self._site.respond(request)

    def _send(
        self,
        connection: Connection,
        request: Request | None,
        response: Response,
        chunks: Iterator[bytes],
        rules: WebRules,
    ) -> None:
        # Counted before it is sent: a scrape is to find itself, and a client to find its request.
        code = str(response.status.value)
        self._health.count(catalog.HTTP_REQUESTS, (response.handler, code))
        head = response.head(request, rules.headers)
        if request is not None and request.is_head:
            connection.send(head)
            return
        for piece in _framed(chunks) if response.is_chunked(request) else chunks:
            connection.send(head + piece)
            head = b""

    def _report(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = now - self._reported_at >= _REPORT_SECONDS
            if due:
                self._reported_at = now
        if due:
            _log.exception("http_request_failed")


def _framed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # RFC 9112, 7.1. An empty chunk would end the body.
    for chunk in chunks:
        if chunk:
            yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"
