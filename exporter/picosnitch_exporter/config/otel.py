"""Where and how OTLP goes: the settings, and beneath them OpenTelemetry's variables.

Sources: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
.../specs/otel/protocol/exporter/. A variable of one signal wins over the general one, a setting
that is not at its default over both; an empty variable counts as unset. Times are in milliseconds.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.config.addresses import check_url
from picosnitch_exporter.config.headers import Pairs, check_grpc_names, parse_headers
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.settings import OtlpSettings

_DEFAULT = OtlpSettings()
_MILLISECONDS = re.compile(r"[0-9]{1,12}")
_HTTP = "http/protobuf"
_GRPC = "grpc"
_PREFIX = "OTEL_EXPORTER_OTLP_"
_TEMPORALITY = f"{_PREFIX}METRICS_TEMPORALITY_PREFERENCE"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpTarget:
    """Where and how one signal goes."""

    url: str
    """Of HTTP with the signal's path; of gRPC only scheme, host and port count."""
    is_grpc: bool
    headers: Pairs
    timeout_seconds: float
    is_compressed: bool
    certificate: Path | None
    client_certificate: Path | None
    client_key: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpPlan:
    """What is sent; None for a signal that is not."""

    metrics: OtlpTarget | None
    logs: OtlpTarget | None
    interval_seconds: float
    is_delta: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """What has to stay readable: HTTP reads them again for each connection."""
        paths = (
            path
            for target in (self.metrics, self.logs)
            if target is not None
            for path in (target.certificate, target.client_certificate, target.client_key)
        )
        return tuple(dict.fromkeys(path for path in paths if path is not None))


def plan(otlp: OtlpSettings, environment: Mapping[str, str]) -> OtlpPlan | None:
    """What to send, None for nothing.

    Raises
    ------
    ConfigurationError
        that names the variable or the key, also for files that can't be read.
    """
    variables = _Variables(environment)
    if variables.flag("OTEL_SDK_DISABLED"):
        return None
    metrics = None
    if variables.exports("OTEL_METRICS_EXPORTER"):
        metrics = _target(otlp, "METRICS", variables)
    logs = None
    if otlp.logs and variables.exports("OTEL_LOGS_EXPORTER"):
        logs = _target(otlp, "LOGS", variables)
        if logs is None:
            raise ConfigurationError("otlp.logs: there is nowhere to send them: set otlp.endpoint")
    if metrics is None and logs is None:
        return None
    interval_seconds: float = otlp.interval_seconds
    if interval_seconds == _DEFAULT.interval_seconds:
        given = variables.seconds("OTEL_METRIC_EXPORT_INTERVAL")
        interval_seconds = interval_seconds if given is None else given
    return OtlpPlan(
        metrics=metrics,
        logs=logs,
        interval_seconds=interval_seconds,
        is_delta=_is_delta(otlp, variables),
    )


