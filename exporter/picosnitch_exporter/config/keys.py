"""The table of settings: name, kind, range and meaning of each, once.

Loading, `check-config --show`, the flags of the command line and docs/configuration.md come from
it; defaults stand in `settings.py`.
"""

from dataclasses import dataclass

from picosnitch_exporter.config.addresses import check_url
from picosnitch_exporter.config.headers import Headers
from picosnitch_exporter.config.kinds import (
    TELEMETRY_PATH,
    AutoFlag,
    Choice,
    FilePath,
    Flag,
    IgnoreList,
    Kind,
    ListenAddresses,
    Number,
    Secret,
    Text,
    check_base_url,
    check_credential,
    check_group,
    check_node,
    check_proxy_url,
    check_secret_url,
    check_user,
)
from picosnitch_exporter.config.sql_server import SqlServer
from picosnitch_exporter.settings import Settings

_DAY_SECONDS = 86_400
_URL = "a URL (http or https)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting."""

    name: str
    """Nested: the attribute path in `Settings`, and the path in the file."""
    kind: Kind
    doc: str
    """One sentence, without full stop."""
    picosnitch: str | None = None
    """How picosnitch's config.json calls it."""
    flag: str | None = None
    """The flag of the command line that sets it."""
    in_file: bool = True
    """False: only by its flag."""
    fills: str | None = None
    """For the path of a file with a secret: the setting that the content goes to."""
    credential: str | None = None
    """For such a path: the systemd credential that is its default."""

    @property
    def path(self) -> tuple[str, ...]:
        """The name in its parts."""
        return tuple(self.name.split("."))

    @property
    def default(self) -> object:
        """What holds where nothing is given."""
        return value_of(Settings(), self)


