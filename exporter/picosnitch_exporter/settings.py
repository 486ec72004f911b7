"""The settings as values, with their defaults; `config` is the only place that fills them."""

from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PORT = 10054


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Where and how HTTP is served."""

    listen_addresses: tuple[str, ...] = (f":{DEFAULT_PORT}",)
    telemetry_path: str = "/metrics"
    config_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where things are kept, and as whom."""

    path: Path = Path("/var/lib/picosnitch")
    user: str | None = None
    """Whom the exporter process runs as; None: picosnitch-exporter, or nobody."""
    group: str | None = None
    """Whose members may use `top`; None: only root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BpfSettings:
    """The kernel side."""

    plan: str = "auto"
    ring_buffer_pages: int = 64
    keep_on_exit: bool = True
    linger_seconds: int = 900
    bandwidth: bool = True
    getaddrinfo: bool = False
    """Names also from the C library's getaddrinfo()."""
    pin_path: Path = Path("/sys/fs/bpf/picosnitch")
    """Where maps and programs are kept in bpffs; one exporter for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How executables are recognised; the names are picosnitch's."""

    every_exe: bool = False
    rlimit_nofile: int | None = None
    st_dev_mask: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteSettings:
    """The connection log in `snitch.db`."""

    enabled: bool = True
    retention_days: int = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """The connection log in `conn.log`."""

    enabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """`DB sql server`: the two keys that are taken out, and the connection parameters."""

    client: str
    table_name: str = "connections"
    password_file: Path | None = None
    """Where the parameter `password` came from, if from a file."""
    parameters: tuple[tuple[str, str | int | bool | None], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What every connection log holds, and which there are.

    `ignore` holds hashes, reversed domains and subnets in lower case, and ports.
    """

    write_limit_seconds: int = 10
    addresses: bool = True
    commands: bool = True
    ports: bool = True
    ignore: tuple[str | int, ...] = ()
    sqlite: SqliteSettings = SqliteSettings()
    text: TextSettings = TextSettings()
    server: ServerSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Bounds of what is exposed."""

    max_executables: int = 2000
    stale_after_seconds: int = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """The metrics and, with `logs`, the connection log by OTLP; off without an endpoint.

    What stands at its default gives way to the `OTEL_*` variables (see `config.otel`).
    """

    endpoint: str | None = None
    protocol: str = "http/protobuf"
    interval_seconds: int = 60
    logs: bool = False
    temporality: str = "cumulative"
    timeout_seconds: int = 10
    compression: str = "none"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    headers_file: Path | None = None
    """Where `headers` came from, if from a file."""
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VirusTotalSettings:
    """Off without a key; `api_key` and `proxy_url` hold the content of their file, if any."""

    api_key: str = field(default="", repr=False)
    api_key_file: Path | None = None
    file_upload: bool = False
    request_limit_seconds: int = 15
    base_url: str = "https://www.virustotal.com/api/v3"
    proxy_url: str | None = field(default=None, repr=False)
    proxy_url_file: Path | None = None
    recheck_days: int = 7
    """0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSettings:
    """Who hears of new executables and of verdicts.

    `webhook_url` holds the content of `webhook_url_file` if there is one.
    """

    desktop: bool = True
    user: str | None = None
    webhook_url: str | None = field(default=None, repr=False)
    webhook_url_file: Path | None = None
    syslog: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """Labels of pods and containers.

    None: auto, and for the others what a pod finds in its environment (see `config.kubernetes`).
    """

    enabled: bool | None = None
    node_name: str | None = None
    api_url: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """Only from flags: the log of the exporter about itself."""

    level: str = "info"
    format: str = "logfmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, in the groups of the configuration file."""

    web: WebSettings = WebSettings()
    storage: StorageSettings = StorageSettings()
    bpf: BpfSettings = BpfSettings()
    identity: IdentitySettings = IdentitySettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    otlp: OtlpSettings = OtlpSettings()
    virustotal: VirusTotalSettings = VirusTotalSettings()
    notifications: NotificationSettings = NotificationSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    logging: LoggingSettings = LoggingSettings()
