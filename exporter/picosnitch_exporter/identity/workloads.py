"""Which container or pod a process runs in."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from picosnitch_exporter.identity.containers import Container, containers_of
from picosnitch_exporter.identity.processes import Process
from picosnitch_exporter.model import HOST, Workload
from picosnitch_exporter.stream import CgroupPath

MAX_CGROUPS = 65_536
"""Cgroups with processes that use the network: 15 MB if there were so many."""
GRACE_NS = 3_000_000_000
"""How long the API may take to tell of a new container: the kubelet looks once a second."""
_MAX_AWAITED = 4096
_ON_HOST = (HOST, "")


class PodNames(Protocol):
    """What the API knows; any thread may ask."""

    @property
    def is_current(self) -> bool:
        """Whether what is unknown may become known soon: the API answers, or was not asked yet."""

    def find(self, container: Container, /) -> Workload | None:
        """The names of a container."""

    def find_pod(self, container: Container, /) -> Workload | None:
        """The names of its pod alone."""


class Cgroups:
    """What the sensor has told of cgroups, by number. Bounded: the longest unused goes."""

    def __init__(self, *, max_cgroups: int = MAX_CGROUPS) -> None:
        self._max_cgroups = max_cgroups
        self._containers: OrderedDict[tuple[bool, int], tuple[Container, ...]] = OrderedDict()

    def learn(self, frame: CgroupPath) -> None:
        """Takes in a path."""
        key = (frame.hierarchy != 0, frame.cgroup_id)
        self._containers[key] = containers_of(frame.path)
        self._containers.move_to_end(key)
        if len(self._containers) > self._max_cgroups:
            self._containers.popitem(last=False)

    def containers_of(self, process: Process) -> tuple[Container, ...]:
        """The containers that a process is in, the outermost first; none on the host.

        With v1 hierarchies in use, a container may have no cgroup in v2.
        """
        return self._find((False, process.cgroup_id)) or self._find((True, process.cgroup1_id))

    def _find(self, key: tuple[bool, int]) -> tuple[Container, ...]:
        containers = self._containers.get(key)
        if containers is None:
            return ()
        self._containers.move_to_end(key)
        return containers


class Containers:
    """Names processes by their cgroups and, with `pods`, by what the API knows of them.

    What a process was called first it is called for good, so that its series never change their
    labels. `with_labels` False: containers stand in the log only. `clock` is monotonic, in
    nanoseconds.
    """

    def __init__(
        self,
        cgroups: Cgroups,
        *,
        with_labels: bool,
        pods: PodNames | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        grace_ns: int = GRACE_NS,
    ) -> None:
        self._cgroups = cgroups
        self._with_labels = with_labels
        self._pods = pods
        self._clock = clock
        self._grace_ns = grace_ns
        self._deadlines: OrderedDict[Container, int] = OrderedDict()

    def workload_of(self, process: Process, /) -> tuple[Workload, str]:
        """The workload and the container's id; empty on the host."""
        named = process.workload
        if named is None:
            named = process.workload = self._name(self._cgroups.containers_of(process))
        return named

    def is_pending(self, process: Process, /) -> bool:
        """Whether the names of its container are still to come."""
        pods = self._pods
        if pods is None or not pods.is_current or process.workload is not None:
            return False
        unnamed = [one for one in self._cgroups.containers_of(process) if _is_of_api(one)]
        if not unnamed or any(pods.find(one) for one in unnamed):
            return False
        now_ns = self._clock()
        deadline_ns = self._deadlines.setdefault(unnamed[0], now_ns + self._grace_ns)
        if len(self._deadlines) > _MAX_AWAITED:
            self._deadlines.popitem(last=False)
        return now_ns < deadline_ns

    def _name(self, containers: tuple[Container, ...]) -> tuple[Workload, str]:
        if not containers:
            return _ON_HOST
        chosen = containers[0]
        workload = Workload(container=chosen.container_id)
        if self._pods is not None:
            chosen, workload = self._ask(self._pods, containers) or (chosen, workload)
        return workload if self._with_labels else HOST, chosen.container_id

    def _ask(
        self, pods: PodNames, containers: tuple[Container, ...]
    ) -> tuple[Container, Workload] | None:
        """The outermost that the API knows: a cluster may itself run in a container (kind)."""
        for container in filter(_is_of_api, containers):
            workload = pods.find(container) or pods.find_pod(container)
            if workload is not None:
                return container, workload
        return None


def _is_of_api(container: Container) -> bool:
    return bool(container.pod_uid) and not container.is_delegated