KEYS = (
    Key(
        name="web.listen_addresses",
        kind=ListenAddresses(),
        doc="where HTTP is served; without a host on all addresses, IPv6 in brackets",
        flag="--web.listen-address",
    ),
    Key(
        name="web.telemetry_path",
        kind=TELEMETRY_PATH,
        doc="where the metrics are",
        flag="--web.telemetry-path",
    ),
    Key(
        name="web.config_file",
        kind=FilePath(nullable=True),
        doc="TLS and basic authentication, in the format of Prometheus's exporter-toolkit",
        flag="--web.config.file",
    ),
    Key(
        name="storage.path",
        kind=FilePath(),
        doc="the folder of the database, the text logs and the journal",
        flag="--storage.path",
    ),
    Key(
        name="storage.user",
        kind=Text(description="the name of a user, or null", check=check_user, nullable=True),
        doc="whom the unprivileged process runs as; null: `picosnitch-exporter`, or `nobody`",
    ),
    Key(
        name="storage.group",
        kind=Text(description="the name of a group, or null", check=check_group, nullable=True),
        doc="whose members may use `top`, beside root; null: nobody else",
    ),
    Key(
        name="bpf.plan",
        kind=Choice(words=("auto", "tracepoint", "fexit", "bcc")),
        doc="which hooks count; auto takes the best that the kernel has",
        flag="--bpf.plan",
    ),
    Key(
        name="bpf.ring_buffer_pages",
        kind=Number(minimum=1, maximum=65_536, power_of_two=True),
        doc="size of the event buffer, in pages of memory",
        picosnitch="Perf ring buffer (pages)",
    ),
    Key(
        name="bpf.keep_on_exit",
        kind=Flag(),
        doc="SIGTERM leaves the kernel side counting for the next start",
    ),
    Key(
        name="bpf.linger_seconds",
        kind=Number(minimum=1, maximum=7 * _DAY_SECONDS),
        doc="how long what was left counting does so before it idles",
    ),
    Key(
        name="bpf.bandwidth",
        kind=Flag(),
        doc="false: connections are logged and counted, bytes are not",
        picosnitch="Bandwidth monitor",
    ),
    Key(
        name="bpf.getaddrinfo",
        kind=Flag(),
        doc="domains also from the C library's getaddrinfo, for encrypted and local resolvers; "
        "makes each start of a program slower",
    ),
    Key(
        name="bpf.pin_path",
        kind=FilePath(),
        doc="the folder in the BPF filesystem that keeps the kernel side between two runs",
    ),
    Key(
        name="identity.every_exe",
        kind=Flag(),
        doc="executables that never use the network are recorded too, as rows with port -1",
        picosnitch="Every exe (not just conns)",
    ),
    Key(
        name="identity.rlimit_nofile",
        kind=Number(minimum=64, maximum=1 << 30, nullable=True),
        doc="limit of open files, for the cache of executables; null leaves it as it is",
        picosnitch="Set RLIMIT_NOFILE",
    ),
    Key(
        name="identity.st_dev_mask",
        kind=Number(minimum=0, maximum=0xFFFF_FFFF, nullable=True),
        doc="which bits of a device number tell filesystems apart; null: all",
        picosnitch="Set st_dev mask",
    ),
    Key(
        name="log.write_limit_seconds",
        kind=Number(minimum=1, maximum=_DAY_SECONDS),
        doc="least time between two writes; traffic of one connection within it is one row",
        picosnitch="DB write limit (seconds)",
    ),
    Key(
        name="log.addresses",
        kind=Flag(),
        doc="false: addresses and domains are left empty in every log",
        picosnitch="Log addresses",
    ),
    Key(
        name="log.commands",
        kind=Flag(),
        doc="false: command lines are left empty in every log",
        picosnitch="Log commands",
    ),
    Key(
        name="log.ports",
        kind=Flag(),
        doc="false: ports are 0 in every log",
        picosnitch="Log ports",
    ),
    Key(
        name="log.ignore",
        kind=IgnoreList(),
        doc="connections that match any entry are left out of the logs, not of the metrics",
        picosnitch="Log ignore",
    ),
    Key(
        name="log.sqlite.enabled",
        kind=Flag(),
        doc="the connection log in `snitch.db`",
        picosnitch="DB sql log",
    ),
    Key(
        name="log.sqlite.retention_days",
        kind=Number(minimum=1, maximum=36_500),
        doc="older rows of `snitch.db` are deleted",
        picosnitch="DB retention (days)",
    ),
    Key(
        name="log.text.enabled",
        kind=Flag(),
        doc="the connection log in `conn.log`",
        picosnitch="DB text log",
    ),
    Key(
        name="log.server",
        kind=SqlServer(),
        doc="the connection log on a MariaDB, MySQL or PostgreSQL server; never pruned",
        picosnitch="DB sql server",
    ),
    Key(
        name="metrics.max_executables",
        kind=Number(minimum=1, maximum=1_000_000),
        doc="how many executables have series of their own; the others count as `other`",
    ),
    Key(
        name="metrics.stale_after_seconds",
        kind=Number(minimum=1, maximum=3_650 * _DAY_SECONDS),
        doc="series of executables that have been silent for that long are dropped",
    ),
    Key(
        name="otlp.endpoint",
        kind=Text(description=f"{_URL}, or null", check=check_url, nullable=True),
        doc="where the metrics are sent by OTLP; null: nowhere, unless `OTEL_*` says so",
    ),
    Key(
        name="otlp.protocol",
        kind=Choice(words=("http/protobuf", "grpc")),
        doc="how OTLP is transported",
    ),
    Key(
        name="otlp.interval_seconds",
        kind=Number(minimum=1, maximum=_DAY_SECONDS),
        doc="time between two exports",
    ),
    Key(
        name="otlp.logs",
        kind=Flag(),
        doc="the connection log is sent by OTLP too",
    ),
    Key(
        name="otlp.temporality",
        kind=Choice(words=("cumulative", "delta")),
        doc="whether a counter is sent as its total, or as what was added since the last export",
    ),
    Key(
        name="otlp.timeout_seconds",
        kind=Number(minimum=1, maximum=600),
        doc="how long to try to send one batch, repetitions included",
    ),
    Key(
        name="otlp.compression",
        kind=Choice(words=("none", "gzip")),
        doc="how batches are compressed",
    ),
    Key(
        name="otlp.headers",
        kind=Headers(
            description="a mapping of names to texts, or null (secret)",
            check=str,
            empty=None,
        ),
        doc="headers of each request, as a token that the receiver asks for",
    ),
    Key(
        name="otlp.headers_file",
        kind=FilePath(nullable=True),
        doc="a file with them, `name=value` in each line",
        fills="otlp.headers",
    ),
    Key(
        name="otlp.certificate",
        kind=FilePath(nullable=True),
        doc="the authorities that may have signed the receiver's certificate; null: the system's",
    ),
    Key(
        name="otlp.client_certificate",
        kind=FilePath(nullable=True),
        doc="the certificate that the exporter shows to the receiver; `storage.user` reads it",
    ),
    Key(
        name="otlp.client_key",
        kind=FilePath(nullable=True),
        doc="the private key of that certificate; `storage.user` reads it",
    ),
    Key(
        name="virustotal.api_key",
        kind=Secret(description="text (secret)", check=check_credential, empty=""),
        doc="key of VirusTotal's API v3; empty: nothing is asked",
        picosnitch="VT API key",
    ),
    Key(
        name="virustotal.api_key_file",
        kind=FilePath(nullable=True),
        doc="a file with that key; by default the systemd credential `vt-api-key`, if there",
        fills="virustotal.api_key",
        credential="vt-api-key",
    ),
    Key(
        name="virustotal.file_upload",
        kind=Flag(),
        doc="executables that VirusTotal does not know are uploaded",
        picosnitch="VT file upload",
    ),
    Key(
        name="virustotal.request_limit_seconds",
        kind=Number(minimum=0, maximum=_DAY_SECONDS),
        doc="least time between two requests",
        picosnitch="VT request limit (seconds)",
    ),
    Key(
        name="virustotal.base_url",
        kind=Text(description=_URL, check=check_base_url),
        doc="where the API is",
    ),
    Key(
        name="virustotal.proxy_url",
        kind=Secret(
            description="a URL (http), or null (secret)", check=check_proxy_url, empty=None
        ),
        doc="an HTTP proxy on the way there; it may name a user and a password",
    ),
    Key(
        name="virustotal.proxy_url_file",
        kind=FilePath(nullable=True),
        doc="a file with that URL",
        fills="virustotal.proxy_url",
    ),
    Key(
        name="virustotal.recheck_days",
        kind=Number(minimum=0, maximum=3650),
        doc="executables that VirusTotal does not know or finds clean are asked for again after "
        "this; 0: never",
    ),
    Key(
        name="notifications.desktop",
        kind=Flag(),
        doc="notifications on the desktop, over D-Bus",
        picosnitch="Desktop notifications",
    ),
    Key(
        name="notifications.user",
        kind=Text(description="the name of a user, or null", check=check_user, nullable=True),
        doc="whose desktop; null: whoever has the active session",
    ),
    Key(
        name="notifications.webhook_url",
        kind=Secret(description=f"{_URL}, or null (secret)", check=check_secret_url, empty=None),
        doc="the same events are posted there as JSON",
    ),
    Key(
        name="notifications.webhook_url_file",
        kind=FilePath(nullable=True),
        doc="a file with that URL",
        fills="notifications.webhook_url",
    ),
    Key(
        name="notifications.syslog",
        kind=Flag(),
        doc="the same events go to syslog",
    ),
    Key(
        name="kubernetes.enabled",
        kind=AutoFlag(),
        doc="labels of pods and containers; auto: in a pod, and where there are containers",
    ),
    Key(
        name="kubernetes.node_name",
        kind=Text(description="the name of a node, or null", check=check_node, nullable=True),
        doc="the node whose pods are asked for; null: the variable `NODE_NAME`",
    ),
    Key(
        name="kubernetes.api_url",
        kind=Text(description=f"{_URL}, or null", check=check_url, nullable=True),
        doc="the API server; null: the variables `KUBERNETES_SERVICE_HOST` and `..._PORT`",
    ),
    Key(
        name="kubernetes.token_file",
        kind=FilePath(nullable=True),
        doc="the token for it, read for each request; null: that of the pod's service account",
    ),
    Key(
        name="kubernetes.ca_file",
        kind=FilePath(nullable=True),
        doc="the authorities that may have signed its certificate; null: those of that account",
    ),
    Key(
        name="logging.level",
        kind=Choice(words=("debug", "info", "warn", "error")),
        doc="least severity of what the exporter says about itself",
        flag="--log.level",
        in_file=False,
    ),
    Key(
        name="logging.format",
        kind=Choice(words=("logfmt", "json")),
        doc="how the exporter writes what it says about itself",
        flag="--log.format",
        in_file=False,
    ),
)

BY_NAME = {key.name: key for key in KEYS}
IN_FILE = tuple(key for key in KEYS if key.in_file)
BY_PICOSNITCH = {key.picosnitch: key for key in KEYS if key.picosnitch is not None}

INERT = ("Dash scroll zoom", "Dash theme", "GeoIP lookup")
"""Keys of picosnitch's graphical interfaces, which this program does not have."""


def value_of(settings: Settings, key: Key) -> object:
    """The value of a setting."""
    value: object = settings
    for name in key.path:
        value = getattr(value, name)
    return value
