"""The objects that run the exporter on every node, and let it ask for the node's pods.

Sources: https://kubernetes.io/docs/reference/kubernetes-api/; for the capabilities docs/install.md.
"""

from deploy.manifests.values import Expression, Tree, Value
from picosnitch_exporter import __version__

NAME = "picosnitch-exporter"
NAMESPACE = "picosnitch"
PORT = 10054
GROUP_ID = 10054
"""Of the exporter's account in the image: the projected token is readable by that group."""
CAPABILITIES = (
    "SYS_ADMIN",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "KILL",
    "SETUID",
    "SETGID",
    "SETPCAP",
    "CHOWN",
    "BPF",  # of use only on kernels before 5.19, see docs/install.md
)
_SELECTOR = {"app.kubernetes.io/name": NAME}
_LABELS = {**_SELECTOR, "app.kubernetes.io/component": "exporter"}

IMAGE = Expression(
    text='{{ printf "%s:%s" .Values.image.repository '
    "(.Values.image.tag | default .Chart.AppVersion) | toJson }}",
    default=f"{NAME}:{__version__}",
)
IMAGE_VALUES = (
    Value(path="image.repository", default=NAME, comment="where the image was pushed to"),
    Value(path="image.tag", default="", comment="empty: the chart's appVersion"),
    Value(path="image.pullPolicy", default="IfNotPresent", comment="Always for a tag that moves"),
)
PULL_SECRETS = Value(path="imagePullSecrets", default=[], comment="[{name: SECRET}]")
CONFIG = Value(
    path="config",
    default={"notifications": {"desktop": False}},
    comment="the configuration file, docs/configuration.md; without web.listen_addresses",
    as_text=True,
)
RESOURCES = Value(
    path="resources",
    default={
        "requests": {"cpu": "30m", "memory": "96Mi"},
        "limits": {"memory": "512Mi"},
    },
    comment="measured, see docs/fleet.md; no limit of CPU: a throttled reader of the ring falls\n"
    "behind just when there is much to read",
)
TOLERATIONS = Value(
    path="tolerations",
    default=[{"operator": "Exists"}],
    comment="every node, control plane and drained ones too",
)
NODE_SELECTOR = Value(
    path="nodeSelector", default={"kubernetes.io/os": "linux"}, comment="which nodes"
)
AFFINITY = Value(path="affinity", default={}, comment="as in a pod")
PRIORITY = Value(
    path="priorityClassName",
    default="system-node-critical",
    comment="an exporter that is evicted first is blind when it matters",
)
MAX_UNAVAILABLE = Value(
    path="updateStrategy.maxUnavailable",
    default="10%",
    comment="nodes at once; the kernel side counts on while a pod is replaced",
)
POD_ANNOTATIONS = Value(path="podAnnotations", default={}, comment="of each pod")
# With the configuration's hash, pods are replaced when it changes.
ANNOTATIONS = Expression(
    text='{{ merge (dict "checksum/config" (toJson .Values.config | sha256sum)) '
    ".Values.podAnnotations | toJson }}",
    default={},
)
STORAGE = Value(
    path="storage.hostPath",
    default="/var/lib/picosnitch",
    comment="the connection log and the journal, kept on the node",
)
SELINUX = Value(
    path="seLinuxOptions",
    default={"type": "spc_t"},
    comment="without effect where a node has no SELinux",
)
SECRET = Value(
    path="secretName",
    default=NAME,
    comment="a Secret, mounted at /run/picosnitch-secrets if it exists; name its files in\n"
    "config, as virustotal.api_key_file",
)
INGRESS = Value(
    path="networkPolicy.from",
    default=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    comment="who may scrape",
)
EGRESS = Value(
    path="networkPolicy.egress",
    default=[
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
        {"ports": [{"protocol": "TCP", "port": port} for port in (443, 6443, 4317, 4318)]},
    ],
    comment="names, the API server and VirusTotal, OTLP",
)


def _metadata(**more: Tree) -> dict[str, Tree]:
    return {"name": NAME, "namespace": namespace(), "labels": _LABELS, **more}


def namespace() -> Expression:
    """Where all of it is."""
    return Expression(text="{{ .Release.Namespace }}", default=NAMESPACE)


