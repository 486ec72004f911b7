"""The official exporters over HTTP, with a session that sees what the receiver answers."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, cast

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, Timeout
from urllib3.connection import HTTPConnection

from picosnitch_exporter.config.otel import OtlpTarget
from picosnitch_exporter.outputs.otlp.answers import (
    Answer,
    Result,
    Watch,
    of_partial_success,
    of_status,
    shortened,
)

_SUCCESS = range(200, 300)
_MAX_ANSWER_BYTES: Final = 64 * 1024
"""What is beyond is not read: a partial success is a number and a sentence."""


def metric_exporter(target: OtlpTarget, watch: Watch) -> OTLPMetricExporter:
    """The exporter of metrics."""
    return OTLPMetricExporter(
        endpoint=target.url,
        certificate_file=_path(target.certificate),
        client_key_file=_path(target.client_key),
        client_certificate_file=_path(target.client_certificate),
        headers=dict(target.headers),
        timeout=target.timeout_seconds,
        compression=Compression.Gzip if target.is_compressed else Compression.NoCompression,
        session=_session(target, watch, _rejected_points),
    )


def log_exporter(target: OtlpTarget, watch: Watch) -> OTLPLogExporter:
    """The exporter of log records."""
    return OTLPLogExporter(
        endpoint=target.url,
        certificate_file=_path(target.certificate),
        client_key_file=_path(target.client_key),
        client_certificate_file=_path(target.client_certificate),
        headers=dict(target.headers),
        timeout=target.timeout_seconds,
        compression=Compression.Gzip if target.is_compressed else Compression.NoCompression,
        session=_session(target, watch, _rejected_records),
    )


def _path(path: object | None) -> str | None:
    return None if path is None else str(path)


class _BoundedConnection(HTTPConnection):
    """Reads an answer whole, within the time-out and `_MAX_ANSWER_BYTES`, and unpacks nothing.

    The time-out of a socket is for each read: a byte now and then would keep it for ever.
    """

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        """The answer with its body in memory; raises TimeoutError where it is late."""
        with self._bounded_time(), contextlib.closing(super().getresponse()) as answer:
            content = answer.read(_MAX_ANSWER_BYTES, decode_content=False)
            if not answer.closed:
                # The next answer would begin with the rest of this one.
                self.close()
        answer.headers.discard("content-encoding")
        return HTTPResponse(
            body=io.BytesIO(content),
            headers=answer.headers,
            status=answer.status,
            version=answer.version,
            reason=answer.reason,
            preload_content=False,
            enforce_content_length=False,
        )

    @contextlib.contextmanager
    def _bounded_time(self) -> Iterator[None]:
        # A number, as `send` gives one.
        seconds = cast("float", self.timeout)
        # A socket of its own for the same connection, which the end of the answer may close.
        watched = socket.socket(fileno=socket.dup(self.sock.fileno()))
        deadline = time.monotonic() + seconds
        timer = threading.Timer(seconds, _shut_down, [watched])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            watched.close()
            # Cut off, it may look like an answer that ends there.
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no whole answer in {seconds:.1f} s")


def _shut_down(watched: socket.socket) -> None:
    with contextlib.suppress(OSError):
        watched.shutdown(socket.SHUT_RDWR)


class _WatchingAdapter(HTTPAdapter):
    """Sends as HTTPAdapter does, and notes how it went."""

    def __init__(
        self,
        target: OtlpTarget,
        watch: Watch,
        partial_success: Callable[[bytes], Answer],
    ) -> None:
        super().__init__()
        self._certificate = _path(target.certificate)
        self._watch = watch
        self._partial_success = partial_success

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,  # noqa: FBT001
        proxies: dict[str, str] | None = None,
        cert: str | tuple[str, str] | None = None,
    ) -> HTTPConnectionPool:
        """The pool, also of a proxy, with connections that are bounded."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        known = pool.ConnectionCls
        if not issubclass(known, _BoundedConnection):
            # Of what it has, as that may be plain, with TLS or through SOCKS.
            pool.ConnectionCls = type("BoundedConnection", (_BoundedConnection, known), {})
        return pool

    def send(  # noqa: PLR0913, PLR0917 - the interface of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: object = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        """The response; an error of the connection is noted, and goes on up."""
        seconds = timeout if isinstance(timeout, int | float) else None
        try:
            response = super().send(
                request,
                stream=stream,
                # Connecting is part of it. requests takes urllib3's, too, whatever its types say.
                timeout=Timeout(total=self._watch.bounded(seconds)),  # type: ignore[arg-type]
                # To requests, REQUESTS_CA_BUNDLE goes before what its session was told.
                verify=self._certificate or verify,
                cert=cert,
                proxies=proxies,
            )
            content = response.content
            response.close()
        except requests.RequestException as error:
            self._watch.answer = Answer(
                result=Result.UNAVAILABLE, reason=shortened(f"{type(error).__name__}: {error}")
            )
            raise
        if response.status_code in _SUCCESS:
            self._watch.answer = self._partial_success(content)
        else:
            self._watch.answer = of_status(
                response.status_code,
                response.reason,
                response.headers.get("retry-after"),
                now=time.time(),
            )
        return response


def _session(
    target: OtlpTarget, watch: Watch, partial_success: Callable[[bytes], Answer]
) -> requests.Session:
    session = requests.Session()
    # As there is something, requests does not put a password of ~/.netrc in place of our headers.
    session.auth = _unchanged
    # Packed, a few bytes would be as many as they like.
    session.headers["Accept-Encoding"] = "identity"
    adapter = _WatchingAdapter(target, watch, partial_success)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _rejected_points(content: bytes) -> Answer:
    response = ExportMetricsServiceResponse()
    if not _decoded(response, content):
        return Answer(result=Result.SUCCESS)
    partial = response.partial_success
    return of_partial_success(partial.rejected_data_points, partial.error_message)


def _rejected_records(content: bytes) -> Answer:
    response = ExportLogsServiceResponse()
    if not _decoded(response, content):
        return Answer(result=Result.SUCCESS)
    partial = response.partial_success
    return of_partial_success(partial.rejected_log_records, partial.error_message)


def _decoded(
    response: ExportMetricsServiceResponse | ExportLogsServiceResponse, content: bytes
) -> bool:
    """False where a receiver answers with something else, as some do."""
    try:
        response.ParseFromString(content)
    except DecodeError:
        return False
    return True
