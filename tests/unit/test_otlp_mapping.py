from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, MetricsData, Sum
from opentelemetry.sdk.resources import Resource

from picosnitch_exporter import catalog
from picosnitch_exporter.model import (
    OTHER,
    CounterColumn,
    Direction,
    Executable,
    Scope,
    Sha256,
    Snapshot,
    Verdict,
    VirusTotalResult,
    Workload,
)
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.baseline import Baseline
from picosnitch_exporter.outputs.otlp.mapping import Batch, Limits, Mapping
from tests.unit.snapshots import (
    CREATED_SECONDS,
    column,
    executable,
    facts,
    labels,
    large_snapshot,
    snapshot,
)

NS = 10**9
RESOURCE = Resource({"service.name": "test"})
SCOPE = instrumentation_scope("1.2.3")
CURL = executable(1, exe="/usr/bin/curl")
Key = tuple[str, frozenset[tuple[str, object]]]


def mapping(baseline: Baseline | None = None) -> Mapping:
    return Mapping(resource=RESOURCE, scope=SCOPE, baseline=baseline)


def values(*batches: Batch) -> dict[Key, float]:
    """Value by name and attributes; each stands once."""
    found: dict[Key, float] = {}
    for batch in batches:
        for metric in metrics(batch.data).values():
            for point in metric.data_points:
                assert point.attributes is not None
                key = (name_of(batch, metric), frozenset(point.attributes.items()))
                assert key not in found
                assert not isinstance(point.value, bool)
                found[key] = point.value
    return found


def metrics(data: MetricsData) -> dict[str, Sum | Gauge]:
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        assert isinstance(metric.data, Sum | Gauge)
        assert metric.name not in found
        found[metric.name] = metric.data
    return found


def name_of(batch: Batch, data: Sum | Gauge) -> str:
    return next(name for name, one in metrics(batch.data).items() if one is data)


def only(snapshot_: Snapshot, baseline: Baseline | None = None) -> Batch:
    (batch,) = mapping(baseline).batches(snapshot_)
    return batch


def later(one: Snapshot, *, seconds: float = 60.0, **columns: CounterColumn) -> Snapshot:
    return replace(one, time_seconds=one.time_seconds + seconds, **columns)  # type: ignore[arg-type]


def test_bytes_are_one_metric_with_two_directions() -> None:
    one = snapshot(
        transmit=column([(labels(CURL), 10)]),
        receive=column([(labels(CURL), 20)], first_number=1),
    )

    common = {
        "process.executable.path": "/usr/bin/curl",
        "process.executable.name": "curl",
        "picosnitch.executable.sha256": CURL.sha256,
        "network.transport": "tcp",
        "picosnitch.peer.scope": "public",
    }
    batch = only(one)
    assert values(batch) == {
        (
            "process.network.io",
            frozenset({**common, "network.io.direction": "transmit"}.items()),
        ): 10,
        (
            "process.network.io",
            frozenset({**common, "network.io.direction": "receive"}.items()),
        ): 20,
    }
    (metric,) = batch.data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.unit, metric.description) == ("By", "Network bytes transferred.")


def test_sums_are_monotonic_totals_since_their_series_began() -> None:
    one = later(snapshot(connect_failures=column([(labels(CURL), 3)])))

    data = metrics(only(one).data)["picosnitch.network.connect_failures"]

    assert isinstance(data, Sum)
    assert data.is_monotonic
    assert data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    (point,) = data.data_points
    assert (point.start_time_unix_nano, point.time_unix_nano) == (
        int(CREATED_SECONDS * NS),
        int((CREATED_SECONDS + 60) * NS),
    )


def test_start_is_not_after_the_end_when_the_clock_was_set_back() -> None:
    one = later(snapshot(transmit=column([(labels(CURL), 3)])), seconds=-100)

    (point,) = metrics(only(one).data)["process.network.io"].data_points

    assert point.start_time_unix_nano == point.time_unix_nano == int(one.time_seconds * NS)


def test_connections_have_a_direction_of_their_own() -> None:
    series = labels(CURL, direction=Direction.INBOUND, protocol="sctp", scope=Scope.PRIVATE)

    ((name, attributes),) = values(only(snapshot(connections=column([(series, 1)]))))

    assert name == "picosnitch.network.connections"
    assert {
        ("picosnitch.connection.direction", "inbound"),
        ("network.transport", "sctp"),
        ("picosnitch.peer.scope", "private"),
    } < attributes
    assert "network.io.direction" not in dict(attributes)


