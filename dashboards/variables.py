"""The variables at the top of the dashboards."""

from grafana_foundation_sdk.builders.dashboard import (
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards.queries import HOSTS, WORKLOADS, Source

Variable = Builder[VariableModel]

_ALL = VariableOption(selected=True, text="All", value="$__all")


def datasource(source: Source) -> Variable:
    """Which Prometheus, or which database."""
    return DatasourceVariable("datasource").label("Data source").type(source.value)


def hosts() -> tuple[Variable, ...]:
    """Prometheus, job and instance: what every dashboard of metrics has."""
    return (
        datasource(Source.PROMETHEUS),
        _labels("job", "Job", "label_values(picosnitch_exporter_build_info, job)"),
        _labels(
            "instance",
            "Instance",
            'label_values(picosnitch_exporter_build_info{job=~"$job"}, instance)',
        ),
    )


def namespace() -> Variable:
    """Kubernetes' namespaces; "All" is also what runs outside of any."""
    query = f"label_values(picosnitch_executable_info{{{HOSTS}}}, namespace)"
    return _labels("namespace", "Namespace", query, all_value=".*")


def pod() -> Variable:
    """Pods of the namespaces; "All" is also what runs outside of any."""
    query = f"label_values(picosnitch_executable_info{{{WORKLOADS}}}, pod)"
    return _labels("pod", "Pod", query, all_value=".*")


def executable() -> Variable:
    """One executable: shown by its path, chosen by its hash."""
    return (
        QueryVariable("executable")
        .label("Executable")
        .description("By path; the value is the SHA-256")
        .query(f"query_result(count by (exe, sha256) (picosnitch_executable_info{{{HOSTS}}}))")
        .datasource(Source.PROMETHEUS.reference)
        .regex('/exe="(?<text>[^"]*)".*sha256="(?<value>[^"]+)"/')
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )


def sql(name: str, label: str, query: str, *, source: Source) -> Variable:
    """Values that the log has; "All" is all of them, and any number may be chosen."""
    return (
        QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(source.reference)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .current(_ALL)
    )


def text(name: str, label: str, description: str) -> Variable:
    """Something to type; empty means that it does not matter."""
    return TextBoxVariable(name).label(label).description(description).default_value("")


def _labels(name: str, label: str, query: str, *, all_value: str = ".+") -> Variable:
    return (
        QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(Source.PROMETHEUS.reference)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(all_value)
        .current(_ALL)
    )
