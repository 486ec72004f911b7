import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.identity.containers import Container
from picosnitch_exporter.identity.pods import Pods
from picosnitch_exporter.model import Workload
from tests.api_server import Json, pod

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "status", "name", "namespace", "containerStatuses", "state"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def find(pods: Pods, container_id: str) -> Workload | None:
    return pods.find(Container(container_id=container_id))


@pytest.mark.parametrize("kind", ["initContainerStatuses", "ephemeralContainerStatuses"])
def test_container_is_known_when_it_is_no_ordinary_one(kind: str) -> None:
    made = pod("cart", {})
    made["status"] = {kind: [{"name": "setup", "containerID": "cri-o://c1"}]}
    pods = Pods()
    pods.learn(made)

    assert find(pods, "c1") == Workload(namespace="shop", pod="cart", container="setup")


def test_container_is_known_when_it_has_ended() -> None:
    made = pod("cart", {})
    status: Json = {
        "name": "web",
        "containerID": "containerd://c3",
        "state": {"terminated": {"containerID": "containerd://c2"}},
        "lastState": {"terminated": {"containerID": "containerd://c1"}},
    }
    made["status"] = {"containerStatuses": [status]}
    pods = Pods()
    pods.learn(made)

    assert all(find(pods, one) for one in ("c1", "c2", "c3"))


def test_pod_is_known_by_its_uid_when_its_container_is_not() -> None:
    pods = Pods()
    pods.learn(pod("cart", {}, uid="u1"))
    container = Container(container_id="c1", pod_uid="u1")

    assert pods.find(container) is None
    assert pods.find_pod(container) == Workload(namespace="shop", pod="cart", container="c1")


def test_static_pod_is_known_by_its_hash_when_the_api_has_its_mirror() -> None:
    pods = Pods()
    pods.learn(pod("etcd", {}, annotations={"kubernetes.io/config.hash": "0d9b"}))
    found = pods.find_pod(Container(container_id="c1", pod_uid="0d9b"))

    assert found == Workload(namespace="shop", pod="etcd", container="c1")


def test_existing_pod_is_kept_when_thousands_come_and_go() -> None:
    pods = Pods(max_pods=10, max_containers=20)
    pods.learn(pod("daemon", {"web": "c"}))
    for number in range(100):
        short = pod(f"job-{number}", {"main": f"j{number}"})
        pods.learn(short)
        pods.learn(short, is_deleted=True)

    assert find(pods, "c") == Workload(namespace="shop", pod="daemon", container="web")
    assert find(pods, "j99")
    assert find(pods, "j0") is None
    assert len(pods) == 10
    assert len(pods._containers) == 20


def test_containers_are_bounded_when_one_crashes_for_ever() -> None:
    pods = Pods(max_pods=10, max_containers=20)
    pods.learn(pod("steady", {"web": "c"}))
    for number in range(100):
        pods.learn(pod("loop", {"main": f"l{number}"}))

    assert find(pods, "c")
    assert find(pods, "l99")
    assert len(pods._containers) == 20
    assert len(pods._in_use) == 2


def test_number_is_bounded_when_all_of_them_exist() -> None:
    pods = Pods(max_pods=10, max_containers=20)
    for number in range(100):
        pods.learn(pod(f"pod-{number}", {"a": f"a{number}", "b": f"b{number}", "c": f"c{number}"}))

    assert len(pods) == 10
    assert len(pods._containers) == 20


@given(JSON)
def test_nothing_breaks_when_a_pod_is_of_any_shape(value: object) -> None:
    Pods().learn(value)
