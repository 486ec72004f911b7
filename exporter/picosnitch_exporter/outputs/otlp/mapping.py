"""A snapshot as the SDK's metrics data, in batches that a receiver takes. No I/O, no clock.

Observable counters of the SDK would keep every attribute set for ever, 2,000 of them at most; here
points are made for one batch and forgotten with it. Sources: OTLP 1.x metrics data model (start
times, temporality), semantic conventions `process.network.io`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import OTLP_ATTRIBUTES, Kind, label_value
from picosnitch_exporter.model import CounterColumn, ExecutableFacts, SeriesLabels, Snapshot
from picosnitch_exporter.outputs.otlp.attributes import (
    TRANSPORT,
    Attributes,
    executable_attributes,
)
from picosnitch_exporter.outputs.otlp.baseline import Baseline, Position

MAX_POINTS: Final = 5_000
MAX_BYTES: Final = 3 * 1024 * 1024
"""Of a batch, estimated from above. gRPC receivers refuse more than 4 MiB."""

_SCOPE: Final = OTLP_ATTRIBUTES["scope"]
_DIRECTION: Final = OTLP_ATTRIBUTES["direction"]
_VERDICT: Final = OTLP_ATTRIBUTES["verdict"]
_CATEGORY: Final = OTLP_ATTRIBUTES["category"]
_IO_DIRECTION: Final = "network.io.direction"
_DESCRIPTIONS: Final = {"process.network.io": "Network bytes transferred."}
"""Of what is one metric here and two in the catalog."""

_POINT_BYTES: Final = 48
"""Two times, a value, and the headers of all messages around them."""
_ATTRIBUTE_BYTES: Final = 16
"""Headers of key and value, and a number."""
_BYTES_A_CHARACTER: Final = 4
"""Of UTF-8 at most, beyond ASCII."""
_MAX_INT: Final = 2**63 - 1
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What goes in one request."""

    data: MetricsData
    points: int
    positions: tuple[Position, ...]
    """Of delta sums: where `Baseline` stands once this has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one batch."""

    points: int = MAX_POINTS
    size_bytes: int = MAX_BYTES


class Mapping:
    """Makes batches; with a baseline, of what came since then instead of totals."""

    def __init__(
        self, *, resource: Resource, scope: InstrumentationScope, baseline: Baseline | None = None
    ) -> None:
        self._resource = resource
        self._scope = scope
        self._baseline = baseline

    def batches(self, snapshot: Snapshot, limits: Limits | None = None) -> Iterator[Batch]:
        """All of a snapshot, made as it is asked for."""
        limits = limits or Limits()
        points: list[_Point] = []
        size_bytes = 0
        for point in self._points(snapshot):
            estimate = _estimate(point.data)
            if points and (
                len(points) >= limits.points or size_bytes + estimate > limits.size_bytes
            ):
                yield self._batch(points)
                points = []
                size_bytes = 0
            points.append(point)
            size_bytes += estimate
        if points:
            yield self._batch(points)

    def _points(self, snapshot: Snapshot) -> "Iterator[_Point]":
        time_ns = int(snapshot.time_seconds * _NS)
        for metric, column, direction in (
            (catalog.NETWORK_TRANSMIT_BYTES, snapshot.transmit_bytes, "transmit"),
            (catalog.NETWORK_RECEIVE_BYTES, snapshot.receive_bytes, "receive"),
            (catalog.CONNECTIONS, snapshot.connections, ""),
            (catalog.CONNECT_FAILURES, snapshot.connect_failures, ""),
        ):
            counted = (
                _totals(column, time_ns)
                if self._baseline is None
                else self._baseline.added(column, time_ns)
            )
            for labels, (start_ns, value, position) in zip(column.labels, counted, strict=True):
                if value is None:
                    continue
                yield _Point(
                    metric=metric,
                    data=NumberDataPoint(
                        attributes=_series_attributes(labels, direction),
                        start_time_unix_nano=min(start_ns, time_ns),
                        time_unix_nano=time_ns,
                        # 64 unsigned bits have no room in OTLP's integers: rather less exact.
                        value=value if value <= _MAX_INT else float(value),
                    ),
                    position=position,
                )
        for facts in snapshot.executables:
            yield from _facts_points(facts, time_ns)

    def _batch(self, points: "list[_Point]") -> Batch:
        metrics: list[Metric] = []
        for (name, metric), group in _grouped(points):
            metrics.append(
                Metric(
                    name=name,
                    description=_DESCRIPTIONS.get(name, metric.help),
                    unit=metric.otlp_unit,
                    data=self._data(metric, group),
                )
            )
        return Batch(
            data=MetricsData(
                resource_metrics=[
                    ResourceMetrics(
                        resource=self._resource,
                        scope_metrics=[
                            ScopeMetrics(
                                scope=self._scope,
                                metrics=metrics,
                                schema_url=self._scope.schema_url or "",
                            )
                        ],
                        schema_url=self._resource.schema_url,
                    )
                ]
            ),
            points=len(points),
            positions=tuple(point.position for point in points if point.position is not None),
        )

    def _data(self, metric: catalog.Metric, points: list[NumberDataPoint]) -> Sum | Gauge:
        if metric.kind is not Kind.COUNTER:
            return Gauge(data_points=points)
        return Sum(
            data_points=points,
            aggregation_temporality=AggregationTemporality.CUMULATIVE
            if self._baseline is None
            else AggregationTemporality.DELTA,
            is_monotonic=True,
        )


