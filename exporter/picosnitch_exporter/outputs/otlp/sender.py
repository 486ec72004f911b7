"""An official exporter, and what became of what it was given."""

import logging
import time
from collections.abc import Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData

from picosnitch_exporter.config.otel import OtlpTarget
from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.outputs.otlp.answers import Answer, Result, Watch, shortened

Data = TypeVar("Data")
_Data_contra = TypeVar("_Data_contra", contravariant=True)


class OfficialExporter(Protocol[_Data_contra]):
    """What those of OpenTelemetry have in common."""

    def export(self, data: _Data_contra, /) -> Enum:
        """Sends and repeats, for as long as its time-out; is not to raise, but does."""

    def shutdown(self) -> None:
        """Ends waiting for the next repetition, and connections."""


class Sender(Generic[Data]):
    """Sends one signal. One thread sends; any may set a deadline or close."""

    def __init__(self, exporter: OfficialExporter[Data], watch: Watch) -> None:
        self._exporter = exporter
        self._watch = watch

    def send(self, data: Data) -> Answer:
        """How it ended, after repetitions within the time-out."""
        self._watch.take()
        try:
            result = self._exporter.export(data)
        except Exception as error:  # noqa: BLE001 - a receiver can bring it about: it counts as one
            # The type alone: what it says may hold a header or what the receiver likes.
            return self._watch.take() or Answer(
                result=Result.UNAVAILABLE, reason=type(error).__name__
            )
        answer = self._watch.take()
        if answer is not None:
            return answer
        if result.name == "SUCCESS":
            return Answer(result=Result.SUCCESS)
        return Answer(result=Result.REFUSED, reason="it could not be encoded or sent")

    def end_by(self, timeout_seconds: float) -> None:
        """Let no request that begins from now on last longer than until then."""
        self._watch.deadline = time.monotonic() + timeout_seconds

    def close(self) -> None:
        """Ends the exporter."""
        self._exporter.shutdown()


def metric_sender(target: OtlpTarget) -> Sender[MetricsData]:
    """Sends metrics.

    Raises
    ------
    RequirementError
        if the package for the protocol is missing, or TLS can't be set up.
    """
    _silence_libraries()
    watch = Watch()
    try:
        if target.is_grpc:
            from picosnitch_exporter.outputs.otlp import grpc_transport

            return Sender(grpc_transport.metric_exporter(target, watch), watch)
        from picosnitch_exporter.outputs.otlp import http_transport

        return Sender(http_transport.metric_exporter(target, watch), watch)
    except (ImportError, OSError) as error:
        raise _requirement(error, target) from error


def log_sender(target: OtlpTarget) -> Sender[Sequence[ReadableLogRecord]]:
    """Sends log records; raises as `metric_sender` does."""
    _silence_libraries()
    watch = Watch()
    try:
        if target.is_grpc:
            from picosnitch_exporter.outputs.otlp import grpc_transport

            return Sender(grpc_transport.log_exporter(target, watch), watch)
        from picosnitch_exporter.outputs.otlp import http_transport

        return Sender(http_transport.log_exporter(target, watch), watch)
    except (ImportError, OSError) as error:
        raise _requirement(error, target) from error


def _requirement(error: ImportError | OSError, target: OtlpTarget) -> RequirementError:
    if isinstance(error, ImportError):
        extra = "otlp-grpc" if target.is_grpc else "otlp"
        return RequirementError(
            f"OTLP over {'gRPC' if target.is_grpc else 'HTTP'} needs a package ({error}): "
            f"pip install 'picosnitch-exporter[{extra}]'"
        )
    return RequirementError(f"OTLP can't be set up: {shortened(str(error))}")


def _silence_libraries() -> None:
    """The same is said once, by those who call: the exporters log each attempt."""
    if logging.getLogger().getEffectiveLevel() > logging.DEBUG:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
