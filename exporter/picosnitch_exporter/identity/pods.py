"""The pods of this node, as the API server describes them: names by container and by pod.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from picosnitch_exporter.identity.containers import Container
from picosnitch_exporter.model import Workload

MAX_PODS = 4096
"""A kubelet runs 110 by default, 500 where it was raised."""
MAX_CONTAINERS = 16_384
"""Of all pods, ended ones included: 5 MB."""
_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_NAME_CHARACTERS = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pod:
    namespace: str
    name: str


class Pods:
    """One thread writes, any may read: what is read is replaced, never changed.

    Pods that were deleted are remembered for as long as there is room, since the last records of
    their processes come later.
    """

    def __init__(self, *, max_pods: int = MAX_PODS, max_containers: int = MAX_CONTAINERS) -> None:
        self._max_pods = max_pods
        self._max_containers = max_containers
        # What was seen last comes last. Single reads and writes of a dict are atomic.
        self._pods: OrderedDict[str, _Pod] = OrderedDict()
        self._containers: OrderedDict[str, Workload] = OrderedDict()
        self._existing: dict[str, frozenset[str]] = {}
        self._in_use: set[str] = set()
        self.is_current = True
        """Whether what is unknown may become known soon."""

    def __len__(self) -> int:
        return len(self._pods)

    def find(self, container: Container, /) -> Workload | None:
        """Namespace, pod and name of a container."""
        return self._containers.get(container.container_id)

    def find_pod(self, container: Container, /) -> Workload | None:
        """Namespace and pod; the container goes by its id."""
        pod = self._pods.get(container.pod_uid)
        if pod is None:
            return None
        return Workload(namespace=pod.namespace, pod=pod.name, container=container.container_id)

    def learn(self, pod: object, *, is_deleted: bool = False) -> None:
        """Takes in a pod, as decoded JSON; what is not of the right shape is left out."""
        metadata = mapping(mapping(pod).get("metadata"))
        namespace, name = _text(metadata.get("namespace")), _text(metadata.get("name"))
        if not namespace or not name:
            return
        uids = tuple(_uids(metadata))
        for uid in uids:
            self._pods[uid] = _Pod(namespace=namespace, name=name)
            self._pods.move_to_end(uid)
        found = dict(_containers(mapping(mapping(pod).get("status"))))
        for container_id, container in found.items():
            workload = Workload(namespace=namespace, pod=name, container=container)
            self._containers[container_id] = workload
            self._containers.move_to_end(container_id)
        self._note(uids, frozenset(found), is_deleted=is_deleted)
        self._make_room()

    def _note(self, uids: tuple[str, ...], containers: frozenset[str], *, is_deleted: bool) -> None:
        """What exists now and must not be forgotten, as nobody will tell of it again."""
        for uid in uids:
            self._in_use -= self._existing.pop(uid, frozenset())
            if not is_deleted and len(self._existing) < self._max_pods:
                self._existing[uid] = containers
        if not is_deleted:
            self._in_use |= containers

    def _make_room(self) -> None:
        for _ in range(len(self._pods)):
            if len(self._pods) <= self._max_pods:
                break
            uid, pod = self._pods.popitem(last=False)
            if uid in self._existing:
                self._pods[uid] = pod
        for _ in range(len(self._containers)):
            if len(self._containers) <= self._max_containers:
                break
            container_id, workload = self._containers.popitem(last=False)
            if container_id in self._in_use:
                self._containers[container_id] = workload
        while len(self._containers) > self._max_containers:
            self._containers.popitem(last=False)


def _uids(metadata: Mapping[str, object]) -> Iterator[str]:
    """How the cgroup may call the pod: static pods go by the hash of their manifest there."""
    annotations = mapping(metadata.get("annotations"))
    for uid in (metadata.get("uid"), annotations.get("kubernetes.io/config.hash")):
        if text := _text(uid):
            yield text


def _containers(status: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Ids and names of all that run or ran last."""
    for kind in _STATUSES:
        entries = status.get(kind)
        for entry in entries if isinstance(entries, list) else ():
            found = mapping(entry)
            name = _text(found.get("name"))
            ids = [found.get("containerID")]
            for state in ("state", "lastState"):
                terminated = mapping(mapping(found.get(state)).get("terminated"))
                ids.append(terminated.get("containerID"))
            for container_id in ids:
                # runtime://id
                text = _text(container_id).rpartition("//")[2]
                if name and text:
                    yield text, name


def mapping(value: object) -> Mapping[str, object]:
    """What decoded JSON has as an object, empty where it is none."""
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value[:_NAME_CHARACTERS] if isinstance(value, str) else ""