def test_facts_are_gauges_with_all_that_the_catalog_says() -> None:
    fact = facts(
        1, name="prog", virustotal=VirusTotalResult(verdict=Verdict.MALICIOUS, malicious=3)
    )

    batch = only(snapshot(executables=(fact,)))
    found = {(name, value): dict(attributes) for (name, attributes), value in values(batch).items()}

    of = {
        "process.executable.path": "/usr/bin/program-1",
        "process.executable.name": "program-1",
        "picosnitch.executable.sha256": fact.executable.sha256,
    }
    assert found["picosnitch.executable.info", 1] == of | {
        "picosnitch.executable.name": "prog",
        "picosnitch.parent.executable.path": "/usr/bin/bash",
        "picosnitch.parent.executable.sha256": "0" * 64,
        "picosnitch.executable.size": 1234,
    }
    assert found["picosnitch.executable.first_seen", CREATED_SECONDS] == of
    assert found["picosnitch.executable.last_seen", CREATED_SECONDS + 10] == of
    assert found["picosnitch.executable.virustotal.verdict", 1] == of | {
        "picosnitch.virustotal.verdict": "malicious"
    }
    assert found["picosnitch.executable.virustotal.engines", 3] == of | {
        "picosnitch.virustotal.category": "malicious"
    }
    assert all(isinstance(data, Gauge) for data in metrics(batch.data).values())


def test_engines_are_left_out_when_there_was_no_analysis() -> None:
    batch = only(snapshot(executables=(facts(1),)))

    assert "picosnitch.executable.virustotal.engines" not in metrics(batch.data)


def test_each_metric_of_executables_has_its_name_and_unit_from_the_catalog() -> None:
    one = snapshot(
        transmit=column([(labels(CURL), 1)]),
        receive=column([(labels(CURL), 1)], first_number=1),
        connections=column([(labels(CURL, direction=Direction.OUTBOUND), 1)], first_number=2),
        connect_failures=column([(labels(CURL), 1)], first_number=3),
        executables=(facts(4, virustotal=VirusTotalResult(harmless=1), is_deleted=True),),
    )

    units = {
        metric.name: metric.unit
        for metric in only(one).data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert units == {metric.otlp_name: metric.otlp_unit for metric in catalog.EXECUTABLE_METRICS}


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (Workload(), {}),
        (
            Workload(namespace="prod", pod="web-1", container="nginx"),
            {
                "k8s.namespace.name": "prod",
                "k8s.pod.name": "web-1",
                "k8s.container.name": "nginx",
            },
        ),
        (Workload(container="0123456789ab"), {"container.id": "0123456789ab"}),
        (Workload(container="postgres"), {"container.name": "postgres"}),
    ],
)
def test_workload_has_the_names_of_the_conventions(
    workload: Workload, expected: dict[str, str]
) -> None:
    one = snapshot(transmit=column([(labels(CURL, workload=workload), 1)]))

    ((_name, attributes),) = values(only(one))

    found = {
        name: value for name, value in attributes if str(name).startswith(("k8s.", "container."))
    }
    assert found == expected


def test_other_is_an_executable_as_any() -> None:
    ((_name, attributes),) = values(only(snapshot(transmit=column([(labels(OTHER), 1)]))))

    assert ("picosnitch.executable.sha256", "other") in attributes
    assert ("process.executable.path", "other") in attributes


def test_path_can_be_encoded_when_it_is_not_utf8() -> None:
    odd = Executable(sha256=Sha256(""), exe="/opt/\udcff\0x")

    ((_name, attributes),) = values(only(snapshot(transmit=column([(labels(odd), 1)]))))

    assert ("process.executable.path", r"/opt/\xff\x00x") in attributes
    assert ("process.executable.name", r"\xff\x00x") in attributes


def test_value_is_a_float_when_64_signed_bits_are_too_few() -> None:
    one = snapshot(transmit=column([(labels(CURL), 2**63 - 1), (labels(OTHER), 2**63)]))

    assert [(type(value), value) for value in values(only(one)).values()] == [
        (int, 2**63 - 1),
        (float, 2.0**63),
    ]


