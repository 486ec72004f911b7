"""The real exporter, Prometheus and Alertmanager, with rules and dashboards as they are shipped.

Only the intervals are shorter (scrape and evaluation 1 s instead of 15 s and 1 min, group_wait
0 s): the rules' own times stay. That the host was watched before is written into Prometheus's past.
"""

import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dashboards.links import PROMETHEUS_UIDS
from tests.grafana import DASHBOARDS, Json, PanelQuery, in_promql, queries, variables
from tests.kernel.exporter import Exporter, poll
from tests.kernel.generator import Generator, Program
from tests.kernel.network import Network, address, make_network
from tests.monitoring_servers import (
    Prometheus,
    Webhook,
    alertmanager,
    await_true,
    prometheus,
    webhook,
)

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
INSTANCE = "watched"
RULES_TIME_SECONDS = 15.0
"""3 s until traffic shows on /metrics, 1 s each until it is scraped, recorded, evaluated and sent;
the rest is for a machine that is busy."""

# Panels and rules that may be empty here: what they show does not happen in this test.
NOT_LOST = "nothing is lost or delayed here"
NO_VIRUSTOTAL = "VirusTotal is off here; the cases for promtool have verdicts"
NOT_DELETED = "nothing is deleted here; tests/kernel has the metric, promtool's cases the alert"
BEST_PLAN = "kernels that take the best plan have nothing to show"
EMPTY_HERE = {
    "Plans that were refused": BEST_PLAN,
    "Not counted by the plan": BEST_PLAN,
    "Deleted while they run": NOT_DELETED,
    "PicosnitchDeletedExecutable": NOT_DELETED,
    "Malicious and suspicious": NO_VIRUSTOTAL,
    "Engines": NO_VIRUSTOTAL,
    "VirusTotal": NO_VIRUSTOTAL,
    "PicosnitchMaliciousExecutable": NO_VIRUSTOTAL,
    "PicosnitchSuspiciousExecutable": NO_VIRUSTOTAL,
    "PicosnitchVirusTotalQuota": NO_VIRUSTOTAL,
    "Sockets that nobody can count": "no AF_XDP socket, no mapped packet ring here",
    "Records lost": NOT_LOST,
    "Records delayed": NOT_LOST,
    "Rows dropped": NOT_LOST,
    "Failed writes": NOT_LOST,
    "Executables without a hash": NOT_LOST,
    "Executables refused": NOT_LOST,
    "PicosnitchRecordsLost": NOT_LOST,
    "PicosnitchUnattributedBytes": NOT_LOST,
    "PicosnitchKernelGap": NOT_LOST,
    "PicosnitchLogBacklog": NOT_LOST,
    "PicosnitchLogRowsDropped": NOT_LOST,
    "PicosnitchSeriesRefused": NOT_LOST,
    "PicosnitchUnhashedExecutable": NOT_LOST,
    "PicosnitchKernelMapNearlyFull": "a few sockets fill no table",
    "PicosnitchExporterDown": "it is not down for 5 minutes",
    "PicosnitchExporterAbsent": "it is there",
    "PicosnitchPublicTrafficSpike": "takes a day of past",
    "Kubernetes": "off here",
    "OTLP": "off here",
    "Notifications": "off here",
    "BPF programs: time a run": "the sysctl kernel.bpf_stats_enabled is off",
    "namespace": "there are no pods on this machine",
    "pod": "there are no pods on this machine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """All that runs, and two programs that were seen before anything is tried."""

    exporter: Exporter
    prometheus: Prometheus
    webhook: Webhook
    network: Network
    generator: Generator
    client: Program
    server: Program

    def talk(self, client: Program, *, size: int = 100_000) -> None:
        """The client sends to the known server, between public addresses."""
        with self.server.start(
            "tcp-server", bind=address("public", of_right=True), netns=self.network.right
        ) as sink:
            with client.start(
                "tcp-client",
                host=address("public", of_right=True),
                port=sink.ready().port,
                bytes=size,
                netns=self.network.left,
            ) as source:
                source.done()
            sink.done()

    def fail(self, client: Program, *, count: int) -> None:
        """Connects to a port of the peer on which nobody listens."""
        with client.start(
            "refused",
            host=address("public", of_right=True),
            port=9,
            count=count,
            netns=self.network.left,
        ) as refused:
            refused.done()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if os.geteuid() != 0:
        pytest.fail("the exporter loads BPF programs: run this as root")
    generator = Generator.build(tmp_path_factory.mktemp("traffic"))
    with (
        webhook() as receiver,
        alertmanager(config=alertmanager_config(receiver)) as manager,
        make_network("picosnitch-prometheus") as network,
        Exporter.start({"log": {"write_limit_seconds": 1}}) as exporter,
        prometheus(
            config=prometheus_config(manager.port),
            rules=[FOLDER / "recording-rules.yml", FOLDER / "alert-rules.yml"],
            history=watched_before(),
        ) as server,
    ):
        made = Stack(
            exporter=exporter,
            prometheus=server,
            webhook=receiver,
            network=network,
            generator=generator,
            client=generator.copy("client"),
            server=generator.copy("server"),
        )
        server.point_at({INSTANCE: [exporter.address]})
        # Twice, so that what is shown at first goes up as well.
        for count in (1, 2):
            made.talk(made.client)
            made.fail(made.client, count=400)
            expr = f'picosnitch_connections_total{{sha256="{made.client.sha256}"}}'
            if not poll(lambda: server.value(expr) >= count, seconds=60):  # noqa: B023
                pytest.fail(f"{expr} is not {count}\n{exporter.said()}")
        yield made


def watched_before() -> dict[str, list[tuple[float, float]]]:
    """What Prometheus has of the host from an hour ago: the exporter ran there."""
    now = time.time()
    minutes = [(now - 60 * minute, 1.0) for minute in range(75, 20, -1)]
    target = f'job="picosnitch",instance="{INSTANCE}"'
    return {f'picosnitch_exporter_build_info{{{target},version="0.0.1",revision=""}}': minutes}


def prometheus_config(alertmanager_port: int) -> Json:
    config: Json = yaml.safe_load((FOLDER / "prometheus.example.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (targets,) = config["alerting"]["alertmanagers"][0]["static_configs"]
    targets["targets"] = [f"127.0.0.1:{alertmanager_port}"]
    return config


def alertmanager_config(receiver: Webhook) -> Json:
    config: Json = yaml.safe_load((FOLDER / "alertmanager.example.yml").read_text())
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{receiver.port}/"
    return config


def test_promtool_finds_nothing_in_the_metrics(stack: Stack) -> None:
    with urllib.request.urlopen(f"http://{stack.exporter.address}/metrics", timeout=10) as answer:
        text = answer.read()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_webhook_hears_of_a_new_executable_within_the_rules_time(stack: Stack) -> None:
    program = stack.generator.copy("brand-new")
    stack.talk(program)
    started = time.time()

    def heard(name: str) -> list[tuple[float, Json]]:
        return stack.webhook.alerts(name=name, sha256=program.sha256)

    await_true(
        lambda: bool(heard("PicosnitchNewExecutableInFleet")),
        "PicosnitchNewExecutableInFleet",
        seconds=RULES_TIME_SECONDS,
    )
    seconds, alert = heard("PicosnitchNewExecutableInFleet")[0]
    assert seconds - started < RULES_TIME_SECONDS
    assert alert["status"] == "firing"
    assert alert["labels"]["exe"] == str(program.path)
    assert alert["labels"]["severity"] == "warning"
    assert program.sha256 in alert["annotations"]["description"]
    # It runs from /tmp and talked to a public address.
    await_true(
        lambda: bool(heard("PicosnitchTemporaryExecutable")),
        "PicosnitchTemporaryExecutable",
        seconds=RULES_TIME_SECONDS,
    )


def test_alert_for_the_host_fires_too_but_is_said_once(stack: Stack) -> None:
    name, sha256 = "PicosnitchNewExecutableOnHost", stack.client.sha256
    await_true(
        lambda: any(
            alert["labels"]["alertname"] == name and alert["labels"].get("sha256") == sha256
            for alert in stack.prometheus.alerts()
        ),
        name,
        seconds=RULES_TIME_SECONDS,
    )
    assert stack.webhook.alerts(name="PicosnitchNewExecutableInFleet", sha256=sha256)


def test_many_failed_connects_are_on_their_way_to_an_alert(stack: Stack) -> None:
    expr = (
        "job_instance_sha256_exe:picosnitch_connect_failures:increase5m"
        f'{{sha256="{stack.client.sha256}"}}'
    )
    await_true(lambda: stack.prometheus.value(expr) > 300, expr, seconds=RULES_TIME_SECONDS)
    pending = [alert["labels"] for alert in stack.prometheus.alerts(state="pending")]
    assert stack.client.sha256 in {
        labels.get("sha256")
        for labels in pending
        if labels["alertname"] == "PicosnitchManyFailedConnects"
    }


def test_modified_executable_is_on_its_way_to_an_alert(stack: Stack) -> None:
    before = stack.generator.copy("modified")
    stack.talk(before)
    expr = f'picosnitch_executable_info{{exe="{before.path}"}}'
    await_true(lambda: bool(stack.prometheus.query(expr)), expr, seconds=RULES_TIME_SECONDS)
    content = before.path.read_bytes() + b"and more"
    before.path.write_bytes(content)
    after = Program(path=before.path, sha256=hashlib.sha256(content).hexdigest())
    stack.talk(after)

    def pending() -> set[tuple[str, str]]:
        return {
            (alert["labels"]["exe"], alert["labels"]["sha256"])
            for alert in stack.prometheus.alerts(state="pending")
            if alert["labels"]["alertname"] == "PicosnitchExecutableModified"
        }

    wanted = (str(after.path), after.sha256)
    await_true(lambda: wanted in pending(), str(wanted), seconds=RULES_TIME_SECONDS)


@pytest.mark.parametrize("uid", PROMETHEUS_UIDS)
def test_queries_of_the_panels_return_data(stack: Stack, uid: str) -> None:
    wanted = [query for query in queries(uid, DASHBOARDS[uid]) if query.title not in EMPTY_HERE]

    def empty() -> list[str]:
        return [str(query) for query in wanted if not results(stack, query)]

    poll(lambda: not empty(), seconds=20)
    assert empty() == []
    # These may be empty, but must not fail.
    for query in queries(uid, DASHBOARDS[uid]):
        results(stack, query)


@pytest.mark.parametrize("uid", PROMETHEUS_UIDS)
def test_variables_have_values(stack: Stack, uid: str) -> None:
    for name, variable in variables(DASHBOARDS[uid]).items():
        if variable["type"] != "query":
            continue
        function, _, rest = variable["query"].partition("(")
        expr = rest.removesuffix(")")
        if function == "label_values":
            expr, _, label = expr.rpartition(", ")
            expr = f"group by ({label}) ({expr})"
        found = stack.prometheus.query(in_promql(expr, VALUES | {"executable": ".+"}))
        if name not in EMPTY_HERE:
            assert found, variable["query"]


def test_rules_are_evaluated_and_return_data(stack: Stack) -> None:
    rules = stack.prometheus.rules()
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
    assert {rule["health"] for rule in rules} == {"ok"}
    wanted = {rule["name"] for rule in rules} - set(EMPTY_HERE)

    def silent() -> set[str]:
        recorded = {name for name in wanted if ":" in name and stack.prometheus.query(name)}
        alerts = {rule["name"] for rule in stack.prometheus.rules() if rule.get("alerts")}
        return wanted - recorded - alerts

    poll(lambda: not silent(), seconds=20)
    assert silent() == set()


def test_restart_of_the_exporter_causes_no_alert(stack: Stack) -> None:
    # What others run on this machine may be new too: what is younger may be on its way to an alert.
    old = "time() - picosnitch_executable_first_seen_timestamp_seconds > 10"
    await_true(lambda: stack.client.sha256 in hashes(stack, old), old, seconds=30)
    known = hashes(stack, old)
    before = stack.prometheus.value("picosnitch_network_transmit_bytes_total")
    firing = active(stack)
    restarted = time.time()
    stack.exporter.stop(signal.SIGTERM)
    await_true(lambda: bool(stack.prometheus.scrape_problems()), "the scrape fails", seconds=20)
    stack.exporter.launch()
    stack.prometheus.point_at({INSTANCE: [stack.exporter.address]})
    stack.talk(stack.client)
    expr = "picosnitch_network_transmit_bytes_total"
    await_true(lambda: stack.prometheus.value(expr) > before, "it counts on", seconds=30)
    # Ten evaluations of each rule with the exporter back.
    seen = last_evaluations(stack)
    await_true(
        lambda: all(
            now - then > 10 for now, then in zip(last_evaluations(stack), seen, strict=True)
        ),
        "ten evaluations",
        seconds=30,
    )
    told = {
        (alert["labels"]["alertname"], alert["labels"].get("exe"))
        for seconds, alert in stack.webhook.received
        if seconds > restarted and alert["labels"].get("sha256", "") in {"", *known}
    }
    # Others may keep this machine so busy that something is really lost.
    if stack.exporter.scrape().losses():
        told -= {("PicosnitchRecordsLost", None), ("PicosnitchUnattributedBytes", None)}
    assert told == set()
    # What fired goes on as it was: same alert, same beginning.
    assert firing <= active(stack)


def hashes(stack: Stack, expr: str) -> set[str]:
    return {found["metric"].get("sha256", "") for found in stack.prometheus.query(expr)}


def active(stack: Stack) -> set[tuple[str, str]]:
    return {
        (json.dumps(alert["labels"], sort_keys=True), alert["activeAt"])
        for alert in stack.prometheus.alerts()
    }


def last_evaluations(stack: Stack) -> list[float]:
    """Times of the rules' last evaluations, by Prometheus's own clock."""
    return [
        time.mktime(time.strptime(rule["lastEvaluation"][:19], "%Y-%m-%dT%H:%M:%S"))
        for rule in stack.prometheus.rules()
    ]


VALUES = {
    "__rate_interval": "30s",
    "__range": "5m",
    "job": ".+",
    "instance": ".+",
    "namespace": ".*",
    "pod": ".*",
}


def results(stack: Stack, query: PanelQuery) -> list[Json]:
    expr = in_promql(query.text, VALUES | {"executable": stack.client.sha256})
    if query.is_range:
        return stack.prometheus.query_range(expr, seconds=60, step=5)
    return stack.prometheus.query(expr)
