"""One host or workload: which executables use the network there, and how much."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import links, variables
from dashboards.links import Uid
from dashboards.panels import Section, Stat, Table, Timeseries, dashboard
from dashboards.queries import WORKLOADS, Promql

_OF = f'{WORKLOADS}, pod=~"$pod"'
_HASHES = {"sha256": links.to_executable("${__data.fields.sha256}")}
_SERIES = links.to_executable("${__field.labels.sha256}")


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{_OF}}}[$__rate_interval]))"


def _top(metric: str, by: str, legend: str) -> Promql:
    return Promql(f"topk(10, {_rate(metric, by)})", legend)


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        Uid.HOST,
        "Host and workload",
        "The executables of one or more hosts, namespaces and pods.",
        variables=[*variables.hosts(), variables.namespace(), variables.pod()],
        sections=[_now(), _executables(), _workloads()],
    )


def _now() -> Section:
    own_hash = f'{_OF}, sha256!="", sha256!="other"'
    return Section(
        title="Now",
        panels=[
            Stat(
                title="Executables",
                description="Path and hash together, with series of their own.",
                queries=[
                    Promql(
                        "count(count by (instance, exe, sha256) "
                        f"(picosnitch_executable_info{{{own_hash}}}))"
                    )
                ],
            ),
            Stat(
                title="New in 24 h",
                description="Hashes that were first seen here within the last 24 hours.",
                queries=[
                    Promql(
                        "count(count by (instance, sha256) (time() - "
                        f"picosnitch_executable_first_seen_timestamp_seconds{{{own_hash}}}"
                        " < 86400)) or vector(0)"
                    )
                ],
                levels={1: "orange"},
            ),
            Stat(
                title="Without a hash",
                description="Executables whose file could not be read. Kernel threads are not "
                "counted.",
                queries=[
                    Promql(
                        "count(count by (instance, exe) (picosnitch_executable_info"
                        f'{{{_OF}, sha256="", exe!="[kernel]"}})) or vector(0)'
                    )
                ],
                levels={1: "orange"},
            ),
            Stat(
                title="Sent",
                description="Payload bytes a second that leave the sockets.",
                queries=[
                    Promql(
                        "sum(rate(picosnitch_network_transmit_bytes_total"
                        f"{{{_OF}}}[$__rate_interval]))"
                    )
                ],
                unit="Bps",
            ),
            Stat(
                title="Received",
                description="Payload bytes a second that are read from the sockets.",
                queries=[
                    Promql(
                        "sum(rate(picosnitch_network_receive_bytes_total"
                        f"{{{_OF}}}[$__rate_interval]))"
                    )
                ],
                unit="Bps",
            ),
            Stat(
                title="Failed connects",
                description="Connects in the time range that were refused, reset or timed out.",
                queries=[
                    Promql(
                        "sum(increase(picosnitch_connect_failures_total"
                        f"{{{_OF}}}[$__range])) or vector(0)"
                    )
                ],
                levels={100: "orange", 1000: "red"},
            ),
        ],
    )


def _executables() -> Section:
    def increase(metric: str) -> Promql:
        by = "instance, exe, sha256"
        summed = f"sum by ({by}) (increase({metric}{{{_OF}}}[$__range]))"
        return Promql(f"topk(200, {summed} > 0)")

    return Section(
        title="Executables",
        panels=[
            Timeseries(
                title="Bytes sent by executable",
                description="The ten that send most at each moment. Click a line for the "
                "executable.",
                queries=[_top("picosnitch_network_transmit_bytes_total", "exe, sha256", "{{exe}}")],
                unit="Bps",
                links=_SERIES,
            ),
            Timeseries(
                title="Bytes received by executable",
                description="The ten that receive most at each moment.",
                queries=[_top("picosnitch_network_receive_bytes_total", "exe, sha256", "{{exe}}")],
                unit="Bps",
                links=_SERIES,
            ),
            Timeseries(
                title="Connections by direction and scope",
                description="Opened (outbound) and accepted (inbound) a second.",
                queries=[
                    Promql(
                        _rate("picosnitch_connections_total", "direction, scope"),
                        "{{direction}} {{scope}}",
                    )
                ],
                unit="cps",
            ),
            Timeseries(
                title="Failed connects by executable",
                description="The ten with most connects a second that were refused, reset or timed "
                "out.",
                queries=[_top("picosnitch_connect_failures_total", "exe, sha256", "{{exe}}")],
                unit="cps",
                nothing="No connect failed in this range",
                levels={1: "orange", 10: "red"},
                links=_SERIES,
            ),
            Timeseries(
                title="Bytes sent by protocol",
                description="Payload bytes a second by protocol and scope of the peer.",
                queries=[
                    Promql(
                        _rate("picosnitch_network_transmit_bytes_total", "protocol, scope"),
                        "{{protocol}} {{scope}}",
                    )
                ],
                unit="Bps",
                is_stacked=True,
            ),
            Timeseries(
                title="Bytes received by protocol",
                description="Payload bytes a second by protocol and scope of the peer.",
                queries=[
                    Promql(
                        _rate("picosnitch_network_receive_bytes_total", "protocol, scope"),
                        "{{protocol}} {{scope}}",
                    )
                ],
                unit="Bps",
                is_stacked=True,
            ),
            Table(
                title="Executables in this range",
                description="What each moved on each host in the time range of the dashboard.",
                columns={
                    "Sent": increase("picosnitch_network_transmit_bytes_total"),
                    "Received": increase("picosnitch_network_receive_bytes_total"),
                    "Connections": increase("picosnitch_connections_total"),
                    "Failed connects": increase("picosnitch_connect_failures_total"),
                },
                units={
                    "Sent": "bytes",
                    "Received": "bytes",
                    "Connections": "short",
                    "Failed connects": "short",
                },
                links=_HASHES,
                sort="Sent",
            ),
        ],
    )


def _workloads() -> Section:
    legend = "{{namespace}}/{{pod}}/{{container}}"
    return Section(
        title="Workloads",
        panels=[
            Timeseries(
                title="Bytes sent by host",
                description="The ten hosts that send most at each moment.",
                queries=[
                    _top("picosnitch_network_transmit_bytes_total", "instance", "{{instance}}")
                ],
                unit="Bps",
                links=links.to_host("${__field.labels.instance}"),
            ),
            Timeseries(
                title="Bytes sent by namespace",
                description="Kubernetes' namespaces; what runs on the host itself has none.",
                queries=[
                    _top("picosnitch_network_transmit_bytes_total", "namespace", "{{namespace}}")
                ],
                unit="Bps",
                is_stacked=True,
            ),
            Timeseries(
                title="Bytes sent by pod",
                description="The ten containers that send most at each moment.",
                queries=[
                    _top(
                        "picosnitch_network_transmit_bytes_total",
                        "namespace, pod, container",
                        legend,
                    )
                ],
                unit="Bps",
            ),
            Timeseries(
                title="Bytes received by pod",
                description="The ten containers that receive most at each moment.",
                queries=[
                    _top(
                        "picosnitch_network_receive_bytes_total",
                        "namespace, pod, container",
                        legend,
                    )
                ],
                unit="Bps",
            ),
        ],
    )
