"""The dashboards as Grafana has them: their queries, with variables and macros in place.

Sources: Grafana's documentation of global variables, variable formats, and the macros of the
PostgreSQL and MySQL data sources.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dashboards.__main__ import FOLDER

Json = dict[str, Any]

DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelQuery:
    """One query of one panel."""

    uid: str
    title: str
    text: str
    """PromQL or SQL."""
    is_range: bool
    """Over the time range; otherwise only for its end."""

    def __str__(self) -> str:
        return f"{self.uid} / {self.title}: {self.text}"


def panels(dashboard: Json) -> list[Json]:
    """All but the headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard: Json) -> dict[str, Json]:
    """By name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def queries(uid: str, dashboard: Json) -> Iterator[PanelQuery]:
    """Every query of every panel."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield PanelQuery(
                uid=uid,
                title=panel["title"],
                text=target.get("expr") or target["rawSql"],
                is_range=target["format"] == "time_series",
            )


def in_promql(expr: str, values: Mapping[str, str]) -> str:
    """An expression with its variables, given without the dollar, in place."""
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${name}", values[name])
    if "$" in expr:
        raise ValueError(f"a variable is left: {expr}")
    return expr


def in_sql(
    text: str, *, values: Mapping[str, tuple[str, ...]], span: tuple[int, int], interval: int
) -> str:
    """A statement with `${name:sqlstring}` and the time macros in place; both databases' way."""
    for name, chosen in values.items():
        # Grafana doubles apostrophes, and joins several values by commas.
        quoted = ",".join("'" + value.replace("'", "''") + "'" for value in chosen)
        text = text.replace(f"${{{name}:sqlstring}}", quoted)
    begin, end = span
    text = re.sub(
        r"\$__unixEpochFilter\((\w+)\)", rf"\1 >= {begin} AND \1 <= {end}", text, flags=re.ASCII
    )
    text = re.sub(
        r"\$__unixEpochGroup\((\w+), \$__interval\)",
        rf"floor((\1)/{interval})*{interval}",
        text,
    )
    if "$" in text:
        raise ValueError(f"a variable or macro is left: {text}")
    return text
