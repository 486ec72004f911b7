from dataclasses import dataclass, field

import pytest

from picosnitch_exporter.identity.containers import Container
from picosnitch_exporter.identity.processes import Process, ProcessTable
from picosnitch_exporter.identity.workloads import Cgroups, Containers
from picosnitch_exporter.model import HOST, Workload
from picosnitch_exporter.stream import CgroupPath
from tests.identity_samples import SECOND_NS, FakeClock, key, process

ID = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376"
NODE_ID = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
UID = "74c13223-5a00-11e9-b385-42010a80018d"
POD_PATH = f"/kubepods/burstable/pod{UID}/{ID}"
WEB = Workload(namespace="shop", pod="cart", container="web")
POD = Workload(namespace="shop", pod="cart", container=ID)


@dataclass
class FakePods:
    is_current: bool = True
    containers: dict[str, Workload] = field(default_factory=dict)
    pods: dict[str, Workload] = field(default_factory=dict)

    def find(self, container: Container, /) -> Workload | None:
        return self.containers.get(container.container_id)

    def find_pod(self, container: Container, /) -> Workload | None:
        return self.pods.get(container.pod_uid)


class Bench:
    def __init__(self, *, with_labels: bool = True) -> None:
        self.clock = FakeClock()
        self.pods = FakePods()
        self.cgroups = Cgroups()
        self.plain = Containers(self.cgroups, with_labels=with_labels, clock=self.clock)
        self.named = Containers(
            self.cgroups, with_labels=with_labels, pods=self.pods, clock=self.clock
        )
        self._processes = ProcessTable(is_running=lambda _tgid: True)
        self._next = 100

    def process(self, path: str, *, version: int = 2) -> Process:
        """One in a cgroup of its own."""
        self._next += 1
        number = self._next
        hierarchy = 0 if version == 2 else 8
        self.cgroups.learn(CgroupPath(hierarchy=hierarchy, cgroup_id=number, path=path.encode()))
        record = process(key(number))
        record.cgroup_id = number if version == 2 else 1
        record.cgroup1_id = 0 if version == 2 else number
        return self._processes.add(record, now_ns=self.clock())


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("version", [1, 2])
def test_container_goes_by_its_id_when_there_is_no_api(bench: Bench, version: int) -> None:
    made = bench.process(f"/docker/{ID}", version=version)

    assert bench.plain.workload_of(made) == (Workload(container=ID), ID)
    assert not bench.plain.is_pending(made)


def test_host_is_the_host_when_there_are_containers(bench: Bench) -> None:
    assert bench.named.workload_of(bench.process("/system.slice/ssh.service")) == (HOST, "")


def test_host_is_assumed_when_a_cgroup_was_never_told(bench: Bench) -> None:
    made = bench.process(f"/docker/{ID}")
    made.cgroup_id = 7

    assert bench.plain.workload_of(made) == (HOST, "")


def test_log_has_the_id_when_there_are_no_labels() -> None:
    bench = Bench(with_labels=False)

    assert bench.plain.workload_of(bench.process(f"/docker/{ID}")) == (HOST, ID)


def test_container_has_its_names_when_the_api_knows_it(bench: Bench) -> None:
    bench.pods.containers[ID] = WEB
    made = bench.process(POD_PATH)

    assert not bench.named.is_pending(made)
    assert bench.named.workload_of(made) == (WEB, ID)


def test_names_are_awaited_when_a_container_is_new(bench: Bench) -> None:
    made = bench.process(POD_PATH)
    assert bench.named.is_pending(made)
    bench.clock.advance(2.9)
    assert bench.named.is_pending(made)
    bench.pods.containers[ID] = WEB

    assert not bench.named.is_pending(made)
    assert bench.named.workload_of(made) == (WEB, ID)


def test_process_keeps_the_id_when_names_come_too_late(bench: Bench) -> None:
    bench.pods.pods[UID] = POD
    early = bench.process(POD_PATH)
    assert bench.named.is_pending(early)
    bench.clock.advance(3.0)
    assert not bench.named.is_pending(early)
    assert bench.named.workload_of(early) == (POD, ID)
    bench.pods.containers[ID] = WEB

    assert bench.named.workload_of(early) == (POD, ID)
    assert bench.named.workload_of(bench.process(POD_PATH)) == (WEB, ID)


def test_next_process_does_not_wait_again_when_names_did_not_come(bench: Bench) -> None:
    assert bench.named.is_pending(bench.process(POD_PATH))
    bench.clock.advance(3.0)

    assert not bench.named.is_pending(bench.process(POD_PATH))


def test_nothing_is_awaited_when_the_api_is_away(bench: Bench) -> None:
    bench.pods.is_current = False
    made = bench.process(POD_PATH)

    assert not bench.named.is_pending(made)
    assert bench.named.workload_of(made) == (Workload(container=ID), ID)


@pytest.mark.parametrize(
    "path", [f"/docker/{ID}", f"/user.slice/user-1000.slice/user@1000.service{POD_PATH}"]
)
def test_api_is_not_asked_when_kubernetes_did_not_make_the_container(
    bench: Bench, path: str
) -> None:
    bench.pods.containers[ID] = WEB
    made = bench.process(path)

    assert not bench.named.is_pending(made)
    assert bench.named.workload_of(made) == (Workload(container=ID), ID)


def test_inner_container_is_named_when_the_cluster_runs_in_one(bench: Bench) -> None:
    bench.pods.containers[ID] = WEB
    path = f"/docker/{NODE_ID}/kubelet{POD_PATH}"

    assert bench.named.workload_of(bench.process(path)) == (WEB, ID)
    assert bench.plain.workload_of(bench.process(path)) == (Workload(container=NODE_ID), NODE_ID)


def test_container_can_not_pose_as_another_when_it_makes_cgroups(bench: Bench) -> None:
    evil = Workload(namespace="evil", pod="evil", container="evil")
    bench.pods.containers |= {ID: WEB, NODE_ID: evil}
    path = f"/kubepods/pod{UID}/{NODE_ID}{POD_PATH}"

    assert bench.named.workload_of(bench.process(path)) == (evil, NODE_ID)


def test_cgroups_are_bounded_when_there_are_very_many() -> None:
    cgroups = Cgroups(max_cgroups=10)
    for number in range(100):
        cgroups.learn(CgroupPath(hierarchy=0, cgroup_id=number, path=f"/docker/{ID}".encode()))
    made = ProcessTable(is_running=lambda _tgid: True).add(process(), now_ns=SECOND_NS)
    made.cgroup_id = 99

    assert cgroups.containers_of(made)
    assert len(cgroups._containers) == 10