# Not frozen, as are the SDK's own: one is made for each series on each export.
@dataclass(slots=True, kw_only=True)
class _Point:
    metric: catalog.Metric
    data: NumberDataPoint
    position: Position | None = None


def _totals(
    column: CounterColumn, time_ns: int
) -> Iterator[tuple[int, int | None, Position | None]]:
    for created_seconds, value in zip(column.created_seconds, column.values, strict=True):
        yield min(int(created_seconds * _NS), time_ns), value, None


def _series_attributes(labels: SeriesLabels, io_direction: str) -> Attributes:
    attributes = executable_attributes(labels.executable, labels.workload)
    attributes[TRANSPORT] = labels.protocol
    attributes[_SCOPE] = labels.scope.value
    if io_direction:
        attributes[_IO_DIRECTION] = io_direction
    if labels.direction:
        attributes[_DIRECTION] = labels.direction.value
    return attributes


def _facts_points(facts: ExecutableFacts, time_ns: int) -> Iterator[_Point]:
    of = executable_attributes(facts.executable, facts.workload)

    def gauge(metric: catalog.Metric, value: float, attributes: Attributes | None = None) -> _Point:
        return _Point(
            metric=metric,
            data=NumberDataPoint(
                attributes=of | attributes if attributes else of,
                start_time_unix_nano=0,
                time_unix_nano=time_ns,
                value=value,
            ),
        )

    yield gauge(
        catalog.EXECUTABLE_INFO,
        1,
        {
            OTLP_ATTRIBUTES["name"]: label_value(facts.name),
            OTLP_ATTRIBUTES["parent_exe"]: label_value(facts.parent.exe),
            OTLP_ATTRIBUTES["parent_sha256"]: facts.parent.sha256,
            OTLP_ATTRIBUTES["size_bytes"]: facts.size_bytes,
        },
    )
    yield gauge(catalog.EXECUTABLE_FIRST_SEEN, facts.first_seen_seconds)
    yield gauge(catalog.EXECUTABLE_LAST_SEEN, facts.last_seen_seconds)
    result = facts.virustotal
    yield gauge(catalog.VIRUSTOTAL_VERDICT, 1, {_VERDICT: result.verdict.value})
    counts = {
        "malicious": result.malicious,
        "suspicious": result.suspicious,
        "harmless": result.harmless,
        "undetected": result.undetected,
    }
    if any(counts.values()):
        for category, number in counts.items():
            yield gauge(catalog.VIRUSTOTAL_ENGINES, number, {_CATEGORY: category})
    if facts.is_deleted:
        yield gauge(catalog.EXECUTABLE_DELETED, 1)


def _grouped(
    points: Iterable[_Point],
) -> Iterator[tuple[tuple[str, catalog.Metric], list[NumberDataPoint]]]:
    """Points by the metric's name, in the order in which they came."""
    groups: dict[str, tuple[catalog.Metric, list[NumberDataPoint]]] = {}
    for point in points:
        _metric, group = groups.setdefault(point.metric.otlp_name, (point.metric, []))
        group.append(point.data)
    for name, (metric, group) in groups.items():
        yield (name, metric), group


def _estimate(point: NumberDataPoint) -> int:
    """Bytes on the wire, rather too many."""
    size_bytes = _POINT_BYTES
    for name, value in (point.attributes or {}).items():
        size_bytes += _ATTRIBUTE_BYTES + len(name)
        if isinstance(value, str):
            size_bytes += len(value) * (1 if value.isascii() else _BYTES_A_CHARACTER)
    return size_bytes
