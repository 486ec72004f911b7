"""Whether containers have labels in this run, and who tells their names.

Decided once, at the start: labels that appear half way would make new series of all.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from picosnitch_exporter import catalog
from picosnitch_exporter.config import kubernetes
from picosnitch_exporter.identity.containers import containers_of
from picosnitch_exporter.identity.pods import Pods
from picosnitch_exporter.identity.workloads import Cgroups, Containers
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import HOST, Executable, KnownExecutable, Persisted
from picosnitch_exporter.settings import KubernetesSettings
from picosnitch_exporter.state.health import Health

if TYPE_CHECKING:
    from picosnitch_exporter.identity.kubernetes import PodWatch

_log = logging.getLogger(__name__)

CGROUP_MOUNT = Path("/sys/fs/cgroup")
RUNTIMES = tuple(
    Path(path)
    for path in (
        "/var/lib/containerd",
        "/var/lib/containers/storage",
        "/var/lib/docker",
        "/var/lib/kubelet",
        "/var/lib/rancher",
    )
)
"""Where the runtimes keep what they have: they may start later than the exporter."""
_MAX_FOLDERS = 16_384


class Workloads:
    """What the service needs of containers: their names, and whether these are labels."""

    def __init__(
        self,
        settings: KubernetesSettings,
        environment: Mapping[str, str],
        *,
        health: Health,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.with_labels = has_labels(settings, environment)
        self.cgroups = Cgroups()
        access = kubernetes.access(settings, environment) if self.with_labels else None
        pods = Pods() if access is not None else None
        self.containers = Containers(self.cgroups, with_labels=self.with_labels, pods=pods)
        self._watch: PodWatch | None = None
        if access is not None and pods is not None:
            # Only here: most machines are nodes of no cluster.
            from picosnitch_exporter.identity import kubernetes as api

            self._watch = api.PodWatch(
                access,
                pods,
                count=lambda request, result: health.count(
                    catalog.KUBERNETES_REQUESTS, (request, result)
                ),
                failed=failed,
            )
        elif self.with_labels and kubernetes.is_in_pod(environment):
            _log.warning(
                Event(
                    "kubernetes_names_off",
                    {
                        "meaning": "containers go by their ids",
                        "do": "set NODE_NAME by fieldRef spec.nodeName, or kubernetes.node_name",
                    },
                )
            )

    def start(self) -> None:
        """Ask the API server from now on, if there is one."""
        if self._watch is not None:
            self._watch.start()

    def close(self) -> None:
        """Stop asking."""
        if self._watch is not None:
            self._watch.close()

    def adapt(self, persisted: Persisted) -> Persisted:
        """What a run with other labels has left, as far as it fits this one's.

        Without labels of containers, their totals are no longer told apart from the host's and
        end; what is known of an executable is put together.
        """
        if self.with_labels:
            return persisted
        known: dict[Executable, KnownExecutable] = {}
        for one in sorted(persisted.executables, key=lambda one: one.first_seen_seconds):
            first = known.get(one.executable)
            if first is not None:
                latest = max(first.last_seen_seconds, one.last_seen_seconds)
                known[one.executable] = replace(first, last_seen_seconds=latest)
            else:
                known[one.executable] = replace(one, workload=HOST)
        return replace(
            persisted,
            totals=tuple(one for one in persisted.totals if one.labels.workload == HOST),
            executables=tuple(known.values()),
        )


def has_labels(
    settings: KubernetesSettings,
    environment: Mapping[str, str],
    *,
    cgroup_mount: Path = CGROUP_MOUNT,
    runtimes: tuple[Path, ...] = RUNTIMES,
) -> bool:
    """Whether series have the labels of containers."""
    if settings.enabled is not None:
        return settings.enabled
    return (
        kubernetes.is_in_pod(environment)
        or any(_is_there(path) for path in runtimes)
        or any(containers_of(path) for path in _cgroups(cgroup_mount))
    )


def _is_there(path: Path) -> bool:
    """Whether there is such a folder; also where it lies in one that is closed to this process."""
    try:
        return path.is_dir()
    except PermissionError:
        return True


def _cgroups(mount: Path) -> Iterator[bytes]:
    """Paths of the cgroups that exist, with the mount point of a v1 hierarchy before them."""
    waiting = [os.fsencode(mount)]
    for _ in range(_MAX_FOLDERS):
        if not waiting:
            return
        folder = waiting.pop()
        yield folder.removeprefix(os.fsencode(mount))
        try:
            with os.scandir(folder) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # removed meanwhile, or not for everybody
