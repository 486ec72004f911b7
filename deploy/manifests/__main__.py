"""`python -m deploy.manifests [--check]`: write deploy/kubernetes and deploy/helm.

With --check it says what is not up to date. What people change is not written here: overlays.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.manifests import monitoring, objects
from deploy.manifests.values import Tree, Value, dump, plain, template, values_file, values_of
from picosnitch_exporter import __version__

DEPLOY = Path(__file__).parents[1]
BASE = "kubernetes/base"
COMPONENTS = "kubernetes/components"
CHART = f"helm/{objects.NAME}"
_WRITTEN = "# Written by `make manifests` from deploy/manifests: change that.\n"

_BASE_OBJECTS: dict[str, Tree] = {
    "serviceaccount": objects.service_account(),
    "clusterrole": objects.cluster_role(),
    "clusterrolebinding": objects.cluster_role_binding(),
    "configmap": objects.config_map(),
    "daemonset": objects.daemon_set(),
    "service": objects.service(),
}
_POLICY = Value(
    path="networkPolicy.enabled", default=True, comment="without effect where nothing enforces it"
)
_CONDITIONAL: dict[str, tuple[Value, Tree]] = {
    "networkpolicy": (_POLICY, objects.network_policy()),
    "podmonitor": (monitoring.POD_MONITOR, monitoring.pod_monitor()),
    "prometheusrule": (monitoring.RULE, monitoring.prometheus_rule()),
}


def texts() -> Iterator[tuple[str, str]]:
    """Path below deploy/ and content of each file."""
    yield from _base()
    yield from _components()
    yield from _chart()


def _base() -> Iterator[tuple[str, str]]:
    files = {
        "namespace": objects.namespace_object(),
        **_BASE_OBJECTS,
        "networkpolicy": objects.network_policy(),
    }
    for name, tree in files.items():
        yield f"{BASE}/{name}.yaml", _WRITTEN + dump(plain(tree))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{name}.yaml" for name in files],
    }
    yield f"{BASE}/kustomization.yaml", _WRITTEN + dump(kustomization)


def _components() -> Iterator[tuple[str, str]]:
    operator = {
        "podmonitor.yaml": monitoring.pod_monitor(),
        "prometheusrule.yaml": monitoring.prometheus_rule(),
    }
    grafana = {
        name.replace(".json", ".yaml"): monitoring.dashboard_map(name, content)
        for name, content in monitoring.dashboards()
    }
    for component, files in (("prometheus-operator", operator), ("grafana-dashboards", grafana)):
        for name, tree in files.items():
            yield f"{COMPONENTS}/{component}/{name}", _WRITTEN + dump(plain(tree))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "resources": sorted(files),
        }
        yield f"{COMPONENTS}/{component}/kustomization.yaml", _WRITTEN + dump(kustomization)


def _chart() -> Iterator[tuple[str, str]]:
    chart = {
        "apiVersion": "v2",
        "name": objects.NAME,
        "description": "Network traffic of every executable, by SHA-256, for Prometheus",
        "type": "application",
        "version": __version__,
        "appVersion": __version__,
        "kubeVersion": ">=1.30.0-0",
    }
    yield f"{CHART}/Chart.yaml", _WRITTEN + dump(chart)
    yield f"{CHART}/values.yaml", _WRITTEN + values_file(_values())
    for name, tree in _BASE_OBJECTS.items():
        yield f"{CHART}/templates/{name}.yaml", template(tree)
    for name, (enabled, tree) in _CONDITIONAL.items():
        yield f"{CHART}/templates/{name}.yaml", _if(enabled, template(tree))
    boards = dict(monitoring.dashboards())
    documents = [template(monitoring.dashboard_map(*item)) for item in boards.items()]
    yield (
        f"{CHART}/templates/dashboards.yaml",
        _if(monitoring.DASHBOARDS, "---\n".join(documents)),
    )
    for name, content in boards.items():
        yield f"{CHART}/files/{name}", content
    yield f"{CHART}/files/rules.json", json.dumps({"groups": monitoring.groups()}) + "\n"


def _if(enabled: Value, text: str) -> str:
    return f"{{{{- if .Values.{enabled.path} }}}}\n{text}{{{{- end }}}}\n"


def _values() -> Sequence[Value]:
    """All that the templates name, by groups."""
    conditional = [value for value, _tree in _CONDITIONAL.values()]
    boards = [monitoring.dashboard_map(*item) for item in monitoring.dashboards()]
    trees = [*_BASE_OBJECTS.values(), *(tree for _value, tree in _CONDITIONAL.values()), *boards]
    found = values_of(
        [
            *trees,
            *objects.IMAGE_VALUES,
            objects.POD_ANNOTATIONS,
            *conditional,
            monitoring.DASHBOARDS,
        ]
    )
    return sorted(
        found.values(),
        key=lambda value: (
            value.path.rpartition(".")[0],
            not value.path.endswith(".enabled"),
            value.path,
        ),
    )


def main(arguments: list[str]) -> int:
    """Exit code 1 if --check finds a difference."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m deploy.manifests [--check]", file=sys.stderr)  # noqa: T201 - for the terminal
        return 2
    wanted = {DEPLOY / name: text for name, text in texts()}
    owned = [DEPLOY / BASE, DEPLOY / COMPONENTS, DEPLOY / CHART]
    found = {
        path: path.read_text(encoding="utf-8")
        for folder in owned
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"NOTES.txt", ".helmignore"}
    }
    different = sorted(path for path in {*wanted, *found} if wanted.get(path) != found.get(path))
    for path in different:
        print(path.relative_to(DEPLOY))  # noqa: T201 - as above
        if arguments:
            continue
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 1 if arguments and different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
