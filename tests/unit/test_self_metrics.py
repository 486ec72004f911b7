"""The exporter's own metrics, byte for byte as prometheus_client writes them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as ClientMetric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Kind, Metric, label_value
from picosnitch_exporter.outputs.lines import number
from picosnitch_exporter.outputs.self_metrics import render_own
from picosnitch_exporter.state.health import Health

TEXTS = st.sampled_from(["", "plain", 'quote" back\\slash\nline', "\udcff\\xff", "é", "\0"])
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(catalog.OWN_METRICS),
        st.lists(TEXTS, min_size=8, max_size=8),
        st.floats(min_value=0, max_value=1e300) | st.integers(0, 2**64),
    ),
    max_size=12,
)


class Families(Collector):
    """The same readings as families of the client library."""

    def __init__(self, health: Health, *, with_created: bool) -> None:
        self._health = health
        self._with_created = with_created

    def collect(self) -> Iterator[ClientMetric]:
        for family in self._health.collect():
            metric = family.metric
            names = metric.label_names(with_workload_labels=True)
            found = made(metric, names)
            for reading in family.readings:
                labels = [label_value(value) for value in reading.labels]
                created = reading.created_seconds if self._with_created else None
                match found:
                    case CounterMetricFamily():
                        found.add_metric(labels, reading.value, created=created)
                    case GaugeMetricFamily():
                        found.add_metric(labels, reading.value)
                    case HistogramMetricFamily():
                        bounds = [*map(repr, metric.buckets), "+Inf"]
                        counts = map(float, reading.bucket_counts)
                        found.add_metric(
                            labels, list(zip(bounds, counts, strict=True)), reading.value
                        )
                        if created is not None:
                            by_name = dict(zip(names, labels, strict=True))
                            found.add_sample(f"{metric.name}_created", by_name, created)
            yield found


def made(metric: Metric, names: tuple[str, ...]) -> ClientMetric:
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=names, unit=metric.unit)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=names, unit=metric.unit)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=names, unit=metric.unit)


def by_the_client(health: Health, *, openmetrics: bool) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(health, with_created=openmetrics))
    if openmetrics:
        text: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text
    return exposition.generate_latest(registry)


@pytest.mark.parametrize("openmetrics", [False, True])
@given(samples=SAMPLES)
def test_text_is_the_client_librarys_when_rendered(
    samples: list[tuple[Metric, list[str], float]],
    *,
    openmetrics: bool,
) -> None:
    health = Health(clock=lambda: 1_700_000_000.5)
    for metric, texts, value in samples:
        labels = tuple(texts[: len(metric.label_names(with_workload_labels=True))])
        match metric.kind:
            case Kind.COUNTER:
                health.count(metric, labels, value)
            case Kind.GAUGE:
                health.set(metric, labels, value)
            case Kind.HISTOGRAM:
                health.observe(metric, labels, value)
    own = render_own(health.collect(), openmetrics=openmetrics, with_workload_labels=True)
    assert by_the_client(health, openmetrics=openmetrics) == own


@given(value=st.floats() | st.integers(-(2**70), 2**70))
def test_number_is_the_client_librarys_when_written(value: float) -> None:
    assert floatToGoString(value) == number(value)  # type: ignore[no-untyped-call]
