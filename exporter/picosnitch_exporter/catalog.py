"""Every metric, once: name, kind, unit, help and labels.

Prometheus and OTLP outputs, docs/metrics.md, dashboards and alert rules are checked against this.
Naming: https://prometheus.io/docs/practices/naming/ (promtool finds nothing to say).
"""

import re
from dataclasses import dataclass
from enum import StrEnum

EXECUTABLE_LABELS = ("sha256", "exe")
WORKLOAD_LABELS = ("namespace", "pod", "container")
OWN_PREFIX = "picosnitch_exporter_"

OTLP_ATTRIBUTES = {
    "sha256": "picosnitch.executable.sha256",
    "exe": "process.executable.path",
    "namespace": "k8s.namespace.name",
    "pod": "k8s.pod.name",
    "container": "k8s.container.name",  # container.id or container.name where there is no pod
    "protocol": "network.transport",
    "scope": "picosnitch.peer.scope",
    "direction": "picosnitch.connection.direction",
    "name": "picosnitch.executable.name",
    "parent_exe": "picosnitch.parent.executable.path",
    "parent_sha256": "picosnitch.parent.executable.sha256",
    "size_bytes": "picosnitch.executable.size",
    "verdict": "picosnitch.virustotal.verdict",
    "category": "picosnitch.virustotal.category",
}
"""What OTLP calls the labels of `EXECUTABLE_METRICS`: names of OpenTelemetry's conventions where
there are any."""

