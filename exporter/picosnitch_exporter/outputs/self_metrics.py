"""The exporter's own metrics, through prometheus_client and a registry of their own."""

from collections.abc import Iterable, Iterator

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as ClientMetric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector, CollectorRegistry

from picosnitch_exporter.catalog import WORKLOAD_LABELS, Kind, Metric, label_value
from picosnitch_exporter.state.health import Family, LabelValues, Reading


def render_own(
    families: Iterable[Family], *, openmetrics: bool, with_workload_labels: bool
) -> bytes:
    """Write the families; in OpenMetrics with `_created` samples and, at the end, `# EOF`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Families(families, with_created=openmetrics, with_workload_labels=with_workload_labels)
    )
    if openmetrics:
        text: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text
    return exposition.generate_latest(registry)


class _Families(Collector):
    def __init__(
        self, families: Iterable[Family], *, with_created: bool, with_workload_labels: bool
    ) -> None:
        self._families = families
        self._with_created = with_created
        self._with_workload_labels = with_workload_labels

    def collect(self) -> Iterator[ClientMetric]:
        for family in self._families:
            yield self._converted(family)

    def _converted(self, family: Family) -> ClientMetric:
        metric = family.metric
        names = metric.label_names(with_workload_labels=self._with_workload_labels)
        readings = self._without_workload(family)
        match metric.kind:
            case Kind.COUNTER:
                counter = CounterMetricFamily(
                    metric.name, metric.help, labels=names, unit=metric.unit
                )
                for labels, reading in readings:
                    created = reading.created_seconds if self._with_created else None
                    counter.add_metric(labels, reading.value, created=created)
                return counter
            case Kind.GAUGE:
                gauge = GaugeMetricFamily(metric.name, metric.help, labels=names, unit=metric.unit)
                for labels, reading in readings:
                    gauge.add_metric(labels, reading.value)
                return gauge
            case Kind.HISTOGRAM:
                histogram = HistogramMetricFamily(
                    metric.name, metric.help, labels=names, unit=metric.unit
                )
                for labels, reading in readings:
                    histogram.add_metric(labels, _buckets(metric, reading), reading.value)
                    if self._with_created:
                        histogram.add_sample(
                            f"{metric.name}_created",
                            dict(zip(names, labels, strict=True)),
                            reading.created_seconds,
                        )
                return histogram

    def _without_workload(self, family: Family) -> list[tuple[LabelValues, Reading]]:
        """Key readings by the labels that are exposed; add up what only the workload told apart."""
        all_names = family.metric.label_names(with_workload_labels=True)
        merged: dict[LabelValues, Reading] = {}
        for reading in family.readings:
            labels = tuple(
                label_value(value)
                for name, value in zip(all_names, reading.labels, strict=True)
                if self._with_workload_labels or name not in WORKLOAD_LABELS
            )
            same = merged.get(labels)
            if same is not None:
                merged[labels] = Reading(
                    labels=labels,
                    value=same.value + reading.value,
                    created_seconds=min(same.created_seconds, reading.created_seconds),
                )
            else:
                merged[labels] = reading
        return list(merged.items())


def _buckets(metric: Metric, reading: Reading) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in metric.buckets), "+Inf"]
    return list(zip(bounds, map(float, reading.bucket_counts), strict=True))
