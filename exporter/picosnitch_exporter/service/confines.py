"""What the exporter process confines itself to, before it reads anything that others wrote."""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from picosnitch_exporter import catalog, confinement
from picosnitch_exporter.config import kubernetes
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.state.health import Health

_log = logging.getLogger(__name__)

_SYSTEM = tuple(
    Path(path)
    for path in (
        *("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/nix/store"),  # libraries
        *("/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager"),  # name servers
        *("/proc", "/sys/fs/cgroup", "/sys/devices/system", "/dev/urandom", "/dev/null"),
        "/var/lib/ca-certificates",
        "/var/lib/dbus/machine-id",
    )
)
_DRIVER_VARIABLES = ("OTEL_", "PG", "SSL_CERT_", "GRPC_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Beginnings of the variables by which libraries are told of files."""

_POSTGRESQL = ("psycopg", "psycopg2")


def apply(settings: Settings, environment: Mapping[str, str]) -> Mapping[str, bool]:
    """Confines this process and all of its threads to come; what is in force, by mechanism.

    Says in the log what is not, and why.

    Raises
    ------
    ConfigurationError
        if the web configuration can't be used: it says which files are read later.
    """
    storage = settings.storage.path
    server = settings.log.server
    if server is not None and server.client in _POSTGRESQL:
        # Without its own libpq it starts ldconfig to find the system's: nothing can be started
        # later. What is missing is said where it is used.
        with contextlib.suppress(ImportError):
            importlib.import_module("psycopg")
    reachable = tuple(_readable(settings, environment))
    in_force = {"landlock": False, "seccomp": False}
    try:
        confinement.restrict_files(readable=reachable, writable=(storage,))
        in_force["landlock"] = True
    except confinement.UnconfinedError as error:
        _log.warning(Event("unconfined", {"mechanism": "landlock", "reason": str(error)}))
    try:
        unknown = confinement.refuse_calls(confinement.EXPORTER)
        in_force["seccomp"] = True
        _log.debug(Event("calls_not_refused", {"unknown": ",".join(sorted(unknown))}))
    except confinement.UnconfinedError as error:
        _log.warning(Event("unconfined", {"mechanism": "seccomp", "reason": str(error)}))
    return in_force


def report(health: Health, in_force: Mapping[str, bool]) -> None:
    """What is in force, as a metric; of the sensor what the kernel says of this one's parent.

    Nothing where that can't be seen, as under systemd's ProtectProc=.
    """
    for mechanism, is_in_force in in_force.items():
        health.set(catalog.CONFINED, ("exporter", mechanism), int(is_in_force))
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{os.getppid()}/status").read_text("utf-8", errors="replace")
        health.set(catalog.CONFINED, ("sensor", "seccomp"), int("\nSeccomp:\t2\n" in status))


def _readable(settings: Settings, environment: Mapping[str, str]) -> Iterator[Path]:
    yield from _SYSTEM
    for place in (sys.prefix, sys.base_prefix, *sys.path):
        if place and Path(place).is_absolute():
            yield Path(place)
    for path in _named_files(settings, environment):
        yield path
        # A file is replaced by another one of its folder, and may be a link to elsewhere.
        for name in {path, path.resolve()}:
            if name.parent != Path("/"):
                yield name.parent


def _named_files(settings: Settings, environment: Mapping[str, str]) -> Iterator[Path]:
    otlp = settings.otlp
    named: list[Path | None] = [otlp.certificate, otlp.client_certificate, otlp.client_key]
    if settings.web.config_file is not None:
        from picosnitch_exporter.outputs.web_config import files_in_use

        named += files_in_use(settings.web.config_file)
    if settings.log.server is not None:
        texts = [value for _key, value in settings.log.server.parameters if isinstance(value, str)]
        named += [Path(text) for text in texts if text.startswith("/")]
    access = kubernetes.access(settings.kubernetes, environment)
    if access is not None:
        named += [access.token_file, access.ca_file]
    for variable, value in environment.items():
        if variable.startswith(_DRIVER_VARIABLES) and value.startswith("/"):
            named.append(Path(value))
    for path in named:
        if path is not None:
            yield path.absolute()
