"""What panels ask: PromQL of a Prometheus, SQL of the log's database."""

from dataclasses import dataclass
from enum import StrEnum

from grafana_foundation_sdk.builders.prometheus import Dataquery as PrometheusBuilder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

HOSTS = 'job=~"$job", instance=~"$instance"'
"""The matchers that every selector has."""
WORKLOADS = f'{HOSTS}, namespace=~"$namespace"'
"""As HOSTS, of one or more namespaces; what runs on the host itself has none."""
_BEFORE = f"present_over_time(picosnitch_exporter_build_info{{{HOSTS}}}[$__range])"
EXPORTERS = f"up{{{HOSTS}}} and on (job, instance) {_BEFORE}"
"""Prometheus's word on the exporters alone: other jobs have an `up` too."""


class Source(StrEnum):
    """Kinds of data sources, as Grafana's plugins are called."""

    PROMETHEUS = "prometheus"
    POSTGRESQL = "grafana-postgresql-datasource"
    MYSQL = "mysql"

    @property
    def reference(self) -> DataSourceRef:
        """Whichever of the kind the user has chosen."""
        return DataSourceRef(type_val=self.value, uid="${datasource}")


@dataclass(frozen=True, slots=True)
class Promql:
    """One query; `legend` names its series."""

    expr: str
    legend: str = ""

    source = Source.PROMETHEUS

    def target(self, ref_id: str, *, is_table: bool) -> Builder[Dataquery]:
        """The query as a panel has it."""
        query = (
            PrometheusBuilder()
            .expr(self.expr)
            .datasource(self.source.reference)
            .editor_mode(QueryEditorMode.CODE)
            .ref_id(ref_id)
        )
        if is_table:
            return query.instant().format(PromQueryFormat.TABLE)
        return query.range().format(PromQueryFormat.TIME_SERIES).legend_format(self.legend)


@dataclass(frozen=True, slots=True)
class Sql:
    """One query; its columns are named in it."""

    text: str
    source: Source

    def target(self, ref_id: str, *, is_table: bool) -> Builder[Dataquery]:
        """The query as a panel has it."""
        return _SqlBuilder(_SqlTarget(self, ref_id, "table" if is_table else "time_series"))


@dataclass(frozen=True, slots=True)
class _SqlTarget(Dataquery):
    # The SDK has no class for the SQL sources; these are the fields of their query model.
    query: Sql
    ref_id: str
    format: str

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": self.query.source.reference,
            "editorMode": "code",
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.query.text,
        }


@dataclass(frozen=True, slots=True)
class _SqlBuilder(Builder[Dataquery]):
    target: _SqlTarget

    def build(self) -> Dataquery:
        return self.target


Query = Promql | Sql
