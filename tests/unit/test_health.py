import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.state.health import MAX_SERIES, OTHER, Health, LabelValues, Reading


def readings(health: Health, metric: Metric) -> dict[LabelValues, Reading]:
    for family in health.collect():
        if family.metric is metric:
            return {reading.labels: reading for reading in family.readings}
    return {}


def values(health: Health, metric: Metric) -> dict[LabelValues, float]:
    return {labels: one.value for labels, one in readings(health, metric).items()}


def test_unlabelled_metrics_show_zero_when_nothing_has_happened() -> None:
    health = Health()
    unlabelled = [metric for metric in catalog.OWN_METRICS if not metric.labels]
    assert {metric.name: {(): 0.0} for metric in unlabelled} == {
        metric.name: values(health, metric) for metric in unlabelled
    }


def test_presets_show_zero_when_nothing_has_happened() -> None:
    assert values(Health(), catalog.UNATTRIBUTED_BYTES) == {("transmit",): 0, ("receive",): 0}


def test_labelled_metric_is_absent_when_it_has_no_presets_and_no_value() -> None:
    families = [family.metric for family in Health().collect()]
    assert catalog.EVENTS_LOST not in families
    assert families == [metric for metric in catalog.OWN_METRICS if metric in families]


def test_counts_add_up_when_given_twice() -> None:
    health = Health()
    health.count(catalog.EVENTS_LOST, ("ring", "full"), 3)
    health.count(catalog.EVENTS_LOST, ("ring", "full"))
    health.count(catalog.EVENTS_LOST, ("ring", "late"), 0)
    assert values(health, catalog.EVENTS_LOST) == {("ring", "full"): 4, ("ring", "late"): 0}


def test_counts_add_up_when_threads_count_at_once() -> None:
    health = Health()
    start = threading.Barrier(4)

    def count() -> None:
        start.wait()
        for _ in range(1000):
            health.count(catalog.KERNEL_GAP_SECONDS)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count) for _ in range(4)]:
            done.result()
    assert values(health, catalog.KERNEL_GAP_SECONDS) == {(): 4000}


def test_gauge_shows_the_last_value_when_set_twice() -> None:
    health = Health()
    health.set(catalog.LOG_ROWS_WAITING, ("sqlite",), 5)
    health.set(catalog.LOG_ROWS_WAITING, ("sqlite",), 2)
    assert values(health, catalog.LOG_ROWS_WAITING) == {("sqlite",): 2}


def test_gauge_is_gone_when_forgotten() -> None:
    health = Health()
    health.set(catalog.HOOK_INFO, ("kprobe/a",), 1)
    health.forget(catalog.HOOK_INFO, ("kprobe/a",))
    health.forget(catalog.HOOK_INFO, ("never",))
    assert values(health, catalog.HOOK_INFO) == {}


def test_counter_follows_another_one_when_that_one_rises() -> None:
    health = Health()
    for absolute in (0, 5, 5, 9):
        health.set_counter(catalog.BPF_PROGRAM_RUNS, ("drain",), absolute)
    assert values(health, catalog.BPF_PROGRAM_RUNS) == {("drain",): 9}


def test_counter_goes_on_rising_when_the_other_one_starts_anew() -> None:
    health = Health()
    for absolute in (9, 2, 3):
        health.set_counter(catalog.BPF_PROGRAM_RUNS, ("drain",), absolute)
    assert values(health, catalog.BPF_PROGRAM_RUNS) == {("drain",): 12}


@given(st.lists(st.integers(min_value=0, max_value=100)))
def test_counter_never_falls_when_set_to_anything(absolutes: list[int]) -> None:
    health = Health()
    shown = [0.0]
    for absolute in absolutes:
        health.set_counter(catalog.BPF_PROGRAM_RUNS, ("drain",), absolute)
        shown.append(values(health, catalog.BPF_PROGRAM_RUNS)[("drain",)])
    assert shown == sorted(shown)


def test_buckets_are_cumulative_when_observed() -> None:
    health = Health()
    bounds = catalog.DRAIN_DURATION.buckets
    for seconds in (0.0, bounds[0], bounds[1], 99.0):
        health.observe(catalog.DRAIN_DURATION, (), seconds)
    reading = readings(health, catalog.DRAIN_DURATION)[()]
    assert (2, 3, *[3] * (len(bounds) - 2), 4) == reading.bucket_counts
    assert sum((bounds[0], bounds[1], 99.0)) == reading.value


def test_series_are_stamped_when_they_appear() -> None:
    now = [100.0]
    health = Health(clock=lambda: now[0])
    now[0] = 200.0
    health.count(catalog.EVENTS_LOST, ("ring", "full"))
    now[0] = 300.0
    health.count(catalog.EVENTS_LOST, ("ring", "full"))
    assert readings(health, catalog.EVENTS_LOST)[("ring", "full")].created_seconds == 200.0
    assert readings(health, catalog.KERNEL_GAP_SECONDS)[()].created_seconds == 100.0


def test_sum_stays_right_when_there_are_too_many_series() -> None:
    health = Health()
    for number in range(MAX_SERIES + 10):
        health.count(catalog.UNSEEN_SOCKETS, (str(number), "/exe", "ns", "pod", "c", "xdp"))
    shown = values(health, catalog.UNSEEN_SOCKETS)
    assert shown[(OTHER, OTHER, "", "", "", OTHER)] == 10
    assert sum(shown.values()) == MAX_SERIES + 10
    assert len(shown) == MAX_SERIES + 1


@pytest.mark.parametrize("labels", [(), ("ring",), ("ring", "full", "more")])
def test_labels_are_refused_when_not_those_of_the_catalog(labels: LabelValues) -> None:
    with pytest.raises(ValueError, match=r"has the labels \('stage', 'reason'\)"):
        Health().count(catalog.EVENTS_LOST, labels)


def test_metric_is_refused_when_of_another_kind() -> None:
    health = Health()
    with pytest.raises(ValueError, match="is a gauge, not a counter"):
        health.count(catalog.SERIES)
    with pytest.raises(ValueError, match="is a gauge, not a counter"):
        health.set_counter(catalog.SERIES, (), 1)
    with pytest.raises(ValueError, match="is a counter, not a gauge"):
        health.set(catalog.EVENTS_LOST, ("a", "b"), 1)
    with pytest.raises(ValueError, match="is a counter, not a gauge"):
        health.forget(catalog.EVENTS_LOST, ("a", "b"))
    with pytest.raises(ValueError, match="is a gauge, not a histogram"):
        health.observe(catalog.SERIES, (), 1)


def test_metric_is_refused_when_of_executables() -> None:
    with pytest.raises(ValueError, match="no metric of the exporter on itself"):
        Health().count(catalog.CONNECTIONS, ("a", "b", "c", "d", "e", "f", "g", "h"))


def test_count_is_refused_when_negative() -> None:
    with pytest.raises(ValueError, match="can't go down by 1"):
        Health().count(catalog.KERNEL_GAP_SECONDS, (), -1)
