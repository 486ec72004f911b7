r"""From the path of a cgroup to the container in it. Pure.

Names as the runtimes give them (systemd and cgroupfs drivers, cgroup v1, v2 and hybrid)::

    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope
    /kubepods/besteffort/podUID/ID
    /system.slice/containerd.service/kubepods-podUID.slice:cri-containerd:ID
    /system.slice/docker-ID.scope, /docker/ID, /ecs/TASK/ID
    /machine.slice/libpod-ID.scope/container, /system.slice/UNIT.service/libpod-payload-ID
    /user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container
    /machine.slice/systemd-nspawn@NAME.service/payload, /machine.slice/machine-NAME.scope
    /lxc.payload.NAME, /lxc.payload/NAME, /lxc/NAME

The outermost container counts: what a container makes within its own cgroup is named by itself, and
could bear the name of another one. Sources: opencontainers/runc libcontainer/cgroups; Kubernetes
pkg/kubelet/cm/cgroup_manager_linux.go; containers/podman libpod/util_linux.go; systemd-nspawn(1);
lxc.container.conf(5).
"""

import os
import re
from dataclasses import dataclass
from enum import StrEnum

MAX_PATH_BYTES = 4096
MAX_NESTED = 4
"""Containers within containers that are told apart."""


class Runtime(StrEnum):
    """Who has made a container, as far as its cgroup tells."""

    CONTAINERD = "containerd"
    CRI_O = "cri-o"
    DOCKER = "docker"
    PODMAN = "podman"
    NSPAWN = "nspawn"
    LXC = "lxc"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container, or with an empty `container_id` something of a pod outside its containers."""

    container_id: str
    """64 hexadecimal digits; for nspawn and LXC the name."""
    runtime: Runtime = Runtime.UNKNOWN
    pod_uid: str = ""
    """With dashes, as the API has it; static pods have none."""
    is_delegated: bool = False
    """Below a user's own manager, who could have named it anything."""


_RUNTIMES = {
    "docker": Runtime.DOCKER,
    "cri-containerd": Runtime.CONTAINERD,
    "containerd": Runtime.CONTAINERD,
    "nerdctl": Runtime.CONTAINERD,
    "crio": Runtime.CRI_O,
    "libpod": Runtime.PODMAN,
    "libpod-payload": Runtime.PODMAN,
}
# What watches over a container is named like it, and is no part of it.
_WATCHERS = ("crio-conmon-", "libpod-conmon-", "lxc.monitor")
_HEX_NAME = re.compile(
    r"(?:(?P<prefix>[a-z][a-z0-9_-]{0,40})-)?(?P<id>[0-9a-f]{64})(?:\.scope|\.service)?"
)
# containerd with the systemd driver asked for and the cgroupfs one in use.
_COLON_NAME = re.compile(r"[^:]*:(?P<prefix>[a-z][a-z-]{0,40}):(?P<id>[0-9a-f]{64})")
_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_POD_SLICE = re.compile(rf"(?:.*-)?kubepods(?:-burstable|-besteffort)?-pod({_UID})\.slice(?::.*)?")
_POD_FOLDER = re.compile(rf"pod({_UID})")
_USER_MANAGER = re.compile(r"user@[0-9]+\.service")
_NSPAWN_SERVICE = re.compile(r"systemd-nspawn@(.+)\.service")
_MACHINE_SCOPE = re.compile(r"machine-(.+)\.scope")
_LIBVIRT_LXC = re.compile(r"lxc-[0-9]+-(.+)")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def containers_of(path: bytes) -> tuple[Container, ...]:
    """The containers that a cgroup is in, the outermost first; none on the host."""
    found: list[Container] = []
    pod_uid = parent = ""
    is_delegated = is_kubernetes = False
    names = _names(path)
    for index, name in enumerate(names):
        is_delegated = is_delegated or _USER_MANAGER.fullmatch(name) is not None
        is_kubernetes = is_kubernetes or "kubepods" in name
        if is_kubernetes:
            pod_uid = _pod_uid(name) or pod_uid
        named = _oci(name, parent) or _by_name(name, parent, is_inner=index > 1)
        is_watcher = name.startswith(_WATCHERS) or names[index + 1 : index + 2] == ["supervisor"]
        if is_watcher and (named or name.startswith("lxc.")):
            break
        if named is not None:
            container_id, runtime = named
            found.append(
                Container(
                    container_id=container_id,
                    runtime=runtime,
                    pod_uid=pod_uid,
                    is_delegated=is_delegated,
                )
            )
            if len(found) == MAX_NESTED:
                break
            pod_uid, is_kubernetes = "", False
        parent = name
    if pod_uid and len(found) < MAX_NESTED:
        found.append(Container(container_id="", pod_uid=pod_uid, is_delegated=is_delegated))
    return tuple(found)


def _names(path: bytes) -> list[str]:
    """The parts of a path; as seen from another cgroup namespace it may begin with `..`."""
    parts = os.fsdecode(path[:MAX_PATH_BYTES]).split("/")
    return [part for part in parts if part not in {"", ".", ".."}]


def _pod_uid(name: str) -> str:
    match = _POD_SLICE.fullmatch(name) or _POD_FOLDER.fullmatch(name)
    return match[1].replace("_", "-") if match else ""


def _oci(name: str, parent: str) -> tuple[str, Runtime] | None:
    """A container with an id of 64 digits, whoever has made it."""
    match = _HEX_NAME.fullmatch(name) or _COLON_NAME.fullmatch(name)
    if match is None:
        return None
    prefix = match["prefix"] or parent
    return match["id"], _RUNTIMES.get(prefix, Runtime.UNKNOWN)


def _by_name(name: str, parent: str, *, is_inner: bool) -> tuple[str, Runtime] | None:
    """A container of nspawn or LXC, which go by their names."""
    service = _NSPAWN_SERVICE.fullmatch(name)
    if service is not None:
        return _unescape(service[1]), Runtime.NSPAWN
    machine = _MACHINE_SCOPE.fullmatch(name)
    if machine is not None and parent == "machine.slice":
        return _machine(_unescape(machine[1]))
    if name.startswith("lxc.payload."):
        return name.removeprefix("lxc.payload."), Runtime.LXC
    if parent in {"lxc", "lxc.payload"} and not is_inner:
        return name, Runtime.LXC
    return None


def _machine(name: str) -> tuple[str, Runtime] | None:
    """What systemd-machined calls a machine; virtual ones are processes of the host."""
    if name.startswith("qemu-"):
        return None
    libvirt = _LIBVIRT_LXC.fullmatch(name)
    return (libvirt[1], Runtime.LXC) if libvirt else (name, Runtime.NSPAWN)


def _unescape(name: str) -> str:
    """Undoes the escapes of systemd's unit names, each of which is a byte."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(name)))
