"""What OTLP calls what it is about, for metrics and logs.

Sources: OpenTelemetry semantic conventions 1.44, registry of attributes (process, network,
container, k8s).
"""

import posixpath
import re
from typing import Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from picosnitch_exporter.catalog import OTLP_ATTRIBUTES, label_value
from picosnitch_exporter.model import Executable, Workload

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE_NAME: Final = "picosnitch_exporter"

EXECUTABLE_PATH: Final = OTLP_ATTRIBUTES["exe"]
EXECUTABLE_NAME: Final = "process.executable.name"
EXECUTABLE_SHA256: Final = OTLP_ATTRIBUTES["sha256"]
TRANSPORT: Final = OTLP_ATTRIBUTES["protocol"]
CONTAINER_ID: Final = "container.id"
_CONTAINER_NAME: Final = "container.name"

_ID: Final = re.compile(r"[0-9a-f]{12,64}")

Attributes = dict[str, str | int]


def instrumentation_scope(version: str) -> InstrumentationScope:
    """Who says all this."""
    return InstrumentationScope(SCOPE_NAME, version, SCHEMA_URL)


def executable_attributes(executable: Executable, workload: Workload) -> Attributes:
    """Those of an executable and, where it runs in a container, of that."""
    path = label_value(executable.exe)
    attributes: Attributes = {
        EXECUTABLE_PATH: path,
        EXECUTABLE_NAME: posixpath.basename(path),
        EXECUTABLE_SHA256: executable.sha256,
    }
    if workload.namespace:
        attributes[OTLP_ATTRIBUTES["namespace"]] = label_value(workload.namespace)
    if workload.pod:
        attributes[OTLP_ATTRIBUTES["pod"]] = label_value(workload.pod)
    if workload.container:
        name = OTLP_ATTRIBUTES["container"]
        if not workload.pod:
            name = container_attribute(workload.container)
        attributes[name] = label_value(workload.container)
    return attributes


def container_attribute(container: str) -> str:
    """Whether what is known of a container is its id or its name."""
    return CONTAINER_ID if _ID.fullmatch(container) else _CONTAINER_NAME
