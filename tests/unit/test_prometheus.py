import gzip
import os
from array import array
from dataclasses import replace
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.model import (
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
from picosnitch_exporter.outputs.negotiation import TEXT, accepts_gzip, choose_format
from picosnitch_exporter.outputs.prometheus import CHUNK_ROWS, Exposition, compress
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import (
    CREATED_SECONDS,
    column,
    executable,
    facts,
    labels,
    large_snapshot,
    snapshot,
)

CURL = Executable(sha256=Sha256("c" * 64), exe="/usr/bin/curl")
POD = Workload(namespace="prod", pod="web-1", container="app")
SMALL = snapshot(
    transmit=column([(labels(CURL), 2**64 - 1)]),
    connections=column([(labels(CURL, direction=Direction.OUTBOUND), 2)]),
    executables=(
        facts(
            1,
            of=CURL,
            name="curl",
            virustotal=VirusTotalResult(verdict=Verdict.CLEAN, harmless=60, undetected=9),
        ),
    ),
)


def rendered(
    shown: Snapshot,
    *,
    openmetrics: bool = False,
    exposition: Exposition | None = None,
    health: Health | None = None,
) -> str:
    exposition = exposition or Exposition(with_workload_labels=False)
    return b"".join(exposition.render(shown, health or Health(), openmetrics=openmetrics)).decode()


def traffic(text: str) -> str:
    """What is not about the exporter itself."""
    return text.partition("# HELP picosnitch_exporter_")[0]


def samples(text: str, *, openmetrics: bool = False) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    families = parse_openmetrics(text) if openmetrics else parse_text(text)  # type: ignore[no-untyped-call]
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_executable_has_a_series_of_its_own_when_it_was_deleted() -> None:
    shown = snapshot(executables=(facts(1), facts(2, of=CURL, is_deleted=True)))
    (deleted,) = samples(rendered(shown))["picosnitch_executable_deleted"]
    assert (deleted.labels, deleted.value) == ({"sha256": "c" * 64, "exe": "/usr/bin/curl"}, 1)


def test_text_is_exact_when_rendered() -> None:
    who = f'sha256="{"c" * 64}",exe="/usr/bin/curl"'
    parent = f'parent_exe="/usr/bin/bash",parent_sha256="{"0" * 64}"'
    prefix = "picosnitch_executable"
    assert traffic(rendered(SMALL)) == dedent(
        f"""\
        # HELP picosnitch_network_transmit_bytes_total {catalog.NETWORK_TRANSMIT_BYTES.help}
        # TYPE picosnitch_network_transmit_bytes_total counter
        picosnitch_network_transmit_bytes_total{{{who},protocol="tcp",scope="public"}} {2**64 - 1}
        # HELP picosnitch_network_receive_bytes_total {catalog.NETWORK_RECEIVE_BYTES.help}
        # TYPE picosnitch_network_receive_bytes_total counter
        # HELP picosnitch_connections_total {catalog.CONNECTIONS.help}
        # TYPE picosnitch_connections_total counter
        picosnitch_connections_total{{{who},protocol="tcp",scope="public",direction="outbound"}} 2
        # HELP picosnitch_connect_failures_total {catalog.CONNECT_FAILURES.help}
        # TYPE picosnitch_connect_failures_total counter
        # HELP {prefix}_info {catalog.EXECUTABLE_INFO.help}
        # TYPE {prefix}_info gauge
        {prefix}_info{{{who},name="curl",{parent},size_bytes="1234"}} 1
        # HELP {prefix}_first_seen_timestamp_seconds {catalog.EXECUTABLE_FIRST_SEEN.help}
        # TYPE {prefix}_first_seen_timestamp_seconds gauge
        {prefix}_first_seen_timestamp_seconds{{{who}}} 1700000000.250
        # HELP {prefix}_last_seen_timestamp_seconds {catalog.EXECUTABLE_LAST_SEEN.help}
        # TYPE {prefix}_last_seen_timestamp_seconds gauge
        {prefix}_last_seen_timestamp_seconds{{{who}}} 1700000010.250
        # HELP {prefix}_virustotal_verdict {catalog.VIRUSTOTAL_VERDICT.help}
        # TYPE {prefix}_virustotal_verdict gauge
        {prefix}_virustotal_verdict{{{who},verdict="clean"}} 1
        # HELP {prefix}_virustotal_engines {catalog.VIRUSTOTAL_ENGINES.help}
        # TYPE {prefix}_virustotal_engines gauge
        {prefix}_virustotal_engines{{{who},category="malicious"}} 0
        {prefix}_virustotal_engines{{{who},category="suspicious"}} 0
        {prefix}_virustotal_engines{{{who},category="harmless"}} 60
        {prefix}_virustotal_engines{{{who},category="undetected"}} 9
        # HELP {prefix}_deleted {catalog.EXECUTABLE_DELETED.help}
        # TYPE {prefix}_deleted gauge
        """
    )


def test_openmetrics_is_exact_when_rendered() -> None:
    who = f'sha256="{"c" * 64}",exe="/usr/bin/curl",protocol="tcp",scope="public"'
    text = rendered(SMALL, openmetrics=True)
    assert text.startswith(
        dedent(
            f"""\
            # HELP picosnitch_network_transmit_bytes {catalog.NETWORK_TRANSMIT_BYTES.help}
            # TYPE picosnitch_network_transmit_bytes counter
            # UNIT picosnitch_network_transmit_bytes bytes
            picosnitch_network_transmit_bytes_total{{{who}}} {2**64 - 1}
            picosnitch_network_transmit_bytes_created{{{who}}} 1700000000.250
            # HELP picosnitch_network_receive_bytes {catalog.NETWORK_RECEIVE_BYTES.help}
            """
        )
    )
    assert text.endswith("\n# EOF\n")
    assert text.count("# EOF") == 1


def test_own_metrics_are_exact_when_rendered() -> None:
    health = Health(clock=lambda: 1_700_000_000.5)
    health.count(catalog.EVENTS_LOST, ('a"b', "c\\d\n"), 2)
    lost = 'picosnitch_exporter_events_lost_total{reason="c\\\\d\\n",stage="a\\"b"} 2.0\n'
    text = rendered(snapshot(), health=health)
    assert lost in text
    assert "_created" not in text
    openmetrics = rendered(snapshot(), health=health, openmetrics=True)
    assert lost + lost.replace("_total", "_created").replace("2.0", "1.7000000005e+09") in (
        openmetrics
    )
    assert "# TYPE picosnitch_exporter_events_lost counter\n" in openmetrics
    assert (
        'picosnitch_exporter_drain_duration_seconds_bucket{le="+Inf"} 0.0\n'
        "picosnitch_exporter_drain_duration_seconds_count 0.0\n"
        "picosnitch_exporter_drain_duration_seconds_sum 0.0\n"
        "picosnitch_exporter_drain_duration_seconds_created 1.7000000005e+09\n"
    ) in openmetrics


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("with_workload_labels", [False, True])
def test_parser_of_the_official_client_reads_it_when_rendered(
    *, openmetrics: bool, with_workload_labels: bool
) -> None:
    health = Health()
    health.observe(catalog.HASH_DURATION, (), 0.2)
    health.count(catalog.UNSEEN_SOCKETS, ("c" * 64, "/usr/bin/curl", "prod", "web-1", "app", "xdp"))
    exposition = Exposition(with_workload_labels=with_workload_labels)
    shown = snapshot(
        transmit=column([(labels(CURL, workload=POD, scope=Scope.PRIVATE), 7)]),
        executables=(facts(1, of=CURL, workload=POD),),
    )
    found = samples(
        rendered(shown, exposition=exposition, health=health, openmetrics=openmetrics),
        openmetrics=openmetrics,
    )
    workload = {"namespace": "prod", "pod": "web-1", "container": "app"}
    who = {"sha256": "c" * 64, "exe": "/usr/bin/curl"} | (workload if with_workload_labels else {})
    (sent,) = found["picosnitch_network_transmit_bytes_total"]
    assert sent.labels == {**who, "protocol": "tcp", "scope": "private"}
    assert sent.value == 7
    (verdict,) = found["picosnitch_executable_virustotal_verdict"]
    assert verdict.labels == {**who, "verdict": "disabled"}
    assert "picosnitch_executable_virustotal_engines" not in found
    (unseen,) = found["picosnitch_exporter_unseen_sockets_total"]
    assert unseen.labels == {**who, "kind": "xdp"}
    created = found.get("picosnitch_network_transmit_bytes_created", [])
    assert [one.value for one in created] == ([CREATED_SECONDS] if openmetrics else [])


def test_own_readings_are_added_up_when_only_the_hidden_workload_differs() -> None:
    health = Health()
    for pod in ("web-1", "web-2"):
        health.count(catalog.UNSEEN_SOCKETS, ("c" * 64, "/curl", "prod", pod, "app", "xdp"))
    (unseen,) = samples(rendered(snapshot(), health=health))[
        "picosnitch_exporter_unseen_sockets_total"
    ]
    assert unseen.value == 2


@given(path=st.binary(), name=st.text())
def test_labels_come_back_when_parsed(path: bytes, name: str) -> None:
    exe = os.fsdecode(path)
    of = Executable(sha256=Sha256(""), exe=exe)
    shown = snapshot(transmit=column([(labels(of), 1)]), executables=(facts(1, of=of, name=name),))
    for openmetrics in (False, True):
        found = samples(rendered(shown, openmetrics=openmetrics), openmetrics=openmetrics)
        (sent,) = found["picosnitch_network_transmit_bytes_total"]
        (info,) = found["picosnitch_executable_info"]
        assert sent.labels["exe"] == info.labels["exe"] == label_value(exe)
        assert info.labels["name"] == label_value(name)


def test_labels_follow_the_series_when_others_come_and_go() -> None:
    exposition = Exposition(with_workload_labels=False)

    def column_of(numbers: list[int]) -> CounterColumn:
        return replace(
            column([(labels(executable(number)), number) for number in numbers]),
            numbers=array("Q", numbers),
        )

    for numbers in ([1, 2, 3], [3], [], [4, 3], [4, 3], [1]):
        found = samples(rendered(snapshot(receive=column_of(numbers)), exposition=exposition))
        assert [
            (one.labels["exe"], one.value)
            for one in found.get("picosnitch_network_receive_bytes_total", [])
        ] == [(f"/usr/bin/program-{number}", number) for number in numbers]


def test_labels_are_kept_once_when_what_was_sent_and_received_has_the_same() -> None:
    exposition = Exposition(with_workload_labels=False)
    sent = column([(labels(executable(one)), one) for one in range(3)])
    received = replace(sent, numbers=array("Q", [7, 8, 9]), values=array("Q", [5, 6, 7]))
    for _ in range(2):
        found = samples(rendered(snapshot(transmit=sent, receive=received), exposition=exposition))
        for name, values in (("transmit", [0, 1, 2]), ("receive", [5, 6, 7])):
            rows = found[f"picosnitch_network_{name}_bytes_total"]
            assert [one.value for one in rows] == values
            assert [one.labels["exe"] for one in rows] == [
                f"/usr/bin/program-{one}" for one in range(3)
            ]
    assert sorted(len(one._known) for one in exposition._columns) == [0, 0, 0, 3]


def test_cache_holds_no_more_than_the_snapshot_when_series_are_replaced() -> None:
    exposition = Exposition(with_workload_labels=False)
    for first_number in range(0, 1000, 10):
        series = column(
            [(labels(executable(one)), one) for one in range(10)], first_number=first_number
        )
        known = tuple(facts(first_number + one) for one in range(10))
        rendered(snapshot(transmit=series, executables=known), exposition=exposition)
        assert max(len(one._known) for one in exposition._columns) == 10
        assert len(exposition._facts._known) == 10


def test_info_changes_when_what_is_known_of_the_executable_does() -> None:
    exposition = Exposition(with_workload_labels=False)
    rendered(snapshot(executables=(facts(1, name="before"),)), exposition=exposition)
    shown = snapshot(executables=(facts(1, name="after"),))
    (info,) = samples(rendered(shown, exposition=exposition))["picosnitch_executable_info"]
    assert info.labels["name"] == "after"


def test_engines_are_left_out_when_there_was_no_analysis() -> None:
    pending = VirusTotalResult(verdict=Verdict.PENDING, checked_seconds=1.0)
    shown = snapshot(executables=(facts(1, virustotal=pending), facts(2)))
    found = samples(rendered(shown))
    assert [one.labels["verdict"] for one in found["picosnitch_executable_virustotal_verdict"]] == [
        "pending",
        "disabled",
    ]
    assert "picosnitch_executable_virustotal_engines" not in found


def test_chunks_are_bounded_when_there_are_many_series() -> None:
    exposition = Exposition(with_workload_labels=False)
    shown = large_snapshot(12_000)
    for openmetrics, lines in ((False, CHUNK_ROWS), (True, 2 * CHUNK_ROWS)):
        *bulk, _own = exposition.render(shown, Health(), openmetrics=openmetrics)
        assert max(chunk.count(b"\n") for chunk in bulk) == lines
        assert sum(chunk.count(b"transmit_bytes_total{") for chunk in bulk) == 3000


def test_health_is_read_last_when_streamed() -> None:
    health = Health()
    chunks = Exposition(with_workload_labels=False).render(SMALL, health, openmetrics=False)
    next(chunks)
    health.count(catalog.KERNEL_GAP_SECONDS, (), 42)
    assert b"picosnitch_exporter_kernel_gap_seconds_total 42.0\n" in b"".join(chunks)


def test_body_comes_back_when_compressed() -> None:
    body = rendered(large_snapshot(12_000)).encode()
    pieces = list(compress(body[start : start + 999] for start in range(0, len(body), 999)))
    assert gzip.decompress(b"".join(pieces)) == body
    assert len(pieces) > 1
    assert gzip.decompress(b"".join(compress(()))) == b""


OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,/;q=0.1"
)


