"""Where the API server is, and as whom it is asked: the settings, and beneath them a pod's own.

Source: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/. The name of the node
is the one thing that a pod is not told by itself; its manifest has to (`NODE_NAME` by fieldRef).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.settings import KubernetesSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesAccess:
    """How to ask for the pods of one node."""

    url: str
    node_name: str
    token_file: Path
    ca_file: Path


def is_in_pod(environment: Mapping[str, str]) -> bool:
    """Whether this runs in a pod."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST"))


def access(
    kubernetes: KubernetesSettings, environment: Mapping[str, str]
) -> KubernetesAccess | None:
    """How to ask; None where server or node are unknown, or it is not wanted."""
    url = kubernetes.api_url or _service_url(environment)
    node_name = kubernetes.node_name or environment.get("NODE_NAME", "")
    if kubernetes.enabled is False or not url or not node_name:
        return None
    return KubernetesAccess(
        url=url.rstrip("/"),
        node_name=node_name,
        token_file=kubernetes.token_file or SERVICE_ACCOUNT / "token",
        ca_file=kubernetes.ca_file or SERVICE_ACCOUNT / "ca.crt",
    )


def _service_url(environment: Mapping[str, str]) -> str:
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
