"""One executable, by its hash: where it runs, since when, what it moves, who started it."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import links, variables
from dashboards.links import Uid
from dashboards.panels import BAD_FROM_ONE, Section, Stat, Table, Timeseries, dashboard
from dashboards.queries import HOSTS, Promql

_OF = f'{HOSTS}, sha256=~"$executable"'
_TO_HOST = {"instance": links.to_host("${__data.fields.instance}")}
_NONE = "Choose an executable above"


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{_OF}}}[$__rate_interval]))"


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        Uid.EXECUTABLE,
        "Executable",
        "One executable, by its SHA-256: hosts, traffic, parents, verdict.",
        variables=[*variables.hosts(), variables.executable()],
        sections=[_what(), _traffic(), _where()],
    )


def _what() -> Section:
    first = f"min(picosnitch_executable_first_seen_timestamp_seconds{{{_OF}}}) * 1000"
    last = f"max(picosnitch_executable_last_seen_timestamp_seconds{{{_OF}}}) * 1000"
    return Section(
        title="What it is",
        panels=[
            Stat(
                title="Hosts",
                description="Hosts that show this hash now.",
                queries=[
                    Promql(f"count(count by (instance) (picosnitch_executable_info{{{_OF}}}))")
                ],
                nothing=_NONE,
            ),
            Stat(
                title="First seen",
                description="Earliest of all hosts that are chosen and still show it.",
                queries=[Promql(first)],
                unit="dateTimeFromNow",
                nothing=_NONE,
                graph=False,
            ),
            Stat(
                title="Last seen",
                description="Latest of all hosts that are chosen.",
                queries=[Promql(last)],
                unit="dateTimeFromNow",
                nothing=_NONE,
                graph=False,
            ),
            Stat(
                title="Verdict",
                description="What VirusTotal says of this content.",
                queries=[
                    Promql(
                        "count by (verdict) (count by (verdict, sha256) ("
                        f"picosnitch_executable_virustotal_verdict{{{_OF}}} == 1))",
                        "{{verdict}}",
                    )
                ],
                nothing=_NONE,
                with_names=True,
            ),
            Stat(
                title="Engines",
                description="VirusTotal's engines by what they say, where there is an analysis.",
                queries=[
                    Promql(
                        "max by (category) ("
                        f"picosnitch_executable_virustotal_engines{{{_OF}, "
                        f'category="{category}"}})',
                        category,
                    )
                    for category in ("malicious", "suspicious")
                ],
                nothing="No analysis",
                levels=BAD_FROM_ONE,
                with_names=True,
            ),
            Stat(
                title="Traffic",
                description="Payload bytes that it sent and received in the time range.",
                queries=[
                    Promql(
                        f"sum(increase(picosnitch_network_{way}_bytes_total{{{_OF}}}[$__range]))",
                        name,
                    )
                    for way, name in (("transmit", "sent"), ("receive", "received"))
                ],
                unit="bytes",
                nothing=_NONE,
                with_names=True,
            ),
        ],
    )


def _traffic() -> Section:
    return Section(
        title="Traffic",
        panels=[
            Timeseries(
                title="Bytes sent by protocol and scope",
                description="Payload bytes a second that it sends, over all hosts chosen.",
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
                title="Bytes received by protocol and scope",
                description="Payload bytes a second that it receives, over all hosts chosen.",
                queries=[
                    Promql(
                        _rate("picosnitch_network_receive_bytes_total", "protocol, scope"),
                        "{{protocol}} {{scope}}",
                    )
                ],
                unit="Bps",
                is_stacked=True,
            ),
            Timeseries(
                title="Connections",
                description="Opened (outbound) and accepted (inbound) a second, by protocol and "
                "scope of the peer.",
                queries=[
                    Promql(
                        _rate("picosnitch_connections_total", "direction, protocol, scope"),
                        "{{direction}} {{protocol}} {{scope}}",
                    )
                ],
                unit="cps",
            ),
            Timeseries(
                title="Failed connects",
                description="Refused, reset or timed out a second, by protocol and scope of the "
                "peer.",
                queries=[
                    Promql(
                        _rate("picosnitch_connect_failures_total", "protocol, scope"),
                        "{{protocol}} {{scope}}",
                    )
                ],
                unit="cps",
                nothing="No connect failed in this range",
                levels={1: "orange", 10: "red"},
            ),
            Timeseries(
                title="Bytes sent by host",
                description="The ten hosts on which it sends most.",
                queries=[
                    Promql(
                        "topk(10, "
                        + _rate("picosnitch_network_transmit_bytes_total", "instance")
                        + ")",
                        "{{instance}}",
                    )
                ],
                unit="Bps",
                links=links.to_host("${__field.labels.instance}"),
            ),
            Timeseries(
                title="Bytes sent by pod",
                description="The ten pods in which it sends most; what runs on the host itself has "
                "no name.",
                queries=[
                    Promql(
                        "topk(10, "
                        + _rate(
                            "picosnitch_network_transmit_bytes_total", "namespace, pod, container"
                        )
                        + ")",
                        "{{namespace}}/{{pod}}/{{container}}",
                    )
                ],
                unit="Bps",
            ),
        ],
    )


def _where() -> Section:
    by = "instance, namespace, pod, container, exe"
    return Section(
        title="Where and by whom",
        panels=[
            Table(
                title="Where and since when",
                description="Each host and path with this content, and pods if there are any.",
                columns={
                    "First seen": Promql(
                        f"max by ({by}) (picosnitch_executable_first_seen_timestamp_seconds"
                        f"{{{_OF}}}) * 1000"
                    ),
                    "Last seen": Promql(
                        f"max by ({by}) (picosnitch_executable_last_seen_timestamp_seconds"
                        f"{{{_OF}}}) * 1000"
                    ),
                },
                units={"First seen": "dateTimeAsLocal", "Last seen": "dateTimeAsLocal"},
                links=_TO_HOST,
                sort="Last seen",
                nothing=_NONE,
            ),
            Table(
                title="Who ran it first",
                description="Process name, size and the first parent that was seen on each host. "
                "Click the parent's hash to go on from there.",
                columns={
                    "Hosts": Promql(
                        "count by (name, size_bytes, parent_exe, parent_sha256) ("
                        "count by (instance, name, size_bytes, parent_exe, parent_sha256) ("
                        f"picosnitch_executable_info{{{_OF}}}))"
                    )
                },
                units={"Size": "bytes"},
                renamed={
                    "name": "Name",
                    "parent_exe": "Parent",
                    "parent_sha256": "Parent's SHA-256",
                    "size_bytes": "Size",
                },
                links={
                    "Parent's SHA-256": links.to_executable("${__value.text}"),
                },
                sort="Hosts",
                nothing=_NONE,
            ),
            Table(
                title="Sockets that nobody can count",
                description="AF_XDP sockets and mapped packet rings of this executable: their "
                "bytes pass every hook.",
                columns={
                    "Sockets": Promql(
                        "sum by (instance, exe, kind) (increase("
                        f"picosnitch_exporter_unseen_sockets_total{{{_OF}}}[$__range])) > 0"
                    )
                },
                links=_TO_HOST,
                sort="Sockets",
                nothing="It has none",
                levels={1: "orange"},
                height=6,
            ),
        ],
    )
