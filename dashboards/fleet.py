"""The whole fleet: what runs, what is new, what is rare, and where the bytes go."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import links, variables
from dashboards.links import Uid
from dashboards.panels import BAD_FROM_ONE, Section, Stat, Table, Timeseries, dashboard
from dashboards.queries import EXPORTERS, HOSTS, WORKLOADS, Promql

_OWN_HASH = f'{WORKLOADS}, sha256!="", sha256!="other"'
_HASHES = {"sha256": links.to_executable("${__data.fields.sha256}")}
_SERIES = links.to_executable("${__field.labels.sha256}")
_FIRST_SEEN = f"picosnitch_executable_first_seen_timestamp_seconds{{{_OWN_HASH}}}"
_NEEDS_RULES = "Nothing, or deploy/prometheus/recording-rules.yml is not loaded"


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{WORKLOADS}}}[$__rate_interval]))"


def _top(metric: str, by: str = "exe, sha256") -> Promql:
    return Promql(f"topk(10, {_rate(metric, by)})", f"{{{{{by.split(',', maxsplit=1)[0]}}}}}")


def _increase(metric: str) -> Promql:
    summed = f"sum by (exe, sha256) (increase({metric}{{{WORKLOADS}}}[$__range]))"
    return Promql(f"topk(100, {summed} > 0)")


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        Uid.FLEET,
        "Fleet",
        "Which executables use the network of the fleet, which of them are new or rare, and what "
        "VirusTotal says of them.",
        variables=[*variables.hosts(), variables.namespace()],
        sections=[_now(), _traffic(), _executables(), _hosts()],
    )


def _now() -> Section:
    def rate(way: str, matchers: str = WORKLOADS) -> str:
        name = f"picosnitch_network_{way}_bytes_total"
        return f"sum(rate({name}{{{matchers}}}[$__rate_interval]))"

    def hashes_called(verdict: str) -> str:
        matchers = f'{WORKLOADS}, verdict="{verdict}"'
        called = f"picosnitch_executable_virustotal_verdict{{{matchers}}} == 1"
        return f"count(count by (sha256) ({called})) or vector(0)"

    public = f'{WORKLOADS}, scope="public"'
    share = (
        f"({rate('transmit', public)} + {rate('receive', public)})"
        f" / ({rate('transmit')} + {rate('receive')} > 0)"
    )
    down = f"count(({EXPORTERS}) == 0) or vector(0)"
    return Section(
        title="Now",
        panels=[
            Stat(
                title="Hosts",
                description="Exporters that answered the last scrape, and those that did not.",
                queries=[
                    Promql(f"count(picosnitch_exporter_build_info{{{HOSTS}}})", "up"),
                    Promql(down, "down"),
                ],
                with_names=True,
            ),
            Stat(
                title="Executables",
                description="Different contents (hashes) with series of their own.",
                queries=[
                    Promql(
                        f"count(count by (sha256) (picosnitch_executable_info{{{_OWN_HASH}}}))",
                        "hashes",
                    )
                ],
            ),
            Stat(
                title="New in 24 h",
                description="Hashes that some host has first seen within the last 24 hours.",
                queries=[
                    Promql(
                        f"count(count by (sha256) (time() - {_FIRST_SEEN} < 86400)) or vector(0)",
                        "new",
                    )
                ],
                levels={1: "orange"},
            ),
            Stat(
                title="Malicious or suspicious",
                description="Hashes with such a verdict of VirusTotal. 0 also where it is off.",
                queries=[
                    Promql(hashes_called("malicious"), "malicious"),
                    Promql(hashes_called("suspicious"), "suspicious"),
                ],
                levels=BAD_FROM_ONE,
                with_names=True,
            ),
            Stat(
                title="Traffic",
                description="Payload bytes a second that all executables send and receive.",
                queries=[
                    Promql(rate("transmit"), "sent"),
                    Promql(rate("receive"), "received"),
                ],
                unit="Bps",
                with_names=True,
            ),
            Stat(
                title="Public share",
                description="Part of the bytes, both ways, that goes to or comes from public "
                "addresses.",
                queries=[Promql(share, "public")],
                unit="percentunit",
                nothing="No traffic",
            ),
        ],
    )


def _traffic() -> Section:
    transmit = _rate("picosnitch_network_transmit_bytes_total", "scope")
    receive = _rate("picosnitch_network_receive_bytes_total", "scope")
    return Section(
        title="Traffic",
        panels=[
            Timeseries(
                title="Top executables by bytes sent",
                description="The ten that send most at each moment, by path and hash. Click a line "
                "for the executable.",
                queries=[_top("picosnitch_network_transmit_bytes_total")],
                unit="Bps",
                links=_SERIES,
            ),
            Timeseries(
                title="Top executables by bytes received",
                description="The ten that receive most at each moment, by path and hash.",
                queries=[_top("picosnitch_network_receive_bytes_total")],
                unit="Bps",
                links=_SERIES,
            ),
            Timeseries(
                title="Top executables by connections",
                description="The ten that open and accept most connections a second; for "
                "datagrams, new pairs of socket and peer.",
                queries=[_top("picosnitch_connections_total")],
                unit="cps",
                links=_SERIES,
            ),
            Timeseries(
                title="Top executables by failed connects",
                description="Connects a second that were refused, reset or timed out. A scan shows "
                "here; so does a service that is gone.",
                queries=[_top("picosnitch_connect_failures_total")],
                unit="cps",
                nothing="No connect failed in this range",
                levels={1: "orange", 10: "red"},
                links=_SERIES,
            ),
            Timeseries(
                title="Bytes by scope of the peer",
                description="Sent and received together: loopback, private, link-local, multicast "
                "and public addresses.",
                queries=[Promql(f"{transmit} + {receive}", "{{scope}}")],
                unit="Bps",
                is_stacked=True,
            ),
            Timeseries(
                title="Top hosts by bytes sent",
                description="The ten hosts that send most at each moment. Click a line for the "
                "host.",
                queries=[_top("picosnitch_network_transmit_bytes_total", "instance")],
                unit="Bps",
                links=links.to_host("${__field.labels.instance}"),
            ),
        ],
    )


def _executables() -> Section:
    verdict = (
        f'picosnitch_executable_virustotal_verdict{{{WORKLOADS}, verdict=~"malicious|suspicious"}}'
    )
    recorded = "job_sha256:picosnitch_executable_first_seen_timestamp_seconds:min"
    rare = (
        'topk(100, job_sha256_exe:picosnitch_hosts:count{job=~"$job"} * 0'
        f' + on (job, sha256) group_left () {recorded}{{job=~"$job"}} * 1000'
        ' and on (job, sha256) job_sha256:picosnitch_hosts:count{job=~"$job"} == 1)'
    )
    return Section(
        title="Executables",
        panels=[
            Table(
                title="Executables in this range",
                description="By path and hash, over all hosts: what they moved in the time range "
                "of the dashboard. The first hundred of each column.",
                columns={
                    "Sent": _increase("picosnitch_network_transmit_bytes_total"),
                    "Received": _increase("picosnitch_network_receive_bytes_total"),
                    "Connections": _increase("picosnitch_connections_total"),
                    "Failed connects": _increase("picosnitch_connect_failures_total"),
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
            Table(
                title="Newest hashes on a host",
                description="By the time when each host first saw them, newest first. On the first "
                "day of an exporter, that is all of them.",
                columns={
                    "First seen": Promql(
                        f"topk(100, min by (instance, exe, sha256) ({_FIRST_SEEN}) * 1000)"
                    )
                },
                units={"First seen": "dateTimeAsLocal"},
                links={**_HASHES, "instance": links.to_host("${__data.fields.instance}")},
                sort="First seen",
                nothing="No executable has been seen yet",
                span=12,
            ),
            Table(
                title="Rare hashes",
                description="Seen on exactly one host of the fleet, newest first. The choice of "
                "instances does not matter here. Needs the recording rules.",
                columns={"First seen in the fleet": Promql(rare)},
                units={"First seen in the fleet": "dateTimeAsLocal"},
                hidden=["job"],
                links=_HASHES,
                sort="First seen in the fleet",
                nothing=_NEEDS_RULES,
                span=12,
            ),
            Table(
                title="Malicious and suspicious",
                description="What VirusTotal calls so, and on how many hosts it used the network.",
                columns={
                    "Hosts": Promql(f"count by (exe, sha256, verdict) ({verdict} == 1)"),
                },
                links=_HASHES,
                sort="Hosts",
                nothing="No such verdict",
                levels=BAD_FROM_ONE,
                span=12,
                height=8,
            ),
            Timeseries(
                title="Hashes by verdict",
                description="Each hash once, by what VirusTotal says: clean, suspicious, "
                "malicious, unknown to it, pending, or disabled.",
                queries=[
                    Promql(
                        "count by (verdict) (count by (verdict, sha256) ("
                        f"picosnitch_executable_virustotal_verdict{{{WORKLOADS}}} == 1))",
                        "{{verdict}}",
                    )
                ],
                unit="short",
                is_stacked=True,
            ),
            Table(
                title="Deleted while they run",
                description="Executables that talk although their file was deleted and nothing is "
                "in its place, or that were only ever in memory; on how many hosts.",
                columns={
                    "Hosts": Promql(
                        "count by (exe, sha256) (max by (instance, exe, sha256) ("
                        f"picosnitch_executable_deleted{{{WORKLOADS}}}))"
                    ),
                },
                links=_HASHES,
                sort="Hosts",
                nothing="No executable was deleted while it ran",
                levels=BAD_FROM_ONE,
                span=24,
                height=8,
            ),
        ],
    )


def _hosts() -> Section:
    by_hosts = 'topk(100, job_sha256_exe:picosnitch_hosts:count{job=~"$job"})'
    return Section(
        title="Hosts",
        panels=[
            Table(
                title="Executables on most hosts",
                description="On how many hosts of the fleet each path and hash is in use. Two "
                "hashes of one path are two versions. Needs the recording rules.",
                columns={"Hosts": Promql(by_hosts)},
                hidden=["job"],
                links=_HASHES,
                sort="Hosts",
                nothing=_NEEDS_RULES,
                span=12,
            ),
            Table(
                title="Hosts by new hashes",
                description="Executables with series on each host, and how many of them are new "
                "within 24 hours.",
                columns={
                    "Executables": Promql(
                        "count by (instance) (count by (instance, sha256, exe) "
                        f"(picosnitch_executable_info{{{WORKLOADS}}}))"
                    ),
                    "New in 24 h": Promql(
                        "count by (instance) (count by (instance, sha256) "
                        f"(time() - {_FIRST_SEEN} < 86400))"
                    ),
                },
                links={"instance": links.to_host("${__data.fields.instance}")},
                sort="New in 24 h",
                nothing="No exporter has been scraped in this range",
                span=12,
            ),
        ],
    )
