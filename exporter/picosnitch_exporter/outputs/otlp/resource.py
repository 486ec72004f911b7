"""Who sends: this exporter, on this host.

The exporter's own pod and container are no part of it unless OTEL_RESOURCE_ATTRIBUTES says so: many
backends flatten resource and points into one, and traffic of the host would seem to be the pod's.
Sources: semantic conventions, resource (service, host, os, k8s); sd-id128(3).
"""

import platform
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.version import __version__ as sdk_version

from picosnitch_exporter.outputs.otlp.attributes import SCHEMA_URL

SERVICE_NAME: Final = "picosnitch-exporter"
_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "i686": "x86",
    "aarch64": "arm64",
    "armv7l": "arm32",
    "ppc64le": "ppc64",
}
# The namespace that the conventions name for a service.instance.id made from a machine's id.
_INSTANCES: Final = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
_FROM_ENVIRONMENT: Final = {
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.cluster.name": ("K8S_CLUSTER_NAME", "CLUSTER_NAME"),
}


def detect(
    environment: Mapping[str, str],
    *,
    version: str,
    instance: str,
    machine_ids: tuple[Path, ...] = _MACHINE_IDS,
) -> Resource:
    """The resource; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win over what is found.

    `instance` tells exporters on one host apart; with the host it makes `service.instance.id`,
    which stays over restarts, as the counters do.
    """
    host_name = socket.gethostname()
    host_id = _machine_id(machine_ids)
    attributes = {
        "service.name": SERVICE_NAME,
        "service.version": version,
        "service.instance.id": str(uuid.uuid5(_INSTANCES, f"{host_id or host_name}{instance}")),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
        "host.name": host_name,
        "host.arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os.type": "linux",
        "os.version": platform.release(),
    }
    if host_id:
        attributes["host.id"] = host_id
    for name, variables in _FROM_ENVIRONMENT.items():
        values = [environment[variable] for variable in variables if environment.get(variable)]
        if values:
            attributes[name] = values[0]
    return Resource(attributes, SCHEMA_URL).merge(OTELResourceDetector().detect())


def _machine_id(paths: tuple[Path, ...]) -> str:
    for path in paths:
        try:
            found = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        # systemd writes "uninitialized" on the first boot of an image.
        if found and found != "uninitialized":
            return found
    return ""
