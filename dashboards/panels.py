"""The kinds of panels in use, all with description, unit, thresholds and words for "nothing"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    TableSortByFieldState,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.stat import Panel as StatBuilder
from grafana_foundation_sdk.builders.table import Panel as TableBuilder
from grafana_foundation_sdk.builders.timeseries import Panel as TimeseriesBuilder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.dashboard import Panel as PanelModel
from grafana_foundation_sdk.models.dashboard import ThresholdsConfig as ThresholdsModel

from dashboards import links
from dashboards.links import Link, Uid
from dashboards.queries import Query
from dashboards.variables import Variable

Levels = Mapping[float, str]
"""Colours from a value on."""
NEUTRAL: Levels = {}
"""Where no value is better than another."""
BAD_FROM_ONE: Levels = {1: "red"}

WIDTH = 24
"""Of a dashboard, in Grafana's grid."""

_B = TypeVar("_B", StatBuilder, TableBuilder, TimeseriesBuilder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """One number, or one for each series."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    nothing: str = "0"
    levels: Levels = field(default_factory=dict)
    span: int = 4
    with_names: bool = False
    """Write the series' names as well."""
    graph: bool = True

    def build(self, number: int) -> Builder[PanelModel]:
        """The panel for the SDK; `number` is its own within the dashboard."""
        panel = _with_queries(StatBuilder().id(number), self.queries, is_table=False)
        panel = _described(panel, self.title, self.description, self.unit, self.nothing)
        calculations = ReduceDataOptions().calcs(["lastNotNull"])
        panel = panel.thresholds(_thresholds(self.levels)).span(self.span).height(4)
        panel = panel.reduce_options(calculations).color_mode(BigValueColorMode.VALUE)
        if self.with_names:
            panel = panel.text_mode(BigValueTextMode.VALUE_AND_NAME)
        if self.with_names or not self.graph:
            panel = panel.graph_mode(BigValueGraphMode.NONE)
        return panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeseries:
    """Lines over time."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str
    nothing: str = "Nothing in this range"
    levels: Levels = field(default_factory=dict)
    span: int = 12
    is_stacked: bool = False
    links: Sequence[Link] = ()

    def build(self, number: int) -> Builder[PanelModel]:
        """The panel for the SDK; `number` is its own within the dashboard."""
        panel = _with_queries(TimeseriesBuilder().id(number), self.queries, is_table=False)
        panel = _described(panel, self.title, self.description, self.unit, self.nothing)
        legend = (
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        tooltip = VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        panel = panel.thresholds(_thresholds(self.levels)).span(self.span).height(9)
        panel = panel.legend(legend).tooltip(tooltip).fill_opacity(10).min(0)
        if self.is_stacked:
            panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
        if self.links:
            linked = [DynamicConfigValue(id_val="links", value=list(self.links))]
            panel = panel.override_by_regexp("/.*/", linked)
        return panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows; `columns` are the queries whose values stand beside the labels that they share.

    An SQL query names its own columns: give it under any name.
    """

    title: str
    description: str
    columns: Mapping[str, Query]
    units: Mapping[str, str] = field(default_factory=dict)
    """By column; others are plain numbers."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Labels that have another heading."""
    hidden: Sequence[str] = ()
    links: Mapping[str, Sequence[Link]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    sort: str = ""
    nothing: str = "Nothing in this range"
    levels: Levels = field(default_factory=dict)
    span: int = WIDTH
    height: int = 10

    def build(self, number: int) -> Builder[PanelModel]:
        """The panel for the SDK; `number` is its own within the dashboard."""
        panel = _with_queries(TableBuilder().id(number), list(self.columns.values()), is_table=True)
        panel = _described(panel, self.title, self.description, "none", self.nothing)
        panel = panel.thresholds(_thresholds(self.levels)).span(self.span).height(self.height)
        for transformation in self._transformations():
            panel = panel.with_transformation(transformation)
        for name in sorted({*self.units, *self.links, *self.widths}):
            properties = []
            if unit := self.units.get(name):
                properties.append(DynamicConfigValue(id_val="unit", value=unit))
            if width := self.widths.get(name):
                properties.append(DynamicConfigValue(id_val="custom.width", value=width))
            if linked := self.links.get(name):
                properties.append(DynamicConfigValue(id_val="links", value=list(linked)))
            panel = panel.override_by_name(name, properties)
        if self.sort:
            panel = panel.sort_by([TableSortByFieldState().display_name(self.sort).desc(desc=True)])
        return panel

    def _transformations(self) -> list[DataTransformerConfig]:
        if not any(query.source == "prometheus" for query in self.columns.values()):
            return []
        # Grafana calls the values of one query "Value", of more "Value #A", "Value #B", ...
        if len(self.columns) == 1:
            values = {"Value": next(iter(self.columns))}
        else:
            values = {f"Value #{_ref_id(n)}": name for n, name in enumerate(self.columns)}
        organize = DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(["Time", "__name__", *self.hidden], True),
                "renameByName": {**values, **self.renamed},
            },
        )
        merge = DataTransformerConfig(id_val="merge", options={})
        return [merge, organize] if len(self.columns) > 1 else [organize]


Panel = Stat | Timeseries | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A row of the dashboard, with a heading."""

    title: str
    panels: Sequence[Panel]


def dashboard(  # noqa: PLR0913  (what a dashboard has)
    uid: Uid,
    title: str,
    description: str,
    *,
    variables: Sequence[Variable],
    sections: Sequence[Section],
    span: str = "now-3h",
) -> Dashboard:
    """A whole dashboard; it is changed here, not in Grafana."""
    built = (
        Dashboard(f"picosnitch / {title}")
        .uid(uid.value)
        .description(description)
        .tags([links.TAG])
        .readonly()
        .time(span, "now")
        .refresh("1m")
        .timezone("browser")
        .link(links.siblings())
    )
    for variable in variables:
        built = built.with_variable(variable)
    numbers = count(1)
    for section in sections:
        built = built.with_row(Row(section.title).id(next(numbers)))
        for panel in section.panels:
            built = built.with_panel(panel.build(next(numbers)))
    return built


def _described(panel: _B, title: str, description: str, unit: str, nothing: str) -> _B:
    return panel.title(title).description(description).unit(unit).no_value(nothing)


def _with_queries(panel: _B, queries: Sequence[Query], *, is_table: bool) -> _B:
    panel = panel.datasource(queries[0].source.reference)
    for number, query in enumerate(queries):
        panel = panel.with_target(query.target(_ref_id(number), is_table=is_table))
    return panel


def _thresholds(levels: Levels) -> Builder[ThresholdsModel]:
    base = "green" if levels else "text"
    steps = [Threshold(value=None, color=base)]
    steps += [Threshold(value=value, color=color) for value, color in sorted(levels.items())]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _ref_id(number: int) -> str:
    return chr(ord("A") + number)
