"""OTLP receivers that answer what a test tells them to, decoding with the official protobuf."""

import contextlib
import gzip
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

Key = tuple[str, frozenset[tuple[str, object]]]
Request = ExportMetricsServiceRequest | ExportLogsServiceRequest
DEADLINE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one request is answered; `status` is an HTTP status or a gRPC code's name."""

    status: int | str = 0
    headers: dict[str, str] = field(default_factory=dict)
    retry_delay_seconds: int | None = None
    retry_info: bytes | None = None
    """Sent as it stands, where `retry_delay_seconds` can't say it."""
    body: Message | bytes | None = None
    waits_for: threading.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A request as it arrived."""

    request: Request
    headers: dict[str, str]
    size_bytes: int
    seconds: float


class Receiver:
    """What arrived, and what to answer to the next requests; success after those."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.url = ""
        self._changed = threading.Condition()

    def answer(self, *replies: Reply) -> None:
        for reply in replies:
            self.replies.put(reply)

    def take(self, got: Got) -> Reply:
        with self._changed:
            self.got.append(got)
            self._changed.notify_all()
        try:
            reply = self.replies.get_nowait()
        except queue.Empty:
            return Reply()
        if reply.waits_for is not None:
            reply.waits_for.wait(DEADLINE_SECONDS)
        return reply

    def wait(self, condition: Callable[[list[Got]], bool]) -> list[Got]:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.got), DEADLINE_SECONDS), (
                f"{len(self.got)} requests"
            )
            return list(self.got)

    def wait_for_requests(self, number: int) -> list[Got]:
        return self.wait(lambda got: len(got) >= number)


def plain(attributes: Sequence[KeyValue]) -> dict[str, object]:
    """Attributes as Python values; each key stands once."""
    found: dict[str, object] = {}
    for attribute in attributes:
        assert attribute.key not in found
        kind = attribute.value.WhichOneof("value")
        assert kind is not None
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def points(got: Sequence[Got]) -> Iterator[tuple[str, NumberDataPoint]]:
    """All data points with the name of their metric."""
    for one in got:
        assert isinstance(one.request, ExportMetricsServiceRequest)
        for resource in one.request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    assert kind is not None
                    for point in getattr(metric, kind).data_points:
                        yield metric.name, point


def values(got: Sequence[Got]) -> dict[Key, float]:
    """The last value by name and attributes."""
    found = {}
    for name, point in points(got):
        kind = point.WhichOneof("value")
        assert kind is not None
        found[name, frozenset(plain(point.attributes).items())] = getattr(point, kind)
    return found


@contextlib.contextmanager
def http_receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """OTLP over HTTP, at /v1/metrics and /v1/logs."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            size_bytes = len(body)
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            kinds: dict[str, tuple[type[Request], Message]] = {
                "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse()),
                "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse()),
            }
            request, response = kinds[self.path]
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = receiver.take(
                Got(
                    request=request.FromString(body),
                    headers=headers,
                    size_bytes=size_bytes,
                    seconds=time.monotonic(),
                )
            )
            content = response if reply.body is None else reply.body
            raw = content if isinstance(content, bytes) else content.SerializeToString()
            with contextlib.suppress(OSError):
                self.send_response(int(reply.status) or 200)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    receiver.url = f"{scheme}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def grpc_receiver(credentials: grpc.ServerCredentials | None = None) -> Iterator[Receiver]:
    """OTLP over gRPC, with the limit of 4 MiB that receivers have."""
    receiver = Receiver()

    def export(request: Request, context: grpc.ServicerContext, response: Message) -> Message:
        metadata = {name: str(value) for name, value in context.invocation_metadata()}
        reply = receiver.take(
            Got(
                request=request,
                headers=metadata,
                size_bytes=request.ByteSize(),
                seconds=time.monotonic(),
            )
        )
        retry_info = reply.retry_info
        if reply.retry_delay_seconds is not None:
            info = RetryInfo()
            info.retry_delay.seconds = reply.retry_delay_seconds
            retry_info = info.SerializeToString()
        if retry_info is not None:
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", retry_info),))
        if reply.status:
            context.abort(grpc.StatusCode[str(reply.status)], "told to")
        assert not isinstance(reply.body, bytes)
        return response if reply.body is None else reply.body

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Request, context: grpc.ServicerContext) -> Message:  # noqa: N802
            return export(request, context, ExportMetricsServiceResponse())

    class Logs(LogsServiceServicer):
        def Export(self, request: Request, context: grpc.ServicerContext) -> Message:  # noqa: N802
            return export(request, context, ExportLogsServiceResponse())

    server = grpc.server(ThreadPoolExecutor(4))
    add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
        receiver.url = f"http://localhost:{port}"
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
        receiver.url = f"https://localhost:{port}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
