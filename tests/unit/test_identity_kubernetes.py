import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.config.kubernetes import KubernetesAccess
from picosnitch_exporter.identity.containers import Container
from picosnitch_exporter.identity.kubernetes import PodWatch
from picosnitch_exporter.identity.pods import Pods
from picosnitch_exporter.model import Workload
from tests.api_server import ApiServer, pod

DEADLINE_SECONDS = 10.0


class Watched:
    def __init__(self, url: str, folder: Path) -> None:
        self.pods = Pods()
        self.results: Counter[tuple[str, str]] = Counter()
        self.failures: list[BaseException] = []
        self.token_file = folder / "token"
        self.token_file.write_text("first\n")
        self.watch = PodWatch(
            KubernetesAccess(
                url=url,
                node_name="node-1",
                token_file=self.token_file,
                ca_file=folder / "ca.crt",
            ),
            self.pods,
            count=self._count,
            failed=self.failures.append,
            first_pause_seconds=0.01,
            jitter=lambda: 1.0,
        )

    def _count(self, request: str, result: str) -> None:
        self.results[request, result] += 1

    def await_container(self, container_id: str) -> Workload | None:
        container = Container(container_id=container_id)
        self.await_that(lambda: self.pods.find(container) is not None)
        return self.pods.find(container)

    def await_that(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.results
            time.sleep(0.005)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def watched(server: ApiServer, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(server.url, tmp_path)
    yield made
    made.watch.close()
    assert not made.watch._thread.is_alive()
    assert made.failures == []


def test_pods_are_known_when_they_ran_before(server: ApiServer, watched: Watched) -> None:
    server.apply(pod("cart", {"web": "c1", "log": "c2"}))
    watched.watch.start()

    assert Workload(namespace="shop", pod="cart", container="web") == watched.await_container("c1")
    assert Workload(namespace="shop", pod="cart", container="log") == watched.await_container("c2")
    assert watched.pods.is_current


def test_all_pages_are_read_when_a_list_has_several(server: ApiServer, watched: Watched) -> None:
    server.page_pods = 3
    for number in range(8):
        server.apply(pod(f"pod-{number}", {"web": f"c{number}"}))
    watched.watch.start()
    watched.await_container("c7")

    assert len(watched.pods) == 8
    assert len(server.await_request(2, limit="100")) == 3


def test_pod_is_known_when_it_is_made_later(server: ApiServer, watched: Watched) -> None:
    watched.watch.start()
    server.await_request(watch="1", allowWatchBookmarks="true", resourceVersion="10")
    server.apply(pod("cart", {}))
    server.apply(pod("cart", {"web": "c1"}))

    assert Workload(namespace="shop", pod="cart", container="web") == watched.await_container("c1")


def test_pod_is_remembered_when_it_is_deleted(server: ApiServer, watched: Watched) -> None:
    server.apply(pod("cart", {"web": "c1"}))
    watched.watch.start()
    watched.await_container("c1")
    server.apply(pod("cart", {"web": "c1"}), kind="DELETED")
    server.apply(pod("next", {"web": "c2"}))
    watched.await_container("c2")

    assert watched.pods.find(Container(container_id="c1")) is not None


def test_watch_goes_on_from_the_bookmark_when_it_is_cut_off(
    server: ApiServer, watched: Watched
) -> None:
    watched.watch.start()
    server.await_request(watch="1")
    server.bookmark()
    server.apply(pod("cart", {"web": "c1"}))
    server.bookmark()
    watched.await_container("c1")
    watched.await_that(lambda: watched.watch._version == "13")
    server.disconnect()

    server.await_request(watch="1", resourceVersion="13")
    assert len(server.await_request(limit="100")) == 1
    server.apply(pod("later", {"web": "c2"}))
    watched.await_container("c2")


def test_pods_are_listed_anew_when_the_version_is_gone(server: ApiServer, watched: Watched) -> None:
    watched.watch.start()
    server.await_request(watch="1")
    server.disconnect()
    server.apply(pod("cart", {"web": "c1"}))
    server.forget()
    server.disconnect()
    watched.await_container("c1")
    server.await_request(2, limit="100")
    server.apply(pod("later", {"web": "c2"}))

    watched.await_container("c2")


def test_pods_are_listed_anew_when_an_event_says_so(server: ApiServer, watched: Watched) -> None:
    watched.watch.start()
    server.await_request(watch="1")
    server.send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
    server.await_request(2, limit="100")

    watched.await_that(lambda: watched.results["watch", "gone"] == 1)


def test_new_token_is_used_when_the_old_one_has_expired(
    server: ApiServer, watched: Watched
) -> None:
    watched.watch.start()
    server.await_request(watch="1", token="first")
    server.token = "second"
    server.disconnect()
    watched.await_that(lambda: watched.results["watch", "refused"] > 0)
    assert not watched.pods.is_current

    watched.token_file.write_text("second")
    server.await_request(watch="1", token="second")
    server.apply(pod("cart", {"web": "c1"}))
    watched.await_container("c1")
    assert watched.pods.is_current


def test_it_goes_on_when_the_token_is_not_there_yet(server: ApiServer, watched: Watched) -> None:
    server.apply(pod("cart", {"web": "c1"}))
    watched.token_file.rename(watched.token_file.with_suffix(".away"))
    watched.watch.start()
    watched.await_that(lambda: watched.results["list", "error"] > 1)
    watched.token_file.with_suffix(".away").rename(watched.token_file)

    watched.await_container("c1")


def test_it_asks_again_when_the_server_talks_nonsense(server: ApiServer, watched: Watched) -> None:
    server.apply(pod("cart", {"web": "c1"}))
    server.is_broken = True
    watched.watch.start()
    watched.await_that(lambda: watched.results["list", "error"] > 2)
    server.is_broken = False

    watched.await_container("c1")


def test_events_are_left_out_when_they_are_no_pods(server: ApiServer, watched: Watched) -> None:
    watched.watch.start()
    server.await_request(watch="1")
    server.send({"type": "ADDED", "object": {"metadata": {"resourceVersion": "12", "name": 5}}})
    server.apply(pod("cart", {"web": "c1"}))

    watched.await_container("c1")


def test_nothing_is_current_when_nobody_answers(tmp_path: Path) -> None:
    watched = Watched("http://127.0.0.1:1", tmp_path)
    watched.watch.start()
    watched.await_that(lambda: watched.results["list", "error"] > 0)

    assert not watched.pods.is_current
    watched.watch.close()
    assert not watched.watch._thread.is_alive()


def test_pauses_grow_when_it_fails_again_and_again(tmp_path: Path) -> None:
    watched = Watched("http://127.0.0.1:1", tmp_path)
    watched.watch._closing = Closing()
    for _ in range(16):
        watched.watch._follow()

    assert watched.watch._closing.pauses[:4] == [0.01, 0.02, 0.04, 0.08]
    assert watched.watch._closing.pauses[-1] == 60.0


class Closing(threading.Event):
    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return False
