import platform
import socket
from pathlib import Path

import pytest

from picosnitch_exporter.outputs.otlp.resource import detect


def found(tmp_path: Path, environment: dict[str, str] | None = None) -> dict[str, object]:
    resource = detect(
        environment or {}, version="1.2.3", instance="", machine_ids=(tmp_path / "machine-id",)
    )
    return dict(resource.attributes)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)


def test_host_and_service_are_named(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")

    attributes = found(tmp_path)

    assert attributes["service.name"] == "picosnitch-exporter"
    assert attributes["service.version"] == "1.2.3"
    assert attributes["host.name"] == socket.gethostname()
    assert attributes["host.id"] == "0123456789abcdef0123456789abcdef"
    assert attributes["os.type"] == "linux"
    assert attributes["os.version"] == platform.release()
    assert attributes["host.arch"] not in {"x86_64", "aarch64"}
    assert attributes["telemetry.sdk.language"] == "python"
    assert not [name for name in attributes if name.startswith(("k8s.", "container."))]


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_host_id_is_left_out_when_the_machine_has_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "machine-id").write_text(content)

    assert "host.id" not in found(tmp_path)


def test_instance_stays_when_the_exporter_starts_again(tmp_path: Path) -> None:
    (tmp_path / "machine-id").write_text("a" * 32)
    first = found(tmp_path)["service.instance.id"]
    (tmp_path / "machine-id").write_text("b" * 32)

    assert found(tmp_path)["service.instance.id"] != first
    (tmp_path / "machine-id").write_text("a" * 32)
    assert found(tmp_path)["service.instance.id"] == first


def test_instances_differ_when_two_exporters_share_a_host(tmp_path: Path) -> None:
    ids = {
        detect({}, version="1", instance=instance, machine_ids=(tmp_path / "none",)).attributes[
            "service.instance.id"
        ]
        for instance in ("", "/var/lib/other")
    }

    assert len(ids) == 2


def test_node_comes_from_the_environment_when_it_is_there(tmp_path: Path) -> None:
    attributes = found(
        tmp_path, {"NODE_NAME": "node-7", "K8S_CLUSTER_NAME": "prod", "POD_NAME": "x"}
    )

    assert attributes["k8s.node.name"] == "node-7"
    assert attributes["k8s.cluster.name"] == "prod"
    assert "k8s.pod.name" not in attributes


def test_standard_variables_win_when_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        "deployment.environment.name=a%20b,host.name=other,k8s.pod.name=p",
    )
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")

    attributes = found(tmp_path, {"NODE_NAME": "node-7"})

    assert attributes["service.name"] == "mine"
    assert attributes["host.name"] == "other"
    assert attributes["deployment.environment.name"] == "a b"
    assert attributes["k8s.pod.name"] == "p"
    assert attributes["k8s.node.name"] == "node-7"
