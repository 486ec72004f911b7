"""Containers by their cgroups: named as the runtimes do, on v2 and v1, however short-lived."""

import secrets
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from picosnitch_exporter.sensor.procfs import Procfs
from tests.api_server import ApiServer, pod
from tests.kernel.exporter import Exporter, Settings, poll
from tests.kernel.generator import Generator, Program, Running

SETTINGS: Settings = {"log": {"write_limit_seconds": 1}, "kubernetes": {"enabled": True}}
SHOW_SECONDS = 30.0
HOST = ("", "", "")
Labels = tuple[str, str, str]
"""namespace, pod and container."""


def container_id() -> str:
    return secrets.token_hex(32)


def unified() -> Path:
    return Path(next(m for m in Procfs().mounts() if m.filesystem == "cgroup2").mount_point)


def first_v1() -> Path:
    """The v1 hierarchy that is read, where there is one."""
    for controller in ("pids", "memory", "freezer", "cpuset"):
        for mount in Procfs().mounts():
            if mount.filesystem == "cgroup" and controller in mount.options:
                return Path(mount.mount_point)
    pytest.skip("this kernel has all controllers in v2")


@contextmanager
def cgroup(root: Path, path: str) -> Iterator[Path]:
    """A cgroup that exists within the block, with those above it that did not."""
    folder = root / path.lstrip("/")
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        for one in missing:
            # The last process may still be on its way out.
            poll(lambda one=one: _is_removed(one), seconds=5)  # type: ignore[misc]


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def start(program: Program, folder: Path, scenario: str, **options: object) -> Running:
    """Run it in a cgroup from its first instruction on, as runtimes do."""
    enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    pairs = [f"{key}={value}" for key, value in options.items()]
    return Running(["sh", "-c", enter, str(folder), str(program.path), scenario, *pairs])


