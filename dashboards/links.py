"""Where the dashboards are, and the links that lead from one to another."""

from collections.abc import Mapping
from enum import StrEnum

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

TAG = "picosnitch"


class Uid(StrEnum):
    """Of each dashboard; the name of its file, and the end of its address."""

    FLEET = "picosnitch-fleet"
    EXECUTABLE = "picosnitch-executable"
    HOST = "picosnitch-host"
    LOG_POSTGRESQL = "picosnitch-log-postgresql"
    LOG_MYSQL = "picosnitch-log-mysql"
    EXPORTER = "picosnitch-exporter"


PROMETHEUS_UIDS = (Uid.FLEET, Uid.EXECUTABLE, Uid.HOST, Uid.EXPORTER)

Link = Mapping[str, str]
"""A data link as Grafana stores it: title and url."""


def siblings() -> DashboardLink:
    """The list of all dashboards of this family, with the time range kept."""
    return (
        DashboardLink("picosnitch")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(as_dropdown=True)
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )


def to_executable(sha256: str, *, from_metrics: bool = True) -> tuple[Link, ...]:
    """To all that is known of a hash: `sha256` is the expression that gives it."""
    return (
        _link("Executable", Uid.EXECUTABLE, {"executable": sha256}, from_metrics=from_metrics),
        *to_log({"sha256": sha256}),
    )


def to_host(instance: str) -> tuple[Link, ...]:
    """To all that happens on a host."""
    return (_link("Host", Uid.HOST, {"instance": instance}, from_metrics=True),)


def to_log(filters: Mapping[str, str]) -> tuple[Link, ...]:
    """To the rows of the log that fit; one for each kind of database."""
    return (
        _link("Log (PostgreSQL)", Uid.LOG_POSTGRESQL, filters, from_metrics=False),
        _link("Log (MySQL, MariaDB)", Uid.LOG_MYSQL, filters, from_metrics=False),
    )


def in_log(uid: Uid, title: str, filters: Mapping[str, str]) -> tuple[Link, ...]:
    """To the rows of the same log that fit."""
    return (_link(title, uid, filters, from_metrics=False, keep="datasource"),)


def _link(
    title: str, uid: Uid, variables: Mapping[str, str], *, from_metrics: bool, keep: str = ""
) -> Link:
    kept = ("datasource", "job") if from_metrics else ((keep,) if keep else ())
    parts = [f"${{{name}:queryparam}}" for name in kept]
    parts += [f"var-{name}={value}" for name, value in variables.items()]
    return {"title": title, "url": f"/d/{uid}?{'&'.join(parts)}&${{__url_time_range}}"}