def test_batches_hold_every_point_once_when_there_are_many() -> None:
    one = large_snapshot(20_000)
    batches = list(mapping().batches(one))

    points = sum(
        len(data.data_points) for batch in batches for data in metrics(batch.data).values()
    )
    assert len(values(*batches)) == points == 20_000 + 4 * 2_000
    assert [batch.points for batch in batches] == [5_000] * 5 + [3_000]
    assert {batch.data.resource_metrics[0].resource for batch in batches} == {RESOURCE}


@given(
    points=st.integers(1, 30),
    size_bytes=st.integers(1, 20_000),
    paths=st.lists(st.text(max_size=300), max_size=40, unique=True),
)
def test_batches_stay_below_both_bounds(points: int, size_bytes: int, paths: list[str]) -> None:
    one = snapshot(
        transmit=column(
            [(labels(executable(number, exe=path)), number) for number, path in enumerate(paths)]
        )
    )
    encode_metrics = pytest.importorskip(
        "opentelemetry.exporter.otlp.proto.common.metrics_encoder"
    ).encode_metrics
    envelope = 500

    batches = list(mapping().batches(one, Limits(points=points, size_bytes=size_bytes)))

    assert sum(batch.points for batch in batches) == len(paths)
    for batch in batches:
        assert 1 <= batch.points <= points
        assert batch.points == 1 or encode_metrics(batch.data).ByteSize() <= size_bytes + envelope


def test_nothing_is_made_when_there_is_nothing() -> None:
    assert list(mapping().batches(snapshot())) == []


def test_delta_is_what_came_since_the_last_that_arrived() -> None:
    baseline = Baseline()
    first = snapshot(transmit=column([(labels(CURL), 10)]))
    baseline.begin(snapshot())
    batch = only(first, baseline)
    baseline.told(batch.positions)
    lost = only(later(first, transmit_bytes=column([(labels(CURL), 15)])), baseline)
    again = only(later(first, seconds=120, transmit_bytes=column([(labels(CURL), 17)])), baseline)

    assert [sum(values(one).values()) for one in (batch, lost, again)] == [10, 5, 7]
    data = metrics(again.data)["process.network.io"]
    assert isinstance(data, Sum)
    assert data.aggregation_temporality is AggregationTemporality.DELTA
    (point,) = data.data_points
    assert point.start_time_unix_nano == int(first.time_seconds * NS)


def test_delta_leaves_out_what_did_not_change_and_what_an_earlier_run_sent() -> None:
    baseline = Baseline()
    restored = snapshot(transmit=column([(labels(CURL), 10), (labels(OTHER), 5)]))
    baseline.begin(restored)

    batch = only(
        later(restored, transmit_bytes=column([(labels(CURL), 10), (labels(OTHER), 6)])), baseline
    )

    assert list(values(batch).values()) == [1]


def test_delta_wraps_around_as_the_total_does() -> None:
    baseline = Baseline()
    before = snapshot(transmit=column([(labels(CURL), 2**64 - 1)]))
    baseline.begin(before)

    batch = only(later(before, transmit_bytes=column([(labels(CURL), 4)])), baseline)

    assert list(values(batch).values()) == [5]


def test_series_that_are_gone_are_forgotten() -> None:
    baseline = Baseline()
    baseline.begin(large_snapshot(400))
    assert len(baseline) == 400

    baseline.keep(snapshot(transmit=column([(labels(CURL), 1)], first_number=7)))

    assert len(baseline) == 1


@given(
    steps=st.lists(
        st.tuples(st.dictionaries(st.integers(0, 5), st.integers(0, 100)), st.booleans())
    )
)
def test_sum_of_deltas_that_arrived_is_the_total_that_was_told(
    steps: list[tuple[dict[int, int], bool]],
) -> None:
    baseline = Baseline()
    baseline.begin(snapshot())
    totals: Counter[int] = Counter(dict.fromkeys(range(6), 0))
    arrived: Counter[Key] = Counter()
    steps.append(({}, True))
    for position, (added, arrives) in enumerate(steps):
        totals.update(added)
        one = later(
            snapshot(transmit=column([(labels(executable(one)), totals[one]) for one in range(6)])),
            seconds=position,
        )
        for batch in mapping(baseline).batches(one, Limits(points=2)):
            if arrives:
                baseline.told(batch.positions)
                arrived.update({key: int(value) for key, value in values(batch).items()})
        baseline.keep(one)

    assert sorted(arrived.values()) == sorted(total for total in totals.values() if total)
