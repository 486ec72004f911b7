"""What an expression of PromQL asks for, as far as contracts go: selectors, functions, labels.

Not a parser: promtool says whether an expression is valid.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from picosnitch_exporter.catalog import METRICS, Kind

_STRING = r'"(?:[^"\\]|\\.)*"'
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(
    rf"(?P<name>\b[a-zA-Z_:][\w:]*)\s*(?:\{{(?P<matchers>(?:[^\"}}]|{_STRING})*)\}})?"
    r"\s*(?:\[(?P<range>[^\]]*)\])?(?P<call>\s*\()?"
)
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_OFFSET = re.compile(r"\boffset\s+\w+")
_NUMBER = re.compile(r"(?<![\w:])\d[\w.]*(?:[eE][+-]?\d+)?")
_KEYWORDS = {"and", "or", "unless", "bool", "sum", "min", "max", "count", "avg", "topk"}

# What Prometheus itself knows of a target.
_PROMETHEUS = {"up": frozenset({"job", "instance"})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One metric as it is asked for."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator, value."""
    range: str
    functions: tuple[str, ...]
    """Those around it, the innermost last."""


def selectors(expr: str) -> Iterator[Selector]:
    """Every metric that an expression asks for."""
    text = _OFFSET.sub(" ", _GROUPING.sub(" ", expr))
    open_calls: list[str] = []
    place = 0
    while place < len(text):
        match = _SELECTOR.match(text, place)
        number = _NUMBER.match(text, place)
        if number:
            place = number.end()
        elif match and match["call"] and match["matchers"] is None:
            open_calls.append(match["name"])
            place = match.end()
        elif match:
            place = match.end("range") + 1 if match["range"] is not None else match.end()
            if match["call"]:
                place = match.start("call")
            if match["name"] not in _KEYWORDS:
                yield Selector(
                    name=match["name"],
                    matchers=tuple(
                        (label, operator, value[1:-1])
                        for label, operator, value in _MATCHER.findall(match["matchers"] or "")
                    ),
                    range=match["range"] or "",
                    functions=tuple(name for name in open_calls if name),
                )
        else:
            if text[place] == "(":
                open_calls.append("")
            elif text[place] == ")":
                open_calls.pop()
            place += 1


def grouping_labels(expr: str) -> set[str]:
    """Labels that an expression groups or joins by."""
    names = ",".join(_GROUPING.findall(expr))
    return {name.strip() for name in names.split(",") if name.strip()}


def known_labels(name: str) -> frozenset[str] | None:
    """The labels that a metric has once scraped or recorded; None if there is no such metric."""
    target = frozenset({"job", "instance"})
    if name in _PROMETHEUS:
        return _PROMETHEUS[name]
    if ":" in name:
        return frozenset(name.split(":", maxsplit=1)[0].split("_"))
    for metric in METRICS:
        labels = target | frozenset(metric.label_names(with_workload_labels=True))
        if name == metric.name and metric.kind is not Kind.HISTOGRAM:
            return labels
        if metric.kind is Kind.HISTOGRAM and name in {f"{metric.name}_sum", f"{metric.name}_count"}:
            return labels
        if metric.kind is Kind.HISTOGRAM and name == f"{metric.name}_bucket":
            return labels | {"le"}
    return None


def unknown_names(expr: str, recorded: Mapping[str, str]) -> list[str]:
    """Metrics and labels of an expression that the catalog and the recording rules don't have."""
    problems = []
    labels: set[str] = set()
    for selector in selectors(expr):
        known = known_labels(selector.name)
        if known is None or (":" in selector.name and selector.name not in recorded):
            problems.append(f"no metric {selector.name}")
            continue
        labels |= known
        problems += [
            f"{selector.name} has no label {label}"
            for label, _operator, _value in selector.matchers
            if label not in known
        ]
    problems += [f"no metric here has a label {one}" for one in grouping_labels(expr) - labels]
    return problems