class _Variables:
    """OpenTelemetry's variables."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def get(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def of_signal(self, signal: str, name: str) -> tuple[str, str]:
        """(variable, value); the value is empty where neither is set."""
        for variable in (f"{_PREFIX}{signal}_{name}", f"{_PREFIX}{name}"):
            if value := self.get(variable):
                return variable, value
        return f"{_PREFIX}{name}", ""

    def flag(self, name: str) -> bool:
        return self.get(name).lower() == "true"

    def exports(self, name: str) -> bool:
        """Whether a list of exporters has OTLP in it, or is not given."""
        value = self.get(name)
        return not value or "otlp" in {item.strip() for item in value.split(",")}

    def seconds(self, name: str) -> float | None:
        """The seconds that a variable gives in milliseconds, None where it is not set."""
        return _seconds(name, value) if (value := self.get(name)) else None


def _seconds(variable: str, value: str) -> float:
    if not _MILLISECONDS.fullmatch(value) or int(value) == 0:
        raise ConfigurationError(f"{variable}: must be a whole number of milliseconds, above 0")
    return int(value) / 1000


def _target(otlp: OtlpSettings, signal: str, variables: _Variables) -> OtlpTarget | None:
    is_grpc = _protocol(otlp, signal, variables) == _GRPC
    url = _url(otlp, signal, variables, is_grpc=is_grpc)
    if url is None:
        return None
    client_certificate = _file(
        "client_certificate", otlp.client_certificate, signal=signal, variables=variables
    )
    client_key = _file("client_key", otlp.client_key, signal=signal, variables=variables)
    if client_key is not None and client_certificate is None:
        raise ConfigurationError("otlp.client_key: needs otlp.client_certificate")
    return OtlpTarget(
        url=url,
        is_grpc=is_grpc,
        headers=_headers(otlp, signal, variables, is_grpc=is_grpc),
        timeout_seconds=_timeout(otlp, signal, variables),
        is_compressed=_compression(otlp, signal, variables) == "gzip",
        certificate=_file("certificate", otlp.certificate, signal=signal, variables=variables),
        client_certificate=client_certificate,
        client_key=client_key,
    )


def _protocol(otlp: OtlpSettings, signal: str, variables: _Variables) -> str:
    if otlp.protocol != _DEFAULT.protocol:
        return otlp.protocol
    variable, value = variables.of_signal(signal, "PROTOCOL")
    if value and value not in (_HTTP, _GRPC):
        raise ConfigurationError(f"{variable}: must be {_HTTP} or {_GRPC}, not {value!r:.60}")
    return value or otlp.protocol


def _url(otlp: OtlpSettings, signal: str, variables: _Variables, *, is_grpc: bool) -> str | None:
    path = f"/v1/{signal.lower()}"
    if otlp.endpoint is not None:
        # Many paste the address of one signal.
        base = otlp.endpoint.rstrip("/")
        for known in ("/v1/metrics", "/v1/logs"):
            base = base.removesuffix(known)
        return base if is_grpc else base + path
    variable, value = variables.of_signal(signal, "ENDPOINT")
    if not value:
        return None
    if is_grpc and "://" not in value:
        _name, insecure = variables.of_signal(signal, "INSECURE")
        value = f"{'http' if insecure.lower() == 'true' else 'https'}://{value}"
    try:
        check_url(value)
    except ValueError as error:
        raise ConfigurationError(f"{variable}: {error}") from error
    if is_grpc or variable != f"{_PREFIX}ENDPOINT":
        return value
    return value.rstrip("/") + path


def _headers(otlp: OtlpSettings, signal: str, variables: _Variables, *, is_grpc: bool) -> Pairs:
    variable, value = variables.of_signal(signal, "HEADERS")
    try:
        pairs = otlp.headers or parse_headers(value)
        if is_grpc:
            check_grpc_names(pairs)
    except ValueError as error:
        written = "otlp.headers" if otlp.headers else variable
        raise ConfigurationError(f"{written}: {error}") from error
    return pairs


def _timeout(otlp: OtlpSettings, signal: str, variables: _Variables) -> float:
    if otlp.timeout_seconds != _DEFAULT.timeout_seconds:
        return otlp.timeout_seconds
    variable, value = variables.of_signal(signal, "TIMEOUT")
    return _seconds(variable, value) if value else otlp.timeout_seconds


def _compression(otlp: OtlpSettings, signal: str, variables: _Variables) -> str:
    if otlp.compression != _DEFAULT.compression:
        return otlp.compression
    variable, value = variables.of_signal(signal, "COMPRESSION")
    if value and value not in ("none", "gzip"):
        raise ConfigurationError(f"{variable}: must be none or gzip, not {value!r:.60}")
    return value or otlp.compression


def _is_delta(otlp: OtlpSettings, variables: _Variables) -> bool:
    if otlp.temporality != _DEFAULT.temporality:
        return otlp.temporality == "delta"
    value = variables.get(_TEMPORALITY).lower()
    # lowmemory means what takes least memory: here that is cumulative, the totals are there anyway.
    if value not in ("", "cumulative", "delta", "lowmemory"):
        raise ConfigurationError(
            f"{_TEMPORALITY}: must be cumulative, delta or lowmemory, not {value!r:.60}"
        )
    return value == "delta"


def _file(name: str, path: Path | None, *, signal: str, variables: _Variables) -> Path | None:
    """A file for TLS, which this process must be able to read: the libraries say less."""
    written = f"otlp.{name}"
    if path is None:
        written, value = variables.of_signal(signal, name.upper())
        if not value:
            return None
        path = Path(value)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise ConfigurationError(
            f"{written}: {path} can't be read by uid {os.geteuid()}: {error.strerror}"
        ) from error
    return path