def transmitted(exporter: Exporter, program: Program) -> dict[Labels, int]:
    """Bytes by the labels of the workload."""
    with exporter._get("/metrics") as response:
        text = response.read().decode()
    found: dict[Labels, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name != "picosnitch_network_transmit_bytes_total":
                continue
            if labels["sha256"] == program.sha256 and sample.value:
                workload = (labels["namespace"], labels["pod"], labels["container"])
                found[workload] = found.get(workload, 0) + int(sample.value)
    return found


def await_transmitted(exporter: Exporter, program: Program, expected: dict[Labels, int]) -> None:
    poll(lambda: transmitted(exporter, program) == expected, seconds=SHOW_SECONDS)
    assert transmitted(exporter, program) == expected, exporter.said()


def logged(exporter: Exporter, program: Program) -> list[str]:
    """Containers in the log."""
    with closing(sqlite3.connect(exporter.storage / "snitch.db")) as database:
        rows = database.execute(
            "SELECT DISTINCT container FROM connection_log WHERE sha256 = ?", [program.sha256]
        )
        return [str(container) for (container,) in rows]


@pytest.fixture(scope="module")
def exporter(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    with Exporter.start(SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def port(shared_generator: Generator, privileges: None) -> Iterator[int]:  # noqa: ARG001
    with shared_generator.copy("sink").start("udp-server", via="recvfrom") as server:
        yield server.ready().port


def shoot(program: Program, port: int, folder: Path, size: int) -> None:
    with start(program, folder, "oneshot", port=port, bytes=size) as running:
        assert running.done().sent == size


PATHS: dict[str, Callable[[str], str]] = {
    "docker": lambda one: f"/system.slice/docker-{one}.scope",
    "docker-cgroupfs": lambda one: f"/docker/{one}",
    "podman": lambda one: f"/machine.slice/libpod-{one}.scope/container",
    "containerd": lambda one: (
        "/kubepods.slice/kubepods-burstable.slice/"
        "kubepods-burstable-pod74c13223_5a00_11e9_b385_42010a80018d.slice/"
        f"cri-containerd-{one}.scope"
    ),
    "cri-o": lambda one: f"/kubepods/besteffort/pod74c13223-5a00-11e9-b385-42010a80018d/crio-{one}",
}


@pytest.mark.parametrize("runtime", PATHS)
@pytest.mark.parametrize("version", ["v2", "v1"])
def test_container_is_known_when_it_lives_for_milliseconds(
    exporter: Exporter, shared_generator: Generator, port: int, runtime: str, version: str
) -> None:
    """Process and cgroup are gone long before anybody in user space could look."""
    program, one = shared_generator.copy(f"{version}-{runtime}"), container_id()
    root = unified() if version == "v2" else first_v1()
    with cgroup(root, PATHS[runtime](one)) as folder:
        shoot(program, port, folder, 100)

    await_transmitted(exporter, program, {("", "", one): 100})
    poll(lambda: logged(exporter, program), seconds=SHOW_SECONDS)
    assert logged(exporter, program) == [one]


def test_host_has_empty_labels_when_containers_run(
    exporter: Exporter, shared_generator: Generator, port: int
) -> None:
    program = shared_generator.copy("host")
    with cgroup(unified(), f"/system.slice/libpod-conmon-{container_id()}.scope") as folder:
        shoot(program, port, folder, 100)

    await_transmitted(exporter, program, {HOST: 100})


def test_containers_are_told_apart_when_they_run_the_same_file(
    exporter: Exporter, shared_generator: Generator, port: int
) -> None:
    program, first, second = shared_generator.copy("shared"), container_id(), container_id()
    with ExitStack() as stack:
        for one, size in ((first, 100), (second, 30)):
            folder = stack.enter_context(cgroup(unified(), f"/docker/{one}"))
            shoot(program, port, folder, size)
    with program.start("oneshot", port=port, bytes=7) as running:
        running.done()

    await_transmitted(exporter, program, {("", "", first): 100, ("", "", second): 30, HOST: 7})


def test_container_is_known_when_it_ran_before_the_exporter(
    shared_generator: Generator, port: int
) -> None:
    program, one = shared_generator.copy("before"), container_id()
    with (
        cgroup(unified(), f"/docker/{one}") as folder,
        start(
            program, folder, "udp-client", port=port, bytes=3000, size=1000, start="stdin"
        ) as running,
    ):
        running.ready()
        with Exporter.start(SETTINGS) as exporter:
            running.go()
            running.done()
            await_transmitted(exporter, program, {("", "", one): 3000})


def test_labels_stay_when_the_exporter_is_restarted(shared_generator: Generator, port: int) -> None:
    program, one = shared_generator.copy("long"), container_id()
    with (
        cgroup(unified(), f"/docker/{one}") as folder,
        start(
            program, folder, "udp-many", to=f"127.0.0.1:{port}", count=1, size=1000, hold=1
        ) as early,
        Exporter.start(SETTINGS) as exporter,
        start(
            program, folder, "udp-client", port=port, bytes=500, size=500, start="stdin"
        ) as running,
    ):
        early.done()
        running.ready()
        shoot(program, port, folder, 7)
        await_transmitted(exporter, program, {("", "", one): 7})
        exporter.crash()
        running.go()
        running.done()
        exporter.launch()
        await_transmitted(exporter, program, {("", "", one): 507})


def test_log_alone_has_the_container_when_labels_are_off(
    shared_generator: Generator, port: int
) -> None:
    program, one = shared_generator.copy("unlabelled"), container_id()
    settings = {**SETTINGS, "kubernetes": {"enabled": False}}
    with Exporter.start(settings) as exporter:
        with cgroup(unified(), f"/docker/{one}") as folder:
            shoot(program, port, folder, 100)
        exporter.await_scrape(lambda scrape: bool(scrape.paths(program.sha256)), "the program")
        poll(lambda: logged(exporter, program), seconds=SHOW_SECONDS)
        assert logged(exporter, program) == [one]


@contextmanager
def kubernetes() -> Iterator[tuple[Exporter, ApiServer]]:
    """An exporter that asks an API server."""
    # Not pytest's own folder, which only root may enter: the exporter process is nobody.
    secrets_folder = Path(tempfile.mkdtemp(prefix="picosnitch-token-"))
    try:
        secrets_folder.chmod(0o755)
        (secrets_folder / "token").write_text("first")
        with ApiServer() as server:
            access = {
                "enabled": True,
                "api_url": server.url,
                "node_name": "node-1",
                "token_file": str(secrets_folder / "token"),
            }
            with Exporter.start({**SETTINGS, "kubernetes": access}) as exporter:
                server.await_request(watch="1")
                yield exporter, server
    finally:
        shutil.rmtree(secrets_folder)


def test_series_have_names_when_the_api_tells_them(shared_generator: Generator, port: int) -> None:
    known, late, unknown = (shared_generator.copy(name) for name in ("known", "late", "unknown"))
    one, other, third = container_id(), container_id(), container_id()
    slice_of = "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{}.scope"
    uid = "74c13223-5a00-11e9-b385-42010a80018d"
    other_uid = "84c13223-5a00-11e9-b385-42010a80018d"
    with kubernetes() as (exporter, server), ExitStack() as stack:
        server.apply(pod("cart", {"web": one}, uid=uid))
        server.apply(pod("batch", {}, uid=other_uid))
        folders = [
            stack.enter_context(cgroup(unified(), slice_of.format(pod_uid.replace("-", "_"), name)))
            for pod_uid, name in ((uid, one), (other_uid, other), (other_uid, third))
        ]
        shoot(known, port, folders[0], 100)
        shoot(late, port, folders[1], 200)
        # As the kubelet does, a moment after the container has started.
        time.sleep(1.5)
        server.apply(pod("batch", {"job": other}, uid=other_uid))
        shoot(unknown, port, folders[2], 300)

        await_transmitted(exporter, known, {("shop", "cart", "web"): 100})
        await_transmitted(exporter, late, {("shop", "batch", "job"): 200})
        await_transmitted(exporter, unknown, {("shop", "batch", third): 300})
        poll(lambda: logged(exporter, known), seconds=SHOW_SECONDS)
        assert logged(exporter, known) == [one]


def test_container_goes_by_its_id_when_the_api_is_away(
    shared_generator: Generator, port: int
) -> None:
    program, one = shared_generator.copy("away"), container_id()
    path = f"/kubepods/pod74c13223-5a00-11e9-b385-42010a80018d/{one}"
    with kubernetes() as (exporter, server):
        server.token = "another"
        server.disconnect()
        exporter.await_scrape(
            lambda scrape: scrape.value("kubernetes_requests_total", result="refused") > 0,
            "the server refuses",
        )
        with cgroup(unified(), path) as folder:
            shoot(program, port, folder, 100)

        await_transmitted(exporter, program, {("", "", one): 100})
