import os
import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import METRICS, Kind, label_value
from picosnitch_exporter.outputs.prometheus import Exposition
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import column, executable, facts, labels, snapshot

# From CONTRACT: dashboards and alert rules rely on these.
CONTRACT = {
    "picosnitch_network_transmit_bytes_total": ("counter", ("protocol", "scope")),
    "picosnitch_network_receive_bytes_total": ("counter", ("protocol", "scope")),
    "picosnitch_connections_total": ("counter", ("protocol", "scope", "direction")),
    "picosnitch_connect_failures_total": ("counter", ("protocol", "scope")),
    "picosnitch_executable_info": (
        "gauge",
        ("name", "parent_exe", "parent_sha256", "size_bytes"),
    ),
    "picosnitch_executable_first_seen_timestamp_seconds": ("gauge", ()),
    "picosnitch_executable_last_seen_timestamp_seconds": ("gauge", ()),
    "picosnitch_executable_virustotal_verdict": ("gauge", ("verdict",)),
    "picosnitch_executable_virustotal_engines": ("gauge", ("category",)),
    "picosnitch_executable_deleted": ("gauge", ()),
}


def test_names_and_labels_are_those_of_the_contract_when_of_executables() -> None:
    named = {
        metric.name: (metric.kind.value, metric.labels) for metric in catalog.EXECUTABLE_METRICS
    }
    assert named == CONTRACT
    assert all(metric.of_executable for metric in catalog.EXECUTABLE_METRICS)


def test_labels_begin_with_the_executable_when_workloads_are_on_or_off() -> None:
    metric = catalog.NETWORK_TRANSMIT_BYTES
    assert metric.label_names(with_workload_labels=False) == ("sha256", "exe", "protocol", "scope")
    assert metric.label_names(with_workload_labels=True) == (
        "sha256",
        "exe",
        "namespace",
        "pod",
        "container",
        "protocol",
        "scope",
    )


def test_names_are_unique_when_families_are_compared() -> None:
    families = [metric.family for metric in METRICS]
    assert len(families) == len(set(families))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_follows_the_naming_rules_when_read_alone(metric: catalog.Metric) -> None:
    assert re.fullmatch(r"picosnitch_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.family.endswith(f"_{metric.unit}" if metric.unit else "")
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    assert not {"pid", "cmdline", "le", "quantile"} & set(metric.labels)
    assert all(len(values) == len(metric.labels) for values in metric.presets)
    assert bool(metric.otlp_name) == bool(metric.otlp_unit) == metric.of_executable or (
        metric in catalog.OWN_METRICS
    )


def test_promtool_finds_nothing_when_every_metric_has_a_sample() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: make setup")
    health = Health()
    for metric in catalog.OWN_METRICS:
        values = tuple(metric.label_names(with_workload_labels=True))
        match metric.kind:
            case Kind.COUNTER:
                health.count(metric, values)
            case Kind.GAUGE:
                health.set(metric, values, 1)
            case Kind.HISTOGRAM:
                health.observe(metric, values, 1)
    series = column([(labels(executable(1)), 1)])
    everything = snapshot(
        transmit=series,
        receive=series,
        connections=series,
        connect_failures=series,
        executables=(facts(1),),
    )
    for with_workload_labels in (False, True):
        exposition = Exposition(with_workload_labels=with_workload_labels)
        body = b"".join(exposition.render(everything, health, openmetrics=False))
        lint = subprocess.run(
            [promtool, "check", "metrics"], input=body, capture_output=True, check=False
        )
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/usr/bin/ä", "/usr/bin/ä".encode()),
        ('a"b\nc', b'a"b\nc'),
        (r"/srv/a\b", rb"/srv/a\b"),
        (r"/srv/\xff\xfe", b"/srv/\xff\xfe"),
        (r"/srv/\x5cxff", rb"/srv/\xff"),
        (r"/srv/\xFF", rb"/srv/\xFF"),
        (r"\x00", b"\0"),
    ],
)
def test_label_value_is_readable_when_made_of_a_path(value: str, path: bytes) -> None:
    assert value == label_value(os.fsdecode(path))


@given(st.binary())
@example(rb"\x5cxff")
@example(rb"\\xff" + b"\xff")
@example(b"\\x5\xff")
def test_label_value_gives_back_the_path_when_escapes_are_undone(path: bytes) -> None:
    value = label_value(os.fsdecode(path)).encode()
    assert path == re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), value)


@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\ud800")
def test_label_value_is_utf8_when_given_any_text(text: str) -> None:
    assert b"\0" not in label_value(text).encode()


def test_each_label_of_an_executable_has_a_name_in_otlp() -> None:
    labels = {
        label
        for metric in catalog.EXECUTABLE_METRICS
        for label in metric.label_names(with_workload_labels=True)
    }

    assert set(catalog.OTLP_ATTRIBUTES) == labels
    assert len(set(catalog.OTLP_ATTRIBUTES.values())) == len(labels)
