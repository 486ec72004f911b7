"""The official exporters over gRPC, with a stub that sees what the receiver answers."""

import re
from pathlib import Path
from typing import Final, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from picosnitch_exporter.config.otel import OtlpTarget
from picosnitch_exporter.outputs.otlp.answers import (
    MAX_RETRY_AFTER_SECONDS,
    Answer,
    Result,
    Watch,
    of_partial_success,
    shortened,
)

_RETRY_INFO: Final = "google.rpc.retryinfo-bin"
# https://opentelemetry.io/docs/specs/otlp/#failures, and what says that the content is at fault.
_TRANSIENT: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# Go and C++ have the one, tonic the other, each with words about the size; without them it is
# throttling.
_ABOUT_SIZE: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE})
_TOO_LARGE: Final = re.compile("larger than max|too large", re.IGNORECASE)
_ABOUT_CONTENT: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
)

_Request = ExportMetricsServiceRequest | ExportLogsServiceRequest
_Response = ExportMetricsServiceResponse | ExportLogsServiceResponse
_Metadata = tuple[tuple[str, str | bytes], ...]


class _Stub(Protocol):
    def Export(  # noqa: N802 - as the service calls it
        self, request: _Request, *, metadata: _Metadata, timeout: float
    ) -> _Response: ...


class _WatchingStub:
    """Calls as the generated stub does, and notes how it went."""

    def __init__(self, stub: _Stub, watch: Watch) -> None:
        self._stub = stub
        self._watch = watch

    def Export(  # noqa: N802 - as the service calls it
        self, request: _Request, metadata: _Metadata, timeout: float
    ) -> _Response:
        """The response; an error is noted, and goes on up."""
        try:
            response = self._stub.Export(
                request, metadata=metadata, timeout=self._watch.bounded(timeout)
            )
        except grpc.RpcError as error:
            self._watch.answer = _of_error(error)
            raise
        if isinstance(response, ExportMetricsServiceResponse):
            rejected = response.partial_success.rejected_data_points
        else:
            rejected = response.partial_success.rejected_log_records
        self._watch.answer = of_partial_success(rejected, response.partial_success.error_message)
        return response


class _MetricExporter(OTLPMetricExporter):
    def __init__(self, target: OtlpTarget, watch: Watch) -> None:
        self._watch = watch
        super().__init__(
            endpoint=target.url,
            insecure=_is_insecure(target),
            credentials=_credentials(target),
            headers=target.headers,
            timeout=target.timeout_seconds,
            compression=_compression(target),
        )

    def _initialize_channel_and_stub(self) -> None:
        # Called by the constructor, and again where the receiver was away.
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = _WatchingStub(self._client, self._watch)  # type: ignore[assignment,arg-type]


class _LogExporter(OTLPLogExporter):
    def __init__(self, target: OtlpTarget, watch: Watch) -> None:
        self._watch = watch
        super().__init__(
            endpoint=target.url,
            insecure=_is_insecure(target),
            credentials=_credentials(target),
            headers=target.headers,
            timeout=target.timeout_seconds,
            compression=_compression(target),
        )

    def _initialize_channel_and_stub(self) -> None:
        # As above.
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = _WatchingStub(self._client, self._watch)  # type: ignore[assignment,arg-type]


def metric_exporter(target: OtlpTarget, watch: Watch) -> OTLPMetricExporter:
    """The exporter of metrics."""
    return _MetricExporter(target, watch)


def log_exporter(target: OtlpTarget, watch: Watch) -> OTLPLogExporter:
    """The exporter of log records."""
    return _LogExporter(target, watch)


def _is_insecure(target: OtlpTarget) -> bool:
    return target.url.startswith("http://")


def _credentials(target: OtlpTarget) -> grpc.ChannelCredentials | None:
    if _is_insecure(target):
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_content(target.certificate),
        private_key=_content(target.client_key or target.client_certificate),
        certificate_chain=_content(target.client_certificate),
    )


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _compression(target: OtlpTarget) -> grpc.Compression:
    return grpc.Compression.Gzip if target.is_compressed else grpc.Compression.NoCompression


def _of_error(error: grpc.RpcError) -> Answer:
    code = error.code()
    retry_after_seconds = _retry_after_seconds(error)
    if code in _ABOUT_SIZE and _TOO_LARGE.search(error.details() or ""):
        result = Result.TOO_LARGE
    elif code in _TRANSIENT:
        result = Result.UNAVAILABLE
    elif code in _ABOUT_CONTENT:
        result = Result.REFUSED
    else:
        result = Result.DENIED
    return Answer(
        result=result,
        reason=shortened(f"{code.name} {error.details()}"),
        retry_after_seconds=retry_after_seconds,
    )


def _retry_after_seconds(error: grpc.RpcError) -> float:
    for datum in error.trailing_metadata() or ():
        if datum.key == _RETRY_INFO and isinstance(datum.value, bytes):
            return _delay_seconds(datum.value)
    return 0.0


def _delay_seconds(raw: bytes) -> float:
    try:
        delay = RetryInfo.FromString(raw).retry_delay
    except DecodeError:
        return 0.0
    seconds = delay.seconds + delay.nanos / 1_000_000_000
    return float(min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS))
