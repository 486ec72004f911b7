"""Paths as they were seen on real hosts; sources beside each group."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.identity.containers import (
    MAX_NESTED,
    Container,
    Runtime,
    containers_of,
)

ID = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376"
OTHER_ID = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
UID = "74c13223-5a00-11e9-b385-42010a80018d"
UID_ = UID.replace("-", "_")
STATIC_UID = "0d9b6f0a3f8e4b0a9d2c1e5f7a6b8c9d"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice"
KUBELET_POD = f"kubelet-kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope"
USER = "/user.slice/user-1000.slice/user@1000.service"

KUBERNETES = [
    # containerd and CRI-O with the systemd driver
    (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope", "containerd"),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", "containerd"),
    (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/crio-{ID}.scope", "cri-o"),
    (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/crio-{ID}.scope/container", "cri-o"),
    (f"{BURSTABLE}/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope", "docker"),
    # with the cgroupfs driver
    (f"/kubepods/besteffort/pod{UID}/{ID}", ""),
    (f"/kubepods/pod{UID}/{ID}", ""),
    (f"/kubepods/burstable/pod{UID}/crio-{ID}", "cri-o"),
    # containerd told of another driver than the kubelet's
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
        "containerd",
    ),
    # kubelet --cgroup-root, kind within its own container
    (
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/{KUBELET_POD}",
        "containerd",
    ),
    # seen from another cgroup namespace
    (f"/../../kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", "containerd"),
    # a container with systemd in it
    (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/system.slice/cron.service",
        "cri-o",
    ),
]

PLAIN = [
    (f"/docker/{ID}", ID, "docker"),
    (f"/system.slice/docker-{ID}.scope", ID, "docker"),
    (f"/system.slice/docker-{ID}.scope/init.scope", ID, "docker"),
    (f"/my-parent/{ID}", ID, ""),
    (f"/ecs/0e9fb5a8-8b1c-4fa5-b1a4-ab1b4e1a1f5a/{ID}", ID, ""),
    (f"/actions_job/{ID}", ID, ""),
    (f"/system.slice/nerdctl-{ID}.scope", ID, "containerd"),
    (f"/default/{ID}", ID, ""),
    # podman: rootful, cgroupfs driver, in a pod, under systemd (--cgroups=split)
    (f"/machine.slice/libpod-{ID}.scope", ID, "podman"),
    (f"/machine.slice/libpod-{ID}.scope/container", ID, "podman"),
    (f"/libpod_parent/libpod-{ID}", ID, "podman"),
    (f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope", ID, "podman"),
    (f"/system.slice/web.service/libpod-payload-{ID}", ID, "podman"),
    # systemd-nspawn and systemd-machined
    ("/machine.slice/systemd-nspawn@web.service/payload", "web", "nspawn"),
    ("/machine.slice/systemd-nspawn@my\\x2dweb.service/payload/init.scope", "my-web", "nspawn"),
    ("/machine.slice/machine-debian\\x2d12.scope/payload", "debian-12", "nspawn"),
    ("/machine.slice/machine-lxc\\x2d4\\x2dweb.scope", "web", "lxc"),
    ("/machine.slice/machine-b\\xc3\\xbccher.scope", "bücher", "nspawn"),
    # LXC, Incus, Proxmox
    ("/lxc/101/ns/system.slice/ssh.service", "101", "lxc"),
    ("/lxc.payload.web/init.scope", "web", "lxc"),
    ("/lxc.payload/web", "web", "lxc"),
]

HOST = [
    "",
    "/",
    "/init.scope",
    "/system.slice/ssh.service",
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    "/user.slice/user-1000.slice/session-2.scope",
    f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-f22f14d2.scope",
    f"{USER}/user.slice/podman-239302.scope",
    "/kubepods.slice",
    "/kubepods.slice/kubepods-burstable.slice",
    # what watches over a container is none
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"/system.slice/crio-conmon-{ID}.scope",
    f"{BURSTABLE}/crio-conmon-{ID}.scope",
    f"{USER}/user.slice/libpod-conmon-{ID}.scope",
    "/machine.slice/systemd-nspawn@web.service/supervisor",
    "/lxc.monitor.web",
    "/lxc.monitor/web",
    # virtual machines are processes of the host
    "/machine.slice/machine-qemu\\x2d1\\x2dwindows.scope/libvirt/emulator",
    # almost
    f"/docker/{ID[:-1]}",
    f"/docker/{ID}0",
    f"/docker/{ID.upper()}",
    "/home/lxc/101",
    "/machine-web.scope",
]


@pytest.mark.parametrize(("path", "runtime"), KUBERNETES)
def test_container_has_its_pod_when_kubernetes_runs_it(path: str, runtime: str) -> None:
    expected = Container(container_id=ID, runtime=Runtime(runtime), pod_uid=UID)

    assert containers_of(path.encode()) == (expected,)


@pytest.mark.parametrize(("path", "container_id", "runtime"), PLAIN)
def test_container_is_found_when_a_runtime_runs_it(
    path: str, container_id: str, runtime: str
) -> None:
    expected = Container(container_id=container_id, runtime=Runtime(runtime))

    assert containers_of(path.encode()) == (expected,)


@pytest.mark.parametrize("path", HOST)
def test_no_container_is_found_when_a_process_is_the_hosts(path: str) -> None:
    assert containers_of(path.encode()) == ()


@pytest.mark.parametrize(
    "path",
    [f"/kubepods/burstable/pod{STATIC_UID}/{ID}", f"/kubepods/pod{STATIC_UID}/{ID}"],
)
def test_pod_goes_by_its_hash_when_it_is_static(path: str) -> None:
    assert [one.pod_uid for one in containers_of(path.encode())] == [STATIC_UID]


@pytest.mark.parametrize(
    "path",
    [
        f"{USER}/user.slice/libpod-{ID}.scope/container",
        f"{USER}/app.slice/docker-{ID}.scope",
        f"{USER}/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
    ],
)
def test_container_is_delegated_when_it_is_a_users(path: str) -> None:
    (found,) = containers_of(path.encode())

    assert (found.container_id, found.is_delegated) == (ID, True)


def test_outermost_comes_first_when_containers_are_nested() -> None:
    path = f"/docker/{OTHER_ID}/kubelet/kubepods/burstable/pod{UID}/{ID}"

    assert containers_of(path.encode()) == (
        Container(container_id=OTHER_ID, runtime=Runtime.DOCKER),
        Container(container_id=ID, pod_uid=UID),
    )


def test_name_of_another_does_not_help_when_a_container_makes_a_cgroup_of_its_own() -> None:
    path = f"/kubepods/pod{UID}/{ID}/kubepods/pod{STATIC_UID}/{OTHER_ID}"

    assert containers_of(path.encode())[0].container_id == ID


def test_pod_is_known_when_something_runs_beside_its_containers() -> None:
    path = f"/kubepods/pod{UID}/kata_overhead"

    assert containers_of(path.encode()) == (Container(container_id="", pod_uid=UID),)


def test_nesting_is_bounded_when_names_are_hostile() -> None:
    assert len(containers_of(f"/docker/{ID}".encode() * 60)) == MAX_NESTED


@given(st.binary(max_size=5000))
def test_anything_is_read_when_names_are_hostile(path: bytes) -> None:
    for found in containers_of(path):
        assert len(os.fsencode(found.container_id)) <= 4096


@given(st.text("ab0-_.:@/\\x" + ID, max_size=300))
def test_ids_have_no_slash_when_names_are_hostile(path: str) -> None:
    for found in containers_of(path.encode()):
        assert "/" not in found.container_id
