"""The dashboards: up to date, about metrics that exist, and as grafana/dashboard-linter wants them.

docs/dashboards.md names the linter's rules; each has a function here.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import yaml

from dashboards.__main__ import FOLDER, main, texts
from dashboards.links import PROMETHEUS_UIDS, TAG, Uid
from picosnitch_exporter.catalog import METRICS
from picosnitch_exporter.log.remote import PREFIX
from picosnitch_exporter.log.schema import DICTIONARIES, FACTS
from picosnitch_exporter.model import Scope
from tests.contract.promql import known_labels, selectors, unknown_names
from tests.grafana import DASHBOARDS, Json, in_promql, panels, variables

ROOT = Path(__file__).parents[2]

Rule = Callable[[Json], Iterator[str]]

METRIC_DASHBOARDS = {uid.value: DASHBOARDS[uid] for uid in PROMETHEUS_UIDS}
RECORDED: dict[str, str] = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((ROOT / "deploy/prometheus/recording-rules.yml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
}
EXCLUSIONS: Json = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]

# On the server of `DB sql server`.
TABLES = {
    PREFIX + name
    for name in (
        "batches",
        "claims",
        "schema",
        "verdicts",
        FACTS,
        *(table.name for table in DICTIONARIES),
    )
}
# As Grafana has them with all variables on "All".
VALUES = {
    "__rate_interval": "1m",
    "__range": "1h",
    "job": ".+",
    "instance": ".+",
    "namespace": ".*",
    "pod": ".*",
    "executable": ".+",
}
# Of the linter's list of Grafana's units, those in use.
UNITS = {
    *("none", "short", "bytes", "Bps", "s", "percentunit", "cps", "reqps", "wps"),
    *("dateTimeAsLocal", "dateTimeFromNow"),
}


def expressions(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Panel's title and expression of each query to Prometheus."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if "expr" in target:
                yield panel["title"], target["expr"]


def has_metrics(dashboard: Json) -> bool:
    return cast("bool", variables(dashboard)["datasource"]["query"] == "prometheus")


def template_datasource_rule(dashboard: Json) -> Iterator[str]:
    found = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    if [(one["name"], one["label"]) for one in found] != [("datasource", "Data source")]:
        yield f"data source variables are {found}"


def template_job_and_instance_rules(dashboard: Json) -> Iterator[str]:
    if not has_metrics(dashboard):
        return
    for name in ("job", "instance"):
        variable = variables(dashboard).get(name)
        if variable is None:
            yield f"no variable {name}"
            continue
        wanted = {"type": "query", "label": name.title(), "multi": True, "allValue": ".+"}
        wanted["datasource"] = {"type": "prometheus", "uid": "${datasource}"}
        for key, value in wanted.items():
            if variable[key] != value:
                yield f"{key} of variable {name} is {variable[key]!r}"


def template_label_promql_rule(dashboard: Json) -> Iterator[str]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query" or not has_metrics(dashboard):
            continue
        if not re.fullmatch(r"(label_values|query_result)\(.+\)", variable["query"]):
            yield f"variable {variable['name']}: {variable['query']}"


def template_on_time_change_reload_rule(dashboard: Json) -> Iterator[str]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield f"variable {variable['name']}"


def template_uneditable_rule(dashboard: Json) -> Iterator[str]:
    if dashboard["editable"]:
        yield "is editable"


def panel_datasource_rule(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        for place in (panel, *panel["targets"]):
            if place["datasource"]["uid"] != "${datasource}":
                yield panel["title"]


def panel_title_description_rule(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        if not panel["title"] or not panel["description"].endswith("."):
            yield panel["title"]


def panel_units_rule(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        config = panel["fieldConfig"]
        units = [config["defaults"].get("unit", "")]
        units += [
            one["value"]
            for override in config["overrides"]
            for one in override["properties"]
            if one["id"] == "unit"
        ]
        for unit in units:
            if unit not in UNITS:
                yield f"{panel['title']}: {unit!r}"


def panel_no_targets_rule(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        if not panel["targets"]:
            yield panel["title"]


def target_rate_interval_rule(dashboard: Json) -> Iterator[str]:
    for title, expr in expressions(dashboard):
        for selector in selectors(expr):
            is_rate = selector.functions[-1:] in (("rate",), ("irate",))
            if is_rate and selector.range != "$__rate_interval":
                yield f"{title}: {expr}"


def target_job_and_instance_rules(dashboard: Json) -> Iterator[str]:
    excluded = {
        (one["dashboard"], one["panel"]) for one in EXCLUSIONS["target-instance-rule"]["entries"]
    }
    for title, expr in expressions(dashboard):
        for selector in selectors(expr):
            if ("job", "=~", "$job") not in selector.matchers:
                yield f"{title}: {selector.name} without job"
            if (dashboard["title"], title) in excluded:
                continue
            if ("instance", "=~", "$instance") not in selector.matchers:
                yield f"{title}: {selector.name} without instance"


def target_counter_agg_rule(dashboard: Json) -> Iterator[str]:
    for title, expr in expressions(dashboard):
        for selector in selectors(expr):
            aggregated = selector.functions[-1:] in (("rate",), ("irate",), ("increase",))
            if selector.name.endswith("_total") and not aggregated:
                yield f"{title}: {selector.name}"


def target_histogram_rule(dashboard: Json) -> Iterator[str]:
    for title, expr in expressions(dashboard):
        for selector in selectors(expr):
            is_quantile = "histogram_quantile" in selector.functions
            if selector.name.endswith("_bucket") and not is_quantile:
                yield f"{title}: {selector.name}"


# Ours, beyond the linter's.


def every_panel_has_thresholds_and_words_for_nothing(dashboard: Json) -> Iterator[str]:
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        if not defaults["thresholds"]["steps"] or not defaults["noValue"]:
            yield panel["title"]


def panels_do_not_overlap(dashboard: Json) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if x >= 24 or (x, y) in taken:
                    yield f"{panel['title']} on {taken.get((x, y), 'the edge')}"
                    return
                taken[x, y] = panel["title"]


def numbers_and_titles_are_unique(dashboard: Json) -> Iterator[str]:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    if len(set(numbers)) != len(numbers):
        yield f"panel numbers {numbers}"


def links_lead_to_dashboards_and_their_variables(dashboard: Json) -> Iterator[str]:
    for url in re.findall(r'"url": "([^"]*)"', json.dumps(dashboard)):
        match = re.match(r"/d/([\w-]+)\?(.*)", url)
        if not match or match[1] not in DASHBOARDS:
            yield f"{url} leads nowhere"
            continue
        known = variables(DASHBOARDS[match[1]])
        names = re.findall(r"var-(\w+)=", match[2])
        yield from (f"{url}: {match[1]} has no {name}" for name in names if name not in known)
        if "${__url_time_range}" not in url:
            yield f"{url} forgets the time range"
        kept = re.findall(r"\$\{(\w+):queryparam\}", match[2])
        yield from (f"{url}: {name} is not here" for name in kept if name not in known)
    tags = [link["tags"] for link in dashboard["links"]]
    if tags != [[TAG]] or dashboard["tags"] != [TAG]:
        yield f"tags {dashboard['tags']}, links {tags}"


RULES: tuple[Rule, ...] = (
    template_datasource_rule,
    template_job_and_instance_rules,
    template_label_promql_rule,
    template_on_time_change_reload_rule,
    template_uneditable_rule,
    panel_datasource_rule,
    panel_title_description_rule,
    panel_units_rule,
    panel_no_targets_rule,
    target_rate_interval_rule,
    target_job_and_instance_rules,
    target_counter_agg_rule,
    target_histogram_rule,
    every_panel_has_thresholds_and_words_for_nothing,
    panels_do_not_overlap,
    numbers_and_titles_are_unique,
    links_lead_to_dashboards_and_their_variables,
)


def test_json_is_up_to_date() -> None:
    assert dict(texts()) == {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert main(["--check"]) == 0


def test_there_is_one_dashboard_for_each_uid() -> None:
    assert {uid.value for uid in Uid} == set(DASHBOARDS)
    assert set(DASHBOARDS) == {dashboard["uid"] for dashboard in DASHBOARDS.values()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: cast("Rule", rule).__name__)
@pytest.mark.parametrize("uid", DASHBOARDS)
def test_dashboard_obeys_rule(uid: str, rule: Rule) -> None:
    assert list(rule(DASHBOARDS[uid])) == []


def test_exclusions_name_panels_that_exist_and_a_reason() -> None:
    titles = {
        (dashboard["title"], panel["title"])
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
    }
    for rule in EXCLUSIONS.values():
        assert rule["reason"]
        assert {(one["dashboard"], one["panel"]) for one in rule["entries"]} <= titles


@pytest.mark.parametrize("uid", METRIC_DASHBOARDS)
def test_metrics_and_labels_exist(uid: str) -> None:
    dashboard = DASHBOARDS[uid]
    asked = list(expressions(dashboard))
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query":
            inner = variable["query"].partition("(")[2].removesuffix(")")
            is_labels = variable["query"].startswith("label_values")
            asked.append((name, inner.rpartition(",")[0] if is_labels else inner))
    problems = {title: unknown_names(expr, RECORDED) for title, expr in asked}
    assert {title: found for title, found in problems.items() if found} == {}
    for title, expr in asked:
        for selector in selectors(expr):
            for label, operator, value in selector.matchers:
                if label == "scope" and operator == "=":
                    assert value in {scope.value for scope in Scope}, title


@pytest.mark.parametrize("uid", METRIC_DASHBOARDS)
def test_legends_and_links_name_labels_that_the_query_keeps(uid: str) -> None:
    for panel in panels(DASHBOARDS[uid]):
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {
        selector.name
        for dashboard in METRIC_DASHBOARDS.values()
        for _title, expr in expressions(dashboard)
        for selector in selectors(expr)
    }
    expected = {metric.name for metric in METRICS}
    assert expected - {name.removesuffix("_bucket") for name in shown} == set()


def test_expressions_are_valid_for_promtool(tmp_path: Path) -> None:
    rules = [
        {
            "record": "check:expression",
            "labels": {"n": str(number)},
            "expr": in_promql(expr, VALUES),
        }
        for number, (_title, expr) in enumerate(
            pair for dashboard in METRIC_DASHBOARDS.values() for pair in expressions(dashboard)
        )
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert f"{len(rules)} rules found" in checked.stdout, checked.stdout + checked.stderr
    assert checked.returncode == 0, checked.stderr


def test_documents_name_metrics_that_exist() -> None:
    paths = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    unknown = {
        (path.name, name)
        for path in paths
        if path.exists()
        for name in re.findall(r"(?<![\w./:-])picosnitch_\w+(?![\w/(]|\.py)", path.read_text())
        if name not in {"picosnitch_exporter", *TABLES, *(metric.name for metric in METRICS)}
        # The beginning that several have, as in picosnitch_exporter_*.
        and not (name.endswith("_") and any(metric.name.startswith(name) for metric in METRICS))
        and known_labels(name) is None
    }
    assert unknown == set()