FAST_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
"""Seconds; for what happens on every drain and scrape."""
SLOW_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; for what waits for a disk."""

# A backslash of the value itself that would read as one of the escapes below.
_LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")
# What UTF-8 can't carry, and NUL, at which Prometheus's lexer takes the scrape to end.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Kind(StrEnum):
    """The type of a metric, as `# TYPE` names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family; `name` is that of the Prometheus text format."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    """Beyond the executable's."""
    unit: str = ""
    """Last word of the family's name, where it has a unit."""
    of_executable: bool = False
    """Has `EXECUTABLE_LABELS` and, with workloads on, `WORKLOAD_LABELS` before `labels`."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in the unit, without the infinite one."""
    presets: tuple[tuple[str, ...], ...] = ()
    """Label values that are exposed as 0 from the start."""
    otlp_name: str = ""
    otlp_unit: str = ""

    @property
    def family(self) -> str:
        """The name of OpenMetrics' metric family: a counter's goes without `_total`."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name

    def label_names(self, *, with_workload_labels: bool) -> tuple[str, ...]:
        """All labels, in the order in which they are exposed."""
        if not self.of_executable:
            return self.labels
        workload = WORKLOAD_LABELS if with_workload_labels else ()
        return EXECUTABLE_LABELS + workload + self.labels


def label_value(text: str) -> str:
    r"""Give a text that UTF-8 can carry, from which the original can be told.

    Bytes of a path that are not UTF-8 (`os.fsdecode` makes surrogates of them) and NUL become
    `\xNN`, with lower-case digits. A backslash that the text itself has stays as it is, except
    before something that reads like such an escape: there it becomes `\x5c`. So no two texts share
    a value, and replacing each `\xNN` by its byte gives back the path.
    """
    if text.isascii() and "\\" not in text and "\0" not in text:
        return text
    text = _LOOKS_ESCAPED.sub(r"\\x5c", text)
    return _NOT_TEXT.sub(_hexadecimal, text)


def _hexadecimal(match: re.Match[str]) -> str:
    character = match.group()
    try:
        raw = character.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a surrogate that no file name can have brought
        raw = character.encode(errors="surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)


# What executables do. The names are the contract with dashboards and alert rules.

NETWORK_TRANSMIT_BYTES = Metric(
    name="picosnitch_network_transmit_bytes_total",
    kind=Kind.COUNTER,
    help="Payload bytes that the executable's socket calls sent.",
    labels=("protocol", "scope"),
    unit="bytes",
    of_executable=True,
    otlp_name="process.network.io",
    otlp_unit="By",
)
NETWORK_RECEIVE_BYTES = Metric(
    name="picosnitch_network_receive_bytes_total",
    kind=Kind.COUNTER,
    help="Payload bytes that the executable's socket calls received.",
    labels=("protocol", "scope"),
    unit="bytes",
    of_executable=True,
    otlp_name="process.network.io",
    otlp_unit="By",
)
CONNECTIONS = Metric(
    name="picosnitch_connections_total",
    kind=Kind.COUNTER,
    help="Connections opened and accepted; for datagrams, pairs of socket and peer, "
    "all but a socket's first anew after a minute of silence.",
    labels=("protocol", "scope", "direction"),
    of_executable=True,
    otlp_name="picosnitch.network.connections",
    otlp_unit="{connection}",
)
CONNECT_FAILURES = Metric(
    name="picosnitch_connect_failures_total",
    kind=Kind.COUNTER,
    help="Connects that were refused, reset or timed out.",
    labels=("protocol", "scope"),
    of_executable=True,
    otlp_name="picosnitch.network.connect_failures",
    otlp_unit="{connection}",
)
EXECUTABLE_INFO = Metric(
    name="picosnitch_executable_info",
    kind=Kind.GAUGE,
    help="Always 1; the labels say what is known of the executable and who ran it first.",
    labels=("name", "parent_exe", "parent_sha256", "size_bytes"),
    of_executable=True,
    otlp_name="picosnitch.executable.info",
    otlp_unit="1",
)
EXECUTABLE_FIRST_SEEN = Metric(
    name="picosnitch_executable_first_seen_timestamp_seconds",
    kind=Kind.GAUGE,
    help="When the executable was first seen on this host, kept over restarts.",
    unit="seconds",
    of_executable=True,
    otlp_name="picosnitch.executable.first_seen",
    otlp_unit="s",
)
EXECUTABLE_LAST_SEEN = Metric(
    name="picosnitch_executable_last_seen_timestamp_seconds",
    kind=Kind.GAUGE,
    help="When the executable was last seen on this host, kept over restarts.",
    unit="seconds",
    of_executable=True,
    otlp_name="picosnitch.executable.last_seen",
    otlp_unit="s",
)
VIRUSTOTAL_VERDICT = Metric(
    name="picosnitch_executable_virustotal_verdict",
    kind=Kind.GAUGE,
    help="Always 1, once for each executable: clean, suspicious, malicious, unknown, pending or "
    "disabled.",
    labels=("verdict",),
    of_executable=True,
    otlp_name="picosnitch.executable.virustotal.verdict",
    otlp_unit="1",
)
VIRUSTOTAL_ENGINES = Metric(
    name="picosnitch_executable_virustotal_engines",
    kind=Kind.GAUGE,
    help="Engines of VirusTotal by what they say of the executable, where there is an analysis.",
    labels=("category",),
    of_executable=True,
    otlp_name="picosnitch.executable.virustotal.engines",
    otlp_unit="{engine}",
)
EXECUTABLE_DELETED = Metric(
    name="picosnitch_executable_deleted",
    kind=Kind.GAUGE,
    help="Always 1, for executables whose file is gone while they run: deleted, nothing in its "
    "place, or only ever in memory.",
    of_executable=True,
    otlp_name="picosnitch.executable.deleted",
    otlp_unit="1",
)


# The exporter on itself.


def _own(  # noqa: PLR0913  (one argument for each thing that a metric has)
    name: str,
    help: str,  # noqa: A002  (as Prometheus calls it)
    *,
    labels: tuple[str, ...] = (),
    unit: str = "",
    buckets: tuple[float, ...] = (),
    presets: tuple[tuple[str, ...], ...] = (),
    of_executable: bool = False,
) -> Metric:
    kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
    return Metric(
        name=OWN_PREFIX + name,
        kind=Kind.HISTOGRAM if buckets else kind,
        help=help,
        labels=labels,
        unit=unit,
        buckets=buckets,
        presets=presets,
        of_executable=of_executable,
    )


BUILD_INFO = _own(
    "build_info",
    "Always 1; the version that runs and, where known, the revision it was built from.",
    labels=("version", "revision"),
)
KERNEL_PLAN_INFO = _own(
    "kernel_plan_info",
    "Always 1; the plan by which the BPF programs were attached, and the kernel.",
    labels=("plan", "kernel_release"),
)
KERNEL_PLAN_REFUSED_INFO = _own(
    "kernel_plan_refused_info",
    "Always 1, once for each better plan that this machine does not take, with the reason.",
    labels=("plan", "reason"),
)
KERNEL_PLAN_LOSS_INFO = _own(
    "kernel_plan_loss_info",
    "Always 1, once for each kind of traffic that the plan in use does not see on this machine.",
    labels=("loss",),
)
HOOK_INFO = _own("hook_info", "Always 1, once for each hook in use.", labels=("hook",))
EVENTS_LOST = _own(
    "events_lost_total",
    "What is lost for good: records, or bytes where the reason says so.",
    labels=("stage", "reason"),
)
EVENTS_DELAYED = _own(
    "events_delayed_total",
    "What came late or by a slower way. Nothing of it is lost.",
    labels=("stage", "reason"),
)
UNATTRIBUTED_BYTES = _own(
    "unattributed_bytes_total",
    "Bytes that moved but are in no series, as they could not be stored or given an owner.",
    labels=("direction",),
    unit="bytes",
    presets=(("transmit",), ("receive",)),
)
UNHASHED_EXECUTABLES = _own(
    "unhashed_executables_total",
    'Executables whose file could not be read: their label sha256 is "".',
    labels=("reason",),
)
UNSEEN_SOCKETS = _own(
    "unseen_sockets_total",
    "Sockets whose bytes no hook can see: AF_XDP and mapped packet rings.",
    labels=("kind",),
    of_executable=True,
)
KERNEL_GAP_SECONDS = _own(
    "kernel_gap_seconds_total",
    "Time in which the kernel side idled because nobody had read it for bpf.linger_seconds.",
    unit="seconds",
)
CLOCK_JUMPS = _own(
    "clock_jumps_total",
    "Steps of the wall clock by more than a second.",
    labels=("direction",),
    presets=(("forward",), ("backward",)),
)
DRAIN_DURATION = _own(
    "drain_duration_seconds",
    "Time that the sensor took to drain the kernel side once.",
    unit="seconds",
    buckets=FAST_BUCKETS,
)
HASH_DURATION = _own(
    "hash_duration_seconds",
    "Time that hashing one executable took.",
    unit="seconds",
    buckets=SLOW_BUCKETS,
)
COMMIT_DURATION = _own(
    "commit_duration_seconds",
    "Time that one transaction of the SQLite database took.",
    unit="seconds",
    buckets=SLOW_BUCKETS,
)
SCRAPE_DURATION = _own(
    "scrape_duration_seconds",
    "Time that rendering and sending the metrics once took.",
    unit="seconds",
    buckets=FAST_BUCKETS,
)
KERNEL_MAP_ENTRIES = _own("kernel_map_entries", "Entries in a kernel map.", labels=("map",))
KERNEL_MAP_CAPACITY = _own(
    "kernel_map_capacity", "Entries that a kernel map has room for.", labels=("map",)
)
KERNEL_MAP_MEMORY_BYTES = _own(
    "kernel_map_memory_bytes",
    "Memory of the kernel that a map takes, with what it holds; before Linux 6.4 an estimate.",
    labels=("map",),
    unit="bytes",
)
BPF_PROGRAM_RUNS = _own(
    "bpf_program_runs_total",
    "Runs of a BPF program; 0 while the sysctl kernel.bpf_stats_enabled is off.",
    labels=("program",),
)
BPF_PROGRAM_RUN_SECONDS = _own(
    "bpf_program_run_seconds_total",
    "Time spent in a BPF program; 0 while the sysctl kernel.bpf_stats_enabled is off.",
    labels=("program",),
    unit="seconds",
)
LOG_ROWS_WRITTEN = _own(
    "log_rows_written_total", "Rows that reached a log for good.", labels=("log",)
)
LOG_ROWS_WAITING = _own("log_rows_waiting", "Rows that a log has yet to take.", labels=("log",))
LOG_ROWS_DROPPED = _own(
    "log_rows_dropped_total", "Rows that a log will never get.", labels=("log", "reason")
)
LOG_ERRORS = _own(
    "log_errors_total",
    "Failed attempts to write to a log. Their rows wait for the next.",
    labels=("log", "reason"),
)
VIRUSTOTAL_REQUESTS = _own(
    "virustotal_requests_total", "Requests to VirusTotal by how they ended.", labels=("result",)
)
OTLP_EXPORTS = _own(
    "otlp_exports_total", "Batches sent to the OTLP receiver by how it ended.", labels=("result",)
)
KUBERNETES_REQUESTS = _own(
    "kubernetes_requests_total",
    "Lists and watches of this node's pods at the Kubernetes API server by how they ended.",
    labels=("request", "result"),
)
NOTIFICATIONS = _own(
    "notifications_total",
    "Notifications by channel and by how it ended.",
    labels=("channel", "result"),
)
SERIES = _own("series", "Series of executables in use, over all metrics.")
SERIES_REFUSED = _own(
    "series_refused_total",
    'Series that got no labels of their own: counted under sha256="other", exe="other".',
    labels=("reason",),
)
EXECUTABLES_KNOWN = _own("executables_known", "Executables that have series of their own.")
HASH_QUEUE_LENGTH = _own("hash_queue_length", "Executables that wait to be hashed.")
HTTP_REQUESTS = _own(
    "http_requests_total",
    "HTTP requests by what was asked for and the status that was answered.",
    labels=("handler", "code"),
)
HTTP_CONNECTIONS = _own("http_connections", "HTTP connections that are open.")
HTTP_CONNECTIONS_DROPPED = _own(
    "http_connections_dropped_total",
    "HTTP connections that were closed without a whole answer.",
    labels=("reason",),
    presets=(("evicted",), ("timeout",), ("reset",), ("tls",), ("failed",)),
)
WEB_CONFIG_RELOADS = _own(
    "web_config_reloads_total",
    "Changes of --web.config.file by how they ended; after a failure the old one stays in force.",
    labels=("result",),
    presets=(("success",), ("failure",)),
)
TOP_CLIENTS_REFUSED = _own(
    "top_clients_refused_total",
    "Clients of the socket that `top` reads that were turned away, by reason.",
    labels=("reason",),
    presets=(("not_allowed",), ("full",), ("exhausted",)),
)
PROCESS_RESIDENT_MEMORY_BYTES = _own(
    "process_resident_memory_bytes",
    "Resident memory of the exporter's processes: sensor (privileged) and exporter.",
    labels=("process",),
    unit="bytes",
)
PROCESS_CPU_SECONDS = _own(
    "process_cpu_seconds_total",
    "Processor time, user and system, of the exporter's processes.",
    labels=("process",),
    unit="seconds",
)
PROCESS_OPEN_FDS = _own(
    "process_open_fds", "Open file descriptors of the exporter's processes.", labels=("process",)
)
CONFINED = _own(
    "confined",
    "1 where the process is confined by that mechanism, 0 where the system can't.",
    labels=("process", "mechanism"),
)

METRICS = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""
OWN_METRICS = tuple(metric for metric in METRICS if metric.name.startswith(OWN_PREFIX))
EXECUTABLE_METRICS = tuple(metric for metric in METRICS if metric not in OWN_METRICS)