def namespace_object() -> Tree:
    """Only in the base: Helm makes its own (--create-namespace)."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {
                # hostPID, hostPath and SYS_ADMIN are what the other levels forbid.
                "pod-security.kubernetes.io/enforce": "privileged",
                "pod-security.kubernetes.io/audit": "privileged",
                "pod-security.kubernetes.io/warn": "privileged",
            },
        },
    }


def service_account() -> Tree:
    """Whom the exporter asks the API server as; the token is mounted in the pod only."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(),
        "automountServiceAccountToken": False,
    }


def cluster_role() -> Tree:
    """Pods only, and only to read. It asks for those of its node (fieldSelector spec.nodeName).

    RBAC can't say that: whoever has the token can read all pods, not their secrets.
    """
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NAME, "labels": _LABELS},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    }


def cluster_role_binding() -> Tree:
    """Gives the role to the account."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": NAME, "labels": _LABELS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace()}],
    }


def config_map() -> Tree:
    """The configuration file; JSON is YAML."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(),
        "data": {"config.yaml": CONFIG},
    }


def service() -> Tree:
    """For discovery by endpoints; without an address, since every node's figures are its own."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(),
        "spec": {
            "clusterIP": "None",
            "selector": _SELECTOR,
            "ports": [{"name": "metrics", "port": PORT, "targetPort": "metrics"}],
        },
    }


def network_policy() -> Tree:
    """Who may scrape, and where the exporter may go."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(),
        "spec": {
            "podSelector": {"matchLabels": _SELECTOR},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": INGRESS, "ports": [{"protocol": "TCP", "port": "metrics"}]}],
            "egress": EGRESS,
        },
    }


def daemon_set() -> Tree:
    """One pod on each node."""
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(),
        "spec": {
            "selector": {"matchLabels": _SELECTOR},
            # No surge: two on one node would want the same pins. Nothing is lost meanwhile, as the
            # kernel side counts on for bpf.linger_seconds.
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": MAX_UNAVAILABLE},
            },
            "template": {
                "metadata": {"labels": _LABELS, "annotations": ANNOTATIONS},
                "spec": _pod(),
            },
        },
    }


def _pod() -> Tree:
    return {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": True,
        "imagePullSecrets": PULL_SECRETS,
        # The kernel speaks of the host's processes. Its network is not needed: hooks see every
        # namespace, and a pod's own address is what a NetworkPolicy can protect.
        "hostPID": True,
        "hostNetwork": False,
        "enableServiceLinks": False,
        "priorityClassName": PRIORITY,
        "nodeSelector": NODE_SELECTOR,
        "affinity": AFFINITY,
        "tolerations": TOLERATIONS,
        "terminationGracePeriodSeconds": 15,
        "securityContext": {
            "fsGroup": GROUP_ID,
            "seLinuxOptions": SELINUX,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container()],
        "volumes": [
            {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf", "type": "Directory"}},
            {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup", "type": "Directory"}},
            {"name": "storage", "hostPath": {"path": STORAGE, "type": "DirectoryOrCreate"}},
            {"name": "config", "configMap": {"name": NAME}},
            {
                "name": "secrets",
                "secret": {"secretName": SECRET, "optional": True, "defaultMode": 0o440},
            },
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    }


def _container() -> Tree:
    def probe(path: str, **timing: int) -> Tree:
        return {"httpGet": {"path": path, "port": "metrics"}, "timeoutSeconds": 5, **timing}

    return {
        "name": "exporter",
        "image": IMAGE,
        "imagePullPolicy": IMAGE_VALUES[2],
        "args": ["run", "--config.file=/etc/picosnitch-exporter/config.yaml"],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "ports": [{"name": "metrics", "containerPort": PORT}],
        "startupProbe": probe("/-/ready", periodSeconds=2, failureThreshold=90),
        "livenessProbe": probe("/-/healthy", periodSeconds=20, failureThreshold=3),
        "readinessProbe": probe("/-/ready", periodSeconds=10, failureThreshold=2),
        "resources": RESOURCES,
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            # The default profile forbids /sys/fs/bpf and the executables of others.
            "appArmorProfile": {"type": "Unconfined"},
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
        },
        "volumeMounts": [
            {"name": "bpf", "mountPath": "/sys/fs/bpf"},
            {"name": "cgroup", "mountPath": "/sys/fs/cgroup", "readOnly": True},
            {"name": "storage", "mountPath": "/var/lib/picosnitch"},
            {"name": "config", "mountPath": "/etc/picosnitch-exporter", "readOnly": True},
            {"name": "secrets", "mountPath": "/run/picosnitch-secrets", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - SQLite's, in the pod's memory
        ],
    }
