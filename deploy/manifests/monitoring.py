"""What Prometheus's operator and Grafana's sidecar read: from the rules and dashboards."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.manifests.objects import NAME, namespace
from deploy.manifests.values import Expression, Json, Tree, Value

ROOT = Path(__file__).parents[2]
RULES = ("recording-rules.yml", "alert-rules.yml")
_LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/component": "monitoring"}

POD_MONITOR = Value(
    path="podMonitor.enabled", default=False, comment="for Prometheus's operator; needs its CRDs"
)
INTERVAL = Value(path="podMonitor.interval", default="30s", comment="between two scrapes")
MONITOR_LABELS = Value(
    path="podMonitor.labels", default={}, comment="what the operator's podMonitorSelector asks for"
)
RULE = Value(
    path="prometheusRule.enabled", default=False, comment="alerts and recording rules, as above"
)
RULE_LABELS = Value(
    path="prometheusRule.labels", default={}, comment="what the operator's ruleSelector asks for"
)
DASHBOARDS = Value(
    path="dashboards.enabled",
    default=False,
    comment="ConfigMaps for the sidecar of Grafana's chart",
)
DASHBOARD_LABELS = Value(
    path="dashboards.labels",
    default={"grafana_dashboard": "1"},
    comment="what the sidecar looks for",
)


def pod_monitor() -> Tree:
    """Each node is one instance, whichever pod runs there."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": NAME, "namespace": namespace(), "labels": MONITOR_LABELS},
        "spec": {
            "selector": {
                "matchLabels": {
                    "app.kubernetes.io/name": NAME,
                    "app.kubernetes.io/component": "exporter",
                }
            },
            "podMetricsEndpoints": [
                {
                    "port": "metrics",
                    "interval": INTERVAL,
                    # namespace, pod and container are those of the executable, not the exporter's.
                    "honorLabels": True,
                    "relabelings": [
                        {
                            "sourceLabels": ["__meta_kubernetes_pod_node_name"],
                            "targetLabel": "instance",
                        },
                        {"action": "labeldrop", "regex": "namespace|pod|container|endpoint"},
                    ],
                }
            ],
        },
    }


def groups() -> Json:
    """The groups of both files of rules."""
    found: list[Json] = []
    for name in RULES:
        text = (ROOT / "deploy" / "prometheus" / name).read_text(encoding="utf-8")
        found.extend(yaml.safe_load(text)["groups"])
    return found


def prometheus_rule() -> Tree:
    """Alerts and recording rules."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME, "namespace": namespace(), "labels": RULE_LABELS},
        "spec": Expression(
            text='{{ .Files.Get "files/rules.json" | trim }}', default={"groups": groups()}
        ),
    }


def dashboards() -> Iterator[tuple[str, str]]:
    """Name and content of each, without the blanks that people read by.

    Only those of Prometheus: the log's need a database that is not made here.
    """
    for path in sorted((ROOT / "dashboards" / "json").glob("picosnitch-*.json")):
        if not path.stem.startswith("picosnitch-log-"):
            yield path.name, json.dumps(json.loads(path.read_text(encoding="utf-8"))) + "\n"


def dashboard_map(name: str, content: str) -> Tree:
    """One dashboard: each has a ConfigMap of its own, which has room for 1 MiB."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name.removesuffix(".json").replace("picosnitch-", "picosnitch-dashboard-"),
            "namespace": namespace(),
            "labels": DASHBOARD_LABELS,
        },
        "data": {
            name: Expression(text=f'{{{{ .Files.Get "files/{name}" | toJson }}}}', default=content)
        },
    }
