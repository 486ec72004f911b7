"""Kubernetes objects, chart, image and unit: as rendered, against schemas and the code."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from deploy.manifests import __main__ as manifests
from deploy.manifests import objects
from picosnitch_exporter import config, privileges
from picosnitch_exporter.sensor import requirements
from tests.helm import Chart, tool
from tests.kernel.test_privileges import STARTS_WITH

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = Chart(DEPLOY / "helm" / "picosnitch-exporter")
UNIT = DEPLOY / "systemd" / "picosnitch-exporter.service"
KUBERNETES = ("1.30", "1.37")
"""The oldest that has `appArmorProfile`, and the newest that schemas exist for."""

Json = dict[str, Any]

ALL = {
    "podMonitor__enabled": True,
    "prometheusRule__enabled": True,
    "dashboards__enabled": True,
}


def kustomized(folder: str) -> list[Json]:
    """As `kubectl apply -k` would send it."""
    command = [tool("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def base() -> list[Json]:
    """The files of the base, as its kustomization lists them."""
    folder = DEPLOY / "kubernetes" / "base"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [yaml.safe_load((folder / name).read_text()) for name in listed]


def by_kind(rendered: list[Json], kind: str) -> Json:
    (found,) = [one for one in rendered if one["kind"] == kind]
    return found


def container(rendered: list[Json]) -> Json:
    (only,) = by_kind(rendered, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    found: Json = only
    return found


def capability_names() -> set[str]:
    """Those that are needed, and the one that older kernels want."""
    return {name.removeprefix("CAP_") for name in requirements._CAPABILITIES} | {"BPF"}


def identity(one: Json) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.manifests", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"make manifests\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("source", ["base", "chart"])
def test_objects_fit_the_schemas_of_the_api(version: str, source: str) -> None:
    rendered = base() if source == "base" else CHART.render("monitoring", **ALL)
    checked = 0
    for one in rendered:
        if "monitoring.coreos.com" in one["apiVersion"]:
            continue
        kubernetes_validate.validate(one, version, strict=True)
        checked += 1
    assert checked >= 7


@pytest.mark.parametrize("values", [{}, ALL])
def test_linter_of_helm_has_nothing_to_say(values: dict[str, bool]) -> None:
    CHART.lint(**values)


def test_chart_and_base_say_the_same() -> None:
    rendered = {identity(one): one for one in CHART.render(objects.NAMESPACE)}
    wanted = {identity(one): one for one in base() if one["kind"] != "Namespace"}
    pod = rendered["DaemonSet", objects.NAME]["spec"]["template"]["metadata"]
    assert re.fullmatch(r"[0-9a-f]{64}", pod.pop("annotations").pop("checksum/config"))
    wanted["DaemonSet", objects.NAME]["spec"]["template"]["metadata"].pop("annotations")
    config_of = [
        json.loads(found["ConfigMap", objects.NAME]["data"].pop("config.yaml"))
        for found in (rendered, wanted)
    ]
    assert config_of[0] == config_of[1]
    assert rendered == wanted


def test_kustomize_gives_the_base_when_nothing_is_overlaid() -> None:
    rendered = {identity(one): one for one in kustomized(".")}
    assert rendered == {identity(one): one for one in base()}


def test_overlay_brings_rules_and_dashboards() -> None:
    rendered = kustomized("overlays/monitoring")
    rule = by_kind(rendered, "PrometheusRule")
    wanted = [
        group
        for name in ("recording-rules.yml", "alert-rules.yml")
        for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    ]
    assert rule["spec"]["groups"] == wanted
    assert rule["metadata"]["labels"] == {"release": "kube-prometheus-stack"}
    assert container(rendered)["image"].startswith("registry.example/picosnitch-exporter:")
    boards = [one for one in rendered if "grafana_dashboard" in one["metadata"].get("labels", {})]
    uids = {json.loads(text)["uid"] for one in boards for text in one["data"].values()}
    assert {"picosnitch-fleet", "picosnitch-executable", "picosnitch-host"} <= uids


def test_chart_brings_rules_and_dashboards_when_switched_on() -> None:
    rendered = CHART.render("monitoring", **ALL)
    assert by_kind(rendered, "PrometheusRule")["spec"]["groups"]
    boards = {
        json.loads(text)["uid"]
        for one in rendered
        if "grafana_dashboard" in one["metadata"].get("labels", {})
        for text in one["data"].values()
    }
    assert "picosnitch-fleet" in boards
    # What Grafana fills in itself has come through Helm's templates unharmed.
    text = json.dumps(by_kind(rendered, "PrometheusRule"))
    assert "{{ $labels.instance }}" in text


def test_chart_takes_values_of_its_user() -> None:
    rendered = CHART.render(
        "elsewhere",
        image__repository="registry.example/x",
        image__tag="9",
        storage__hostPath="/data",
        networkPolicy__enabled=False,
        config={"log": {"addresses": False}},
        podAnnotations={"a": "b"},
    )
    pod = by_kind(rendered, "DaemonSet")["spec"]["template"]
    assert container(rendered)["image"] == "registry.example/x:9"
    assert {"path": "/data", "type": "DirectoryOrCreate"} in [
        volume.get("hostPath") for volume in pod["spec"]["volumes"]
    ]
    assert pod["metadata"]["annotations"]["a"] == "b"
    assert "NetworkPolicy" not in {one["kind"] for one in rendered}
    assert {one["metadata"].get("namespace", "elsewhere") for one in rendered} == {"elsewhere"}
    assert by_kind(rendered, "ClusterRoleBinding")["subjects"][0]["namespace"] == "elsewhere"
    assert "elsewhere" in CHART.notes("elsewhere")


def test_names_refer_to_what_is_there() -> None:
    rendered = base()
    pod = by_kind(rendered, "DaemonSet")["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for selector in (
        by_kind(rendered, "DaemonSet")["spec"]["selector"]["matchLabels"],
        by_kind(rendered, "Service")["spec"]["selector"],
        by_kind(rendered, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        by_kind(CHART.render("x", **ALL), "PodMonitor")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container(rendered)["volumeMounts"]} == volumes
    account = by_kind(rendered, "ServiceAccount")["metadata"]
    binding = by_kind(rendered, "ClusterRoleBinding")
    assert binding["subjects"][0]["name"] == account["name"] == pod["spec"]["serviceAccountName"]
    assert binding["roleRef"]["name"] == by_kind(rendered, "ClusterRole")["metadata"]["name"]
    (port,) = container(rendered)["ports"]
    assert by_kind(rendered, "Service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_configuration_in_the_map_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(by_kind(base(), "ConfigMap")["data"]["config.yaml"])

    settings = config.load(file, environment={}, overrides={})

    assert settings.web.listen_addresses == (f":{objects.PORT}",)
    mounts = {mount["mountPath"] for mount in container(base())["volumeMounts"]}
    assert str(settings.storage.path) in mounts
    assert str(settings.bpf.pin_path.parent) in mounts


def test_capabilities_are_those_that_the_sensor_asks_for() -> None:
    wanted = capability_names()
    security = container(base())["securityContext"]
    unit = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), flags=re.MULTILINE)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["exporter"]

    assert set(security["capabilities"]["add"]) == wanted
    assert set(compose["cap_add"]) == wanted
    assert {name.removeprefix("CAP_") for line in unit for name in line.split()} == wanted
    assert {name.upper() for name in STARTS_WITH.split(",")} == wanted - {"BPF"}
    assert security["capabilities"]["drop"] == compose["cap_drop"] == ["ALL"]
    assert security["privileged"] is False
    assert security["allowPrivilegeEscalation"] is False


def test_role_is_to_read_pods_only() -> None:
    assert by_kind(base(), "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]


def test_token_is_readable_for_the_process_that_asks() -> None:
    """fsGroup makes a projected token 0640 for that group, which is the account's in the image."""
    group = by_kind(base(), "DaemonSet")["spec"]["template"]["spec"]["securityContext"]["fsGroup"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"useradd --system --uid {group} --user-group" in dockerfile
    assert privileges.DEFAULT_USER in dockerfile


def test_update_never_runs_two_on_a_node() -> None:
    strategy = by_kind(base(), "DaemonSet")["spec"]["updateStrategy"]
    assert strategy["rollingUpdate"]["maxSurge"] == 0


def test_probes_and_ports_are_those_of_the_exporter() -> None:
    (port,) = container(base())["ports"]
    assert port["containerPort"] == objects.PORT
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(base())[probe]["httpGet"]["path"] in {"/-/ready", "/-/healthy"}
    assert f"http://127.0.0.1:{objects.PORT}/-/ready" in (ROOT / "Dockerfile").read_text()


def locked(name: str) -> dict[str, Version]:
    text = (DEPLOY / name).read_text()
    found = re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, flags=re.MULTILINE)
    for package, _version in found:
        entry = re.search(rf"^{re.escape(package)}==.*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert entry, f"{package} has no hash"
    return {package: Version(version) for package, version in found}


def test_locked_versions_are_those_that_the_project_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = locked("requirements.lock")
    wanted = list(project["project"]["dependencies"])
    for extra in ("otlp", "postgresql", "mysql"):
        wanted += project["project"]["optional-dependencies"][extra]
    for line in wanted:
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        assert versions[name] in requirement.specifier, line


def test_locked_builder_is_the_one_that_the_project_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = locked("requirements-build.lock")
    for line in project["build-system"]["requires"]:
        requirement = Requirement(line)
        assert versions[requirement.name] in requirement.specifier


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_bill_of_materials_lists_what_the_image_installs() -> None:
    """Written by `deploy/sbom`, which `make lock` calls."""
    bill = json.loads((DEPLOY / "sbom.cdx.json").read_text())
    listed = {canonical(one["name"]): Version(one["version"]) for one in bill["components"]}
    elsewhere = re.findall(
        r"^([a-z0-9.-]+)==.* ; sys_platform == 'win32'",
        (DEPLOY / "requirements.lock").read_text(),
        re.MULTILINE,
    )

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert listed == {
        name: version
        for name, version in locked("requirements.lock").items()
        if name not in elsewhere
    }
    for one in bill["components"]:
        name, version = canonical(one["name"]), one["version"]
        assert one["purl"].partition("?")[0] == f"pkg:pypi/{name}@{version}"
    assert "COPY deploy/sbom.cdx.json " in (ROOT / "Dockerfile").read_text()


def test_bill_of_materials_knows_who_needs_whom() -> None:
    bill = json.loads((DEPLOY / "sbom.cdx.json").read_text())
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    direct = {
        canonical(Requirement(line).name)
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    }

    own = needs[bill["metadata"]["component"]["bom-ref"]]
    assert direct <= {canonical(reference.partition("==")[0]) for reference in own}
    assert set(needs) >= {one["bom-ref"] for one in bill["components"]}


def test_image_gets_what_it_copies() -> None:
    """.dockerignore keeps back all that it does not name."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    named = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert len(sources) >= 7
    assert sources == set(named)


def exposure(unit: Path) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_exposure_of_the_unit_is_the_one_that_is_stated() -> None:
    stated = re.search(r"`([0-9.]+)` of 10", (ROOT / "docs" / "install.md").read_text())
    assert stated
    assert exposure(UNIT) == float(stated[1])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(
        re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True, check=False
    )
    assert UNIT.name not in done.stderr


def test_unit_waits_longer_than_the_exporter_takes() -> None:
    text = UNIT.read_text()
    seconds = {
        key: int(value) for key, value in re.findall(r"^(\w+Sec)=(\d+)$", text, re.MULTILINE)
    }
    assert seconds["TimeoutStopSec"] > 5
    assert seconds["TimeoutStartSec"] > 60
    assert seconds["RestartSec"] < 900
    assert "KillSignal=SIGTERM" in text


def test_unit_leaves_the_pins_writable() -> None:
    """ProtectKernelTunables= wins over ReadWritePaths= (systemd 252, namespace.c)."""
    settings = re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), flags=re.MULTILINE)
    assert "ProtectKernelTunables" not in dict(settings)
    assert ("ReadWritePaths", "/sys/fs/bpf") in settings


def test_compose_mounts_what_exists() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
    assert compose["services"]["exporter"]["pid"] == "host"
    assert compose["services"]["exporter"]["read_only"] is True


def test_texts_cover_every_owned_file() -> None:
    assert {name.split("/")[0] for name, _text in manifests.texts()} == {"kubernetes", "helm"}


def blocks(page: str, language: str) -> list[str]:
    """Code of a page of the documentation."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_documented_prometheus_configurations_are_valid(tmp_path: Path) -> None:
    for name in ("recording-rules.yml", "alert-rules.yml"):
        shutil.copy(DEPLOY / "prometheus" / name, tmp_path)
    (tmp_path / "nodes.yml").write_text("[]")
    checked = 0
    for page in ("install.md", "fleet.md", "containers.md"):
        for block in blocks(page, "yaml"):
            parsed = yaml.safe_load(block)
            file = tmp_path / "checked.yml"
            # Debian's promtool is built without Kubernetes' discovery.
            known = re.sub(r"kubernetes_sd_configs: .*", "static_configs: []", block)
            file.write_text(known.replace("/etc/prometheus/mimir-password", "nodes.yml"))
            what = "config" if "scrape_configs" in parsed else "rules"
            if what == "config" or "groups" in parsed:
                done = subprocess.run(
                    ["promtool", "check", what, file], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{page}\n{block}\n{done.stdout}{done.stderr}"
                checked += 1
    assert checked >= 3


def test_documented_exporter_configurations_are_valid(tmp_path: Path) -> None:
    (found,) = [block for block in blocks("fleet.md", "yaml") if block.startswith("# config.yaml")]
    file = tmp_path / "config.yaml"
    file.write_text(found)

    assert config.load(file, environment={}, overrides={}).otlp.logs


def test_documented_docker_command_is_that_of_compose() -> None:
    (command,) = [block for block in blocks("install.md", "sh") if "docker run" in block]
    exporter = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["exporter"]

    assert re.findall(r"--cap-add (\w+)", command) == exporter["cap_add"]
    assert "--pid host" in command
    for mount in exporter["volumes"][:2]:
        assert f"-v {mount}" in command
