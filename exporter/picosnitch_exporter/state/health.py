"""The exporter's own numbers, from all of its threads.

Callers name a metric of the catalog and the values of its labels in the catalog's order. Metrics
without labels, and the catalog's presets, show 0 from the start, so that a first event is an
increase and not a new series; all others appear with their first value.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from picosnitch_exporter.catalog import OWN_METRICS, WORKLOAD_LABELS, Kind, Metric

LabelValues = tuple[str, ...]

MAX_SERIES = 4_000
"""Of one metric; beyond it every label value is `OTHER`, so that sums still add up. Twice the
default of metrics.max_executables, as one metric has the executable's labels."""
OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One series: `value` of a counter or gauge; a histogram's sum."""

    labels: LabelValues
    value: float
    created_seconds: float
    bucket_counts: tuple[int, ...] = ()
    """Of a histogram: observations up to each bound, cumulative; the last is for infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric with all its series at one instant."""

    metric: Metric
    readings: tuple[Reading, ...]


@dataclass(slots=True, kw_only=True)
class _Series:
    created_seconds: float
    value: float = 0
    absolute: float = 0
    """What `set_counter` was told last."""
    counts: list[int] = field(default_factory=list)


class Health:
    """Thread-safe store of the metrics in `catalog.OWN_METRICS`.

    All methods raise ValueError for a metric of another kind, one that is not the exporter's own,
    or a wrong number of label values. A metric of an executable takes the values of all
    `EXECUTABLE_LABELS` and `WORKLOAD_LABELS` before its own.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By name: hashing a Metric would hash all of its texts.
        self._metrics: dict[str, dict[LabelValues, _Series]] = {}
        for metric in OWN_METRICS:
            self._metrics[metric.name] = {}
            for labels in metric.presets or (() if metric.labels else ((),)):
                self._series(metric, labels)

    def count(self, metric: Metric, labels: LabelValues = (), amount: float = 1) -> None:
        """Add to a counter; `amount` must not be negative."""
        _check(metric, Kind.COUNTER)
        if amount < 0:
            raise ValueError(f"{metric.name} can't go down by {-amount}: use a gauge")
        with self._lock:
            self._series(metric, labels).value += amount

    def set_counter(self, metric: Metric, labels: LabelValues, absolute: float) -> None:
        """Raise a counter to a monotonic value that is kept elsewhere.

        Where that has started anew (it is below the previous one), what it says is added, so that
        the counter itself never goes down.
        """
        _check(metric, Kind.COUNTER)
        with self._lock:
            series = self._series(metric, labels)
            started_anew = absolute < series.absolute
            series.value += absolute if started_anew else absolute - series.absolute
            series.absolute = absolute

    def set(self, metric: Metric, labels: LabelValues, value: float) -> None:
        """Set a gauge."""
        _check(metric, Kind.GAUGE)
        with self._lock:
            self._series(metric, labels).value = value

    def forget(self, metric: Metric, labels: LabelValues) -> None:
        """Take a gauge's series off, if it is there: what it spoke of exists no more."""
        _check(metric, Kind.GAUGE)
        with self._lock:
            self._known(metric).pop(labels, None)

    def observe(self, metric: Metric, labels: LabelValues, seconds: float) -> None:
        """Add one observation to a histogram."""
        _check(metric, Kind.HISTOGRAM)
        with self._lock:
            series = self._series(metric, labels)
            series.value += seconds
            series.counts[bisect_left(metric.buckets, seconds)] += 1

    def collect(self) -> tuple[Family, ...]:
        """All metrics that have a series, in the catalog's order."""
        with self._lock:
            return tuple(
                Family(
                    metric=metric,
                    readings=tuple(_reading(labels, one) for labels, one in series.items()),
                )
                for metric in OWN_METRICS
                if (series := self._metrics[metric.name])
            )

    def _known(self, metric: Metric) -> dict[LabelValues, _Series]:
        try:
            return self._metrics[metric.name]
        except KeyError:
            raise ValueError(f"{metric.name} is no metric of the exporter on itself") from None

    def _series(self, metric: Metric, labels: LabelValues) -> _Series:
        known = self._known(metric)
        found = known.get(labels)
        if found is not None:
            return found
        names = metric.label_names(with_workload_labels=True)
        if len(labels) != len(names):
            raise ValueError(f"{metric.name} has the labels {names}, got the values {labels}")
        if len(known) >= MAX_SERIES:
            labels = tuple("" if name in WORKLOAD_LABELS else OTHER for name in names)
        if labels not in known:
            known[labels] = _Series(
                created_seconds=self._clock(), counts=[0] * (len(metric.buckets) + 1)
            )
        return known[labels]


def _check(metric: Metric, kind: Kind) -> None:
    if metric.kind is not kind:
        raise ValueError(f"{metric.name} is a {metric.kind}, not a {kind}")


def _reading(labels: LabelValues, series: _Series) -> Reading:
    cumulative = []
    total = 0
    for count in series.counts:
        total += count
        cumulative.append(total)
    return Reading(
        labels=labels,
        value=series.value,
        created_seconds=series.created_seconds,
        bucket_counts=tuple(cumulative),
    )
