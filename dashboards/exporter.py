"""The exporter on itself: health, losses, cost, backlogs."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import variables
from dashboards.links import Uid
from dashboards.panels import (
    BAD_FROM_ONE,
    NEUTRAL,
    Levels,
    Section,
    Stat,
    Table,
    Timeseries,
    dashboard,
)
from dashboards.queries import EXPORTERS, HOSTS, Promql

_OWN = "picosnitch_exporter_"
_OK = "Nothing lost"


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        Uid.EXPORTER,
        "Exporter",
        "Whether the exporters run, what they lose, what they cost and what waits.",
        variables=[*variables.hosts()],
        sections=[_health(), _losses(), _cost(), _logs(), _services(), _capacity()],
    )


def _gauge(name: str, by: str) -> str:
    return f"sum by ({by}) ({_OWN}{name}{{{HOSTS}}})"


def _rate(name: str, by: str) -> str:
    return f"sum by ({by}) (rate({_OWN}{name}{{{HOSTS}}}[$__rate_interval]))"


def _increase(name: str, by: str) -> str:
    return f"sum by ({by}) (increase({_OWN}{name}{{{HOSTS}}}[$__rate_interval]))"


def _total(name: str) -> Promql:
    return Promql(f"sum(increase({_OWN}{name}{{{HOSTS}}}[$__range])) or vector(0)")


def _quantile(name: str) -> Sequence[Promql]:
    rate = f"sum by (le) (rate({_OWN}{name}_bucket{{{HOSTS}}}[$__rate_interval]))"
    return [
        Promql(f"histogram_quantile({quantile}, {rate})", legend)
        for quantile, legend in ((0.5, "median"), (0.99, "99 %"))
    ]


def _lines(  # noqa: PLR0913  (what a chart has)
    title: str,
    description: str,
    expr: str,
    legend: str,
    *,
    unit: str = "short",
    nothing: str = "Nothing in this range",
    levels: Levels = NEUTRAL,
    span: int = 8,
) -> Timeseries:
    return Timeseries(
        title=title,
        description=description,
        queries=[Promql(expr, legend)],
        unit=unit,
        nothing=nothing,
        levels=levels,
        span=span,
    )


def _health() -> Section:
    return Section(
        title="Health",
        panels=[
            Stat(
                title="Exporters",
                description="Those that answered the last scrape, and those that did not.",
                queries=[
                    Promql(f"count(({EXPORTERS}) == 1) or vector(0)", "up"),
                    Promql(f"count(({EXPORTERS}) == 0) or vector(0)", "down"),
                ],
                with_names=True,
            ),
            Stat(
                title="Records lost",
                description="Over the time range. What is lost is missing from counters or log.",
                queries=[_total("events_lost_total")],
                levels=BAD_FROM_ONE,
            ),
            Stat(
                title="Bytes without an executable",
                description="Over the time range: moved, but in no series.",
                queries=[_total("unattributed_bytes_total")],
                unit="bytes",
                levels=BAD_FROM_ONE,
            ),
            Stat(
                title="Time not counted",
                description="Over the time range: nobody read the kernel side for longer than "
                "bpf.linger_seconds, so it idled.",
                queries=[_total("kernel_gap_seconds_total")],
                unit="s",
                levels=BAD_FROM_ONE,
            ),
            Stat(
                title="Rows dropped",
                description="Over the time range: rows that a log will never get.",
                queries=[_total("log_rows_dropped_total")],
                levels=BAD_FROM_ONE,
            ),
            Stat(
                title="Executables without a hash",
                description="Over the time range: files that could not be read.",
                queries=[_total("unhashed_executables_total")],
                levels={1: "orange"},
            ),
            Table(
                title="Versions, kernels and plans",
                description="What runs where: version of the exporter, kernel release, and the "
                "plan by which the BPF programs were attached.",
                columns={
                    "Plan": Promql(
                        "max by (instance, plan, kernel_release) "
                        f"({_OWN}kernel_plan_info{{{HOSTS}}})"
                    ),
                    "Build": Promql(
                        f"max by (instance, version, revision) ({_OWN}build_info{{{HOSTS}}})"
                    ),
                },
                hidden=["Value #A", "Value #B"],
                nothing="No exporter has been scraped",
                span=12,
                height=8,
            ),
            Table(
                title="Hooks",
                description="On how many hosts each hook is in use. One that is missing somewhere "
                "is a way to move bytes that is not seen there.",
                columns={"Hosts": Promql(f"count by (hook) ({_OWN}hook_info{{{HOSTS}}})")},
                sort="Hosts",
                nothing="No exporter has been scraped",
                span=12,
                height=8,
            ),
            Table(
                title="Plans that were refused",
                description="On how many hosts a better plan than the one in use was refused, and "
                "why: docs/kernels.md says what plans there are.",
                columns={
                    "Hosts": Promql(
                        f"count by (plan, reason) ({_OWN}kernel_plan_refused_info{{{HOSTS}}})"
                    )
                },
                sort="Hosts",
                nothing="Each host has the best plan",
                span=12,
                height=5,
            ),
            Table(
                title="Not counted by the plan",
                description="On how many hosts the plan in use does not see some kind of traffic.",
                columns={
                    "Hosts": Promql(f"count by (loss) ({_OWN}kernel_plan_loss_info{{{HOSTS}}})")
                },
                sort="Hosts",
                nothing="The plans see everything",
                span=12,
                height=5,
            ),
            Table(
                title="Confined processes",
                description="On how many hosts a process is confined by seccomp and Landlock. "
                "Fewer than there are: their log says what the system lacks (event=unconfined).",
                columns={
                    "Hosts": Promql(f"sum by (process, mechanism) ({_OWN}confined{{{HOSTS}}})")
                },
                sort="Hosts",
                nothing="No exporter has been scraped",
                span=24,
                height=5,
            ),
        ],
    )


def _losses() -> Section:
    red = {1e-9: "red"}
    return Section(
        title="Losses and delays",
        panels=[
            _lines(
                "Records lost",
                "By stage and reason. docs/runbooks/exporter.md has the setting for each.",
                _increase("events_lost_total", "stage, reason") + " > 0",
                "{{stage}}: {{reason}}",
                nothing=_OK,
                levels=red,
            ),
            _lines(
                "Records delayed",
                "What came late or by a slower way. Nothing of it is lost.",
                _increase("events_delayed_total", "stage, reason") + " > 0",
                "{{stage}}: {{reason}}",
                nothing="Nothing delayed",
                levels={1000: "orange"},
            ),
            _lines(
                "Bytes without an executable",
                "Moved, but in no series.",
                _increase("unattributed_bytes_total", "direction"),
                "{{direction}}",
                unit="bytes",
                nothing=_OK,
                levels=red,
            ),
            _lines(
                "Executables without a hash",
                "By the reason why the file could not be read.",
                _increase("unhashed_executables_total", "reason") + " > 0",
                "{{reason}}",
                nothing="All were hashed",
                levels={1: "orange"},
            ),
            _lines(
                "Sockets that nobody can count",
                "AF_XDP sockets and mapped packet rings: their bytes pass every hook.",
                _increase("unseen_sockets_total", "kind, exe") + " > 0",
                "{{kind}} {{exe}}",
                nothing="There are none",
                levels={1: "orange"},
            ),
            _lines(
                "Steps of the clock",
                "By more than a second. Stamps of the log step with it, counters do not.",
                _increase("clock_jumps_total", "direction"),
                "{{direction}}",
                nothing="None",
                levels={1: "orange"},
            ),
        ],
    )


def _cost() -> Section:
    programs = f"{_OWN}bpf_program_run_seconds_total"
    runs = f"{_OWN}bpf_program_runs_total"
    per_run = (
        f"sum by (program) (rate({programs}{{{HOSTS}}}[$__rate_interval]))"
        f" / (sum by (program) (rate({runs}{{{HOSTS}}}[$__rate_interval])) > 0)"
    )
    needs = "Nothing runs, or the sysctl kernel.bpf_stats_enabled is off"
    return Section(
        title="Cost",
        panels=[
            _lines(
                "Processor",
                "User and system time of both processes, in cores.",
                _rate("process_cpu_seconds_total", "instance, process"),
                "{{instance}} {{process}}",
                unit="percentunit",
                levels={0.5: "orange", 1: "red"},
            ),
            _lines(
                "Memory",
                "Resident memory of both processes.",
                _gauge("process_resident_memory_bytes", "instance, process"),
                "{{instance}} {{process}}",
                unit="bytes",
                levels={500e6: "orange"},
            ),
            _lines(
                "Open files",
                "Descriptors of both processes; the sensor keeps one for each executable that "
                "waits to be hashed.",
                _gauge("process_open_fds", "instance, process"),
                "{{instance}} {{process}}",
            ),
            _lines(
                "BPF programs: time a run",
                "Mean of all runs. Needs the sysctl kernel.bpf_stats_enabled.",
                per_run,
                "{{program}}",
                unit="s",
                nothing=needs,
                levels={10e-6: "orange"},
                span=12,
            ),
            _lines(
                "BPF programs: share of a core",
                "Over all hosts chosen. Needs the sysctl kernel.bpf_stats_enabled.",
                _rate("bpf_program_run_seconds_total", "program"),
                "{{program}}",
                unit="percentunit",
                nothing=needs,
                levels={0.1: "orange"},
                span=12,
            ),
            *(
                Timeseries(
                    title=title,
                    description=description,
                    queries=_quantile(name),
                    unit="s",
                    levels=levels,
                    span=6,
                )
                for title, description, name, levels in (
                    (
                        "Drain",
                        "Time that the sensor takes to drain the kernel side once.",
                        "drain_duration_seconds",
                        {0.5: "orange"},
                    ),
                    (
                        "Hash",
                        "Time that hashing one executable takes.",
                        "hash_duration_seconds",
                        {10.0: "orange"},
                    ),
                    (
                        "Commit",
                        "Time that one transaction of the SQLite database takes.",
                        "commit_duration_seconds",
                        {5.0: "orange"},
                    ),
                    (
                        "Scrape",
                        "Time that rendering and sending the metrics once takes.",
                        "scrape_duration_seconds",
                        {0.5: "orange"},
                    ),
                )
            ),
        ],
    )


def _logs() -> Section:
    return Section(
        title="Logs",
        panels=[
            _lines(
                "Rows written",
                "A second, for good, by log.",
                _rate("log_rows_written_total", "log"),
                "{{log}}",
                unit="wps",
                span=6,
            ),
            _lines(
                "Rows waiting",
                "Which a log has yet to take. They are on disk.",
                _gauge("log_rows_waiting", "instance, log"),
                "{{instance}} {{log}}",
                levels={100_000: "orange"},
                span=6,
            ),
            _lines(
                "Rows dropped",
                "Which a log will never get, by reason.",
                _increase("log_rows_dropped_total", "log, reason") + " > 0",
                "{{log}}: {{reason}}",
                nothing=_OK,
                levels=BAD_FROM_ONE,
                span=6,
            ),
            _lines(
                "Failed writes",
                "Attempts that failed. Their rows wait for the next.",
                _increase("log_errors_total", "log, reason") + " > 0",
                "{{log}}: {{reason}}",
                nothing="No write failed",
                levels={1: "orange"},
                span=6,
            ),
        ],
    )


def _services() -> Section:
    return Section(
        title="What it talks to",
        panels=[
            _lines(
                "VirusTotal",
                "Requests by how they ended.",
                _increase("virustotal_requests_total", "result") + " > 0",
                "{{result}}",
                nothing="VirusTotal was not asked",
                span=6,
            ),
            _lines(
                "OTLP",
                "Batches by how their export ended.",
                _increase("otlp_exports_total", "result") + " > 0",
                "{{result}}",
                nothing="Nothing was exported",
                span=6,
            ),
            _lines(
                "Kubernetes",
                "Lists and watches of the node's pods by how they ended.",
                _increase("kubernetes_requests_total", "request, result") + " > 0",
                "{{request}}: {{result}}",
                nothing="The API server was not asked",
                span=6,
            ),
            _lines(
                "Notifications",
                "By channel and by how they ended.",
                _increase("notifications_total", "channel, result") + " > 0",
                "{{channel}}: {{result}}",
                nothing="Nobody was notified",
                span=6,
            ),
            _lines(
                "HTTP requests",
                "A second, by what was asked for and the status that was answered.",
                _rate("http_requests_total", "handler, code"),
                "{{handler}} {{code}}",
                unit="reqps",
                span=6,
            ),
            _lines(
                "HTTP connections",
                "Open now, of at most 64.",
                _gauge("http_connections", "instance"),
                "{{instance}}",
                levels={50: "orange"},
                span=6,
            ),
            _lines(
                "HTTP connections dropped",
                "Closed without a whole answer, by reason.",
                _increase("http_connections_dropped_total", "reason"),
                "{{reason}}",
                levels={10: "orange"},
                span=4,
            ),
            _lines(
                "Reloads of the web configuration",
                "After a failure the one before stays in force.",
                _increase("web_config_reloads_total", "result"),
                "{{result}}",
                span=4,
            ),
            _lines(
                "Clients of top turned away",
                "Not allowed: neither root nor in storage.group. Full: 4 others were watching.",
                _increase("top_clients_refused_total", "reason"),
                "{{reason}}",
                levels={1: "orange"},
                span=4,
            ),
        ],
    )


def _capacity() -> Section:
    filled = (
        f"max by (instance, map) ({_OWN}kernel_map_entries{{{HOSTS}}})"
        f" / max by (instance, map) ({_OWN}kernel_map_capacity{{{HOSTS}}})"
    )
    return Section(
        title="Capacity",
        panels=[
            _lines(
                "Kernel tables",
                "How full they are. What does not fit is delayed or lost.",
                filled,
                "{{instance}} {{map}}",
                unit="percentunit",
                levels={0.5: "orange", 0.8: "red"},
            ),
            _lines(
                "Series",
                "Of executables, over all metrics.",
                _gauge("series", "instance"),
                "{{instance}}",
            ),
            _lines(
                "Executables",
                "That have series of their own; metrics.max_executables is the bound.",
                _gauge("executables_known", "instance"),
                "{{instance}}",
                levels={2000: "orange"},
            ),
            _lines(
                "Executables refused",
                'Beyond the bound: counted under exe="other".',
                _increase("series_refused_total", "reason") + " > 0",
                "{{reason}}",
                nothing="All have series",
                levels={1: "orange"},
            ),
            _lines(
                "Executables that wait to be hashed",
                "Their traffic shows once they are.",
                _gauge("hash_queue_length", "instance"),
                "{{instance}}",
                levels={1000: "orange"},
            ),
            _lines(
                "Memory of kernel tables",
                "Of the kernel, which no process's memory shows.",
                _gauge("kernel_map_memory_bytes", "instance, map"),
                "{{instance}} {{map}}",
                unit="bytes",
            ),
        ],
    )
