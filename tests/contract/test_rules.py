"""Recording and alert rules: valid, about metrics that exist, tested both ways, with a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.promql import selectors, unknown_names

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"

Json = dict[str, Any]


def rules(name: str) -> list[Json]:
    groups = yaml.safe_load((FOLDER / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDING = {rule["record"]: rule for rule in rules("recording-rules.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alert-rules.yml")}
TESTS = {path.name: yaml.safe_load(path.read_text()) for path in (FOLDER / "tests").glob("*.yml")}
RECORDED = {name: rule["expr"] for name, rule in RECORDING.items()}


def promtool(*arguments: str | Path, folder: Path = FOLDER) -> str:
    """What it prints; fails where it does."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def github_anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(TESTS))
def test_promtool_is_content_with_the_cases(name: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", name, folder=FOLDER / "tests")


def test_example_configurations_are_valid() -> None:
    assert "2 rule files found" in promtool("check", "config", "prometheus.example.yml")
    checked = subprocess.run(
        ["amtool", "check-config", FOLDER / "alertmanager.example.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_inhibitions_name_alerts_that_exist() -> None:
    config = yaml.safe_load((FOLDER / "alertmanager.example.yml").read_text())
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher)
            assert pattern
            assert any(re.fullmatch(pattern[1], name) for name in ALERTS), matcher


@pytest.mark.parametrize("name", [*RECORDING, *ALERTS])
def test_metrics_and_labels_exist(name: str) -> None:
    rule = RECORDING.get(name) or ALERTS[name]
    assert unknown_names(rule["expr"], RECORDED) == []


@pytest.mark.parametrize("name", RECORDING)
def test_recorded_name_is_level_metric_operation(name: str) -> None:
    level, metric, operation = name.split(":")
    assert level.startswith("job")
    assert metric.startswith("picosnitch_")
    assert re.fullmatch(r"rate5m|increase5m|count|min|info", operation)
    asked = {
        case["expr"]
        for test in TESTS["recording.yml"]["tests"]
        for case in test["promql_expr_test"]
    }
    assert name in asked, "no test in deploy/prometheus/tests/recording.yml"


@pytest.mark.parametrize("name", RECORDING)
def test_recorded_series_are_read_by_an_alert_a_rule_or_a_person(name: str) -> None:
    described = (ROOT / "docs" / "dashboards.md").read_text()
    assert f"`{name}`" in described


@pytest.mark.parametrize("name", ALERTS)
def test_alert_fires_and_stays_silent_in_the_cases(name: str) -> None:
    expected = [
        bool(case["exp_alerts"])
        for tests in TESTS.values()
        for test in tests["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    others = [
        test
        for tests in TESTS.values()
        for test in tests["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name and len(test["input_series"]) > len(case["exp_alerts"])
    ]
    assert True in expected
    # Silent at some time, or for some of the series of a case in which it fires.
    assert False in expected or others


@pytest.mark.parametrize("name", ALERTS)
def test_alert_says_how_bad_what_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert name.startswith("Picosnitch")
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(alert["annotations"]["summary"]) <= 100
    assert alert["annotations"]["description"].endswith(".")


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_runbook_with_steps(name: str) -> None:
    page, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    assert anchor == name.lower()
    text = (ROOT / page).read_text()
    assert anchor in github_anchors(text)
    section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
    assert re.search(r"^1\. ", section, flags=re.MULTILINE), "no steps"


def test_every_runbook_section_has_its_alert() -> None:
    headings = {
        heading
        for page in (ROOT / "docs" / "runbooks").glob("*.md")
        for heading in re.findall(r"^## (Picosnitch\w+)$", page.read_text(), flags=re.MULTILINE)
    }
    assert set(ALERTS) == headings


def test_expressions_have_no_selector_without_a_metric_of_ours() -> None:
    for rule in (*RECORDING.values(), *ALERTS.values()):
        names = {selector.name for selector in selectors(rule["expr"])}
        assert all("picosnitch_" in name or name == "up" for name in names)
