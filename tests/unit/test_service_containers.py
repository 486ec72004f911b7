from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter.config.kubernetes import SERVICE_ACCOUNT, KubernetesAccess, access
from picosnitch_exporter.model import (
    HOST,
    CounterTotal,
    Executable,
    KnownExecutable,
    Persisted,
    Scope,
    SeriesLabels,
    Sha256,
    Workload,
)
from picosnitch_exporter.service.containers import Workloads, has_labels
from picosnitch_exporter.settings import KubernetesSettings
from picosnitch_exporter.state.health import Health

ID = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376"
IN_POD = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "KUBERNETES_SERVICE_PORT": "6443",
    "NODE_NAME": "node-1",
}
AUTO = KubernetesSettings()
ON = KubernetesSettings(enabled=True)
OFF = KubernetesSettings(enabled=False)
EXECUTABLE = Executable(sha256=Sha256("ab"), exe="/bin/x")
CONTAINER = Workload(container=ID)


def labels(workload: Workload) -> SeriesLabels:
    return SeriesLabels(
        executable=EXECUTABLE, workload=workload, protocol="tcp", scope=Scope.PUBLIC
    )


def total(workload: Workload, value: int) -> CounterTotal:
    return CounterTotal(
        metric="transmit_bytes", labels=labels(workload), value=value, created_seconds=1.0
    )


def known(workload: Workload, first: float, last: float) -> KnownExecutable:
    return KnownExecutable(
        executable=EXECUTABLE,
        workload=workload,
        name="x",
        parent=EXECUTABLE,
        size_bytes=1,
        first_seen_seconds=first,
        last_seen_seconds=last,
    )


def make(settings: KubernetesSettings) -> Workloads:
    failures: list[BaseException] = []
    return Workloads(settings, {}, health=Health(), failed=failures.append)


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        (ON, {}, True),
        (OFF, IN_POD, False),
        (AUTO, IN_POD, True),
        (AUTO, {}, False),
    ],
)
def test_labels_are_on_when_wanted_or_in_a_pod(
    settings: KubernetesSettings, environment: dict[str, str], *, expected: bool, tmp_path: Path
) -> None:
    found = has_labels(
        settings, environment, cgroup_mount=tmp_path, runtimes=(tmp_path / "docker",)
    )

    assert found is expected


@pytest.mark.parametrize("path", [f"docker-{ID}.scope", f"pids/docker/{ID}"])
def test_labels_are_on_when_a_container_runs_at_the_start(path: str, tmp_path: Path) -> None:
    (tmp_path / path).mkdir(parents=True)

    assert has_labels(AUTO, {}, cgroup_mount=tmp_path, runtimes=())


def test_labels_are_on_when_a_runtime_is_installed(tmp_path: Path) -> None:
    assert has_labels(AUTO, {}, cgroup_mount=tmp_path / "none", runtimes=(tmp_path,))


def test_totals_of_containers_end_when_labels_are_off() -> None:
    persisted = Persisted(
        totals=(total(HOST, 1), total(CONTAINER, 2)),
        executables=(known(CONTAINER, 5.0, 9.0), known(HOST, 3.0, 7.0)),
    )

    assert make(ON).adapt(persisted) is persisted
    assert make(OFF).adapt(persisted) == replace(
        persisted, totals=(total(HOST, 1),), executables=(known(HOST, 3.0, 9.0),)
    )


def test_api_is_that_of_the_cluster_when_in_a_pod() -> None:
    assert access(AUTO, IN_POD) == KubernetesAccess(
        url="https://10.0.0.1:6443",
        node_name="node-1",
        token_file=SERVICE_ACCOUNT / "token",
        ca_file=SERVICE_ACCOUNT / "ca.crt",
    )


def test_host_has_brackets_when_it_is_ipv6() -> None:
    found = access(AUTO, IN_POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"})

    assert found is not None
    assert found.url == "https://[fd00::1]:6443"


def test_settings_win_when_both_are_there() -> None:
    settings = KubernetesSettings(
        node_name="node-2",
        api_url="https://api.example/",
        token_file=Path("/t"),
        ca_file=Path("/c"),
    )

    assert access(settings, IN_POD) == KubernetesAccess(
        url="https://api.example", node_name="node-2", token_file=Path("/t"), ca_file=Path("/c")
    )


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "NODE_NAME"])
def test_nobody_is_asked_when_server_or_node_are_unknown(missing: str) -> None:
    assert access(AUTO, IN_POD | {missing: ""}) is None


def test_nobody_is_asked_when_it_is_off() -> None:
    assert access(OFF, IN_POD) is None