@pytest.mark.parametrize(
    ("content_type", "accept"),
    [
        (TEXT.content_type, ""),
        (TEXT.content_type, "*/*"),
        (TEXT.content_type, "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
        (TEXT.content_type, "image/png"),
        (TEXT.content_type, "text/plain;version=0.0.4;q=0.5"),
        (TEXT.content_type, "text/*"),
        (OPENMETRICS, "application/openmetrics-text"),
        (OPENMETRICS, "Application/OpenMetrics-Text ; Version=1.0.0"),
        (OPENMETRICS, 'application/openmetrics-text; version="1.0.0"'),
        (OPENMETRICS, PROMETHEUS_2),
        (OPENMETRICS + "; escaping=allow-utf-8", PROMETHEUS_3),
        (TEXT.content_type, "application/openmetrics-text;q=0.2,text/plain;q=0.9"),
        (TEXT.content_type, "application/openmetrics-text;q=0"),
        (TEXT.content_type, "application/openmetrics-text;q=nan"),
        (TEXT.content_type, "application/openmetrics-text;q=much"),
        (TEXT.content_type, "application/openmetrics-text;version=0.0.1"),
        (TEXT.content_type, "application/openmetrics-text;version=2.0.0"),
        (OPENMETRICS + "; escaping=values", "application/openmetrics-text;escaping=values"),
        (OPENMETRICS + "; escaping=underscores", "application/openmetrics-text;escaping=dots"),
        (
            OPENMETRICS + "; escaping=underscores",
            "application/openmetrics-text;escaping=x%0d%0aSet-Cookie",
        ),
        (
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
            "text/plain;version=1.0.0;escaping=underscores",
        ),
    ],
)
def test_format_is_chosen_when_asked_for(content_type: str, accept: str) -> None:
    chosen = choose_format(accept)
    assert chosen.content_type == content_type
    assert chosen.openmetrics == content_type.startswith("application/openmetrics-text")


@given(st.text())
def test_format_is_one_of_those_that_exist_when_asked_for_anything(accept: str) -> None:
    assert choose_format(accept).content_type.startswith(("text/plain", OPENMETRICS))
    accepts_gzip(accept)


@pytest.mark.parametrize(
    ("accepted", "header"),
    [
        (False, ""),
        (True, "gzip"),
        (True, "deflate, GZIP;q=0.5"),
        (True, "x-gzip"),
        (True, "*"),
        (False, "identity"),
        (False, "gzip;q=0"),
        (False, "gzip;q=0.000, *"),
        (False, "*;q=0"),
        (False, "gzip;q=-1"),
        (False, "notgzip"),
    ],
)
def test_gzip_is_used_when_allowed(*, accepted: bool, header: str) -> None:
    assert accepts_gzip(header) == accepted
