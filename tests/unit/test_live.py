"""The socket that `top` reads: who may, what is answered, and what is refused."""

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.log.rows import Hiding, Windows
from picosnitch_exporter.model import Executable
from picosnitch_exporter.service import live
from picosnitch_exporter.service.live import LiveServer
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.terminal import top
from picosnitch_exporter.terminal.live_client import Answer, LiveClient
from tests.log_samples import CURL, flow
from tests.unit.snapshots import column, facts, labels, snapshot

CURL_EXECUTABLE = Executable(sha256=CURL.sha256, exe=CURL.exe)
SHOW_CURL: Answer = {"show": "connections", "exe": CURL.exe, "sha256": CURL.sha256}


@contextlib.contextmanager
def running(
    folder: Path,
    windows: Windows,
    *,
    hiding: Hiding = Hiding(),  # noqa: B008
    health: Health | None = None,
) -> Iterator[None]:
    failures: list[BaseException] = []
    asked = threading.Semaphore(0)
    listener = live.bind(folder, readers=None)
    assert listener is not None
    server = LiveServer(
        listener,
        snapshot=lambda: snapshot(
            transmit=column([(labels(CURL_EXECUTABLE), 30), (labels(CURL_EXECUTABLE), 12)]),
            executables=(facts(1, of=CURL_EXECUTABLE),),
        ),
        readiness=lambda: "starting",
        hiding=hiding,
        readers=None,
        health=health or Health(),
        asked=asked.release,
        failed=failures.append,
    )
    server.start()
    has_ended = False

    def main_loop() -> None:
        while asked.acquire() and not has_ended:
            server.answer(windows, 1.0)

    main = threading.Thread(target=main_loop)
    main.start()
    try:
        yield
    finally:
        has_ended = True
        asked.release()
        main.join()
        server.close()
    assert failures == []


def ask(client: LiveClient, request: Answer) -> Answer:
    client.ask(request)
    answer = client.wait(10)
    assert answer is not None
    return answer


def test_executables_have_their_totals_and_what_the_windows_hold(tmp_path: Path) -> None:
    windows = Windows()
    windows.add(flow(cookie=1))
    windows.close(1.0)
    windows.add(flow(cookie=2))

    with running(tmp_path, windows), contextlib.closing(LiveClient(tmp_path)) as client:
        answer = ask(client, {"show": "executables"})

    assert answer["not_ready"] == "starting"
    assert isinstance(answer["executables"], list)
    (entry,) = answer["executables"]
    assert (entry["exe"], entry["sent"], entry["active"]) == (CURL.exe, 42, 2)


def test_connections_are_those_of_two_windows(tmp_path: Path) -> None:
    windows = Windows()
    windows.add(flow(cookie=1, send=10))
    windows.close(1.0)
    windows.add(flow(cookie=1, send=5))

    with running(tmp_path, windows), contextlib.closing(LiveClient(tmp_path)) as client:
        answer = ask(client, SHOW_CURL)
        nothing = ask(client, {**SHOW_CURL, "exe": "/other"})

    assert isinstance(answer["connections"], list)
    (entry,) = answer["connections"]
    assert (entry["last"], entry["open"], answer["window"]) == ([10, 20], [5, 20], 1)
    assert (entry["address"], entry["pid"]) == ("93.184.216.34", 42)
    assert nothing["connections"] == []


def test_addresses_are_hidden_when_the_logs_hide_them(tmp_path: Path) -> None:
    windows = Windows()
    windows.add(flow())

    hiding = Hiding(addresses=True, commands=True, ports=True)
    with (
        running(tmp_path, windows, hiding=hiding),
        contextlib.closing(LiveClient(tmp_path)) as client,
    ):
        answer = json.dumps(ask(client, SHOW_CURL))

    assert not any(secret in answer for secret in ("93.184", "443", CURL.cmdline))


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"{\n", "not a line of JSON"),
        (b"[" * 10_000 + b"\n", "not a line of JSON"),
        (b'{"show": "secrets"}\n', "unknown request"),
        (b'{"show": "connections", "exe": 1, "sha256": ""}\n', "unknown request"),
    ],
)
def test_request_is_refused_when_malformed(
    tmp_path: Path, request_line: bytes, expected: str
) -> None:
    with running(tmp_path, Windows()), contextlib.closing(LiveClient(tmp_path)) as client:
        client._socket.sendall(request_line)
        with pytest.raises(PicosnitchError, match=expected):
            client.wait(10)


def refused(health: Health) -> dict[tuple[str, ...], float]:
    (family,) = [one for one in health.collect() if one.metric is catalog.TOP_CLIENTS_REFUSED]
    return {one.labels: one.value for one in family.readings}


def test_client_is_refused_and_counted_when_there_are_enough(tmp_path: Path) -> None:
    health = Health()
    with running(tmp_path, Windows(), health=health), contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(LiveClient(tmp_path)))
            for _ in range(live.MAX_CLIENTS + 1)
        ]
        for client in clients[:-1]:
            ask(client, {"show": "executables"})
        clients[-1].ask({"show": "executables"})
        with pytest.raises(PicosnitchError, match="4 others are watching already"):
            clients[-1].wait(10)
    assert refused(health) == {("not_allowed",): 0, ("full",): 1, ("exhausted",): 0}


def test_client_is_refused_and_counted_when_it_may_not_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_may_read", lambda _client, _readers: False)
    health = Health()
    with (
        running(tmp_path, Windows(), health=health),
        contextlib.closing(LiveClient(tmp_path)) as client,
        pytest.raises(PicosnitchError, match="may ask"),
    ):
        ask(client, {"show": "executables"})
    assert refused(health) == {("not_allowed",): 1, ("full",): 0, ("exhausted",): 0}


def test_client_waits_and_is_counted_when_no_descriptor_is_left(tmp_path: Path) -> None:
    health = Health()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(tmp_path, Windows(), health=health):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with client, client.makefile("rb") as answers:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
            try:
                client.connect(str(tmp_path / live.SOCKET_NAME))
                deadline = time.monotonic() + 10
                while not refused(health)["exhausted",]:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.sendall(b'{"show": "executables"}\n')
            assert b"error" not in answers.readline()


def test_place_is_free_again_when_a_client_has_gone(tmp_path: Path) -> None:
    with running(tmp_path, Windows()):
        for _ in range(3 * live.MAX_CLIENTS):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with (
                    contextlib.closing(LiveClient(tmp_path)) as client,
                    contextlib.suppress(PicosnitchError),
                ):
                    ask(client, {"show": "executables"})
                    break
            else:
                pytest.fail("no place became free")


def test_socket_is_for_its_owner_alone_when_there_is_no_group(tmp_path: Path) -> None:
    with running(tmp_path, Windows()):
        assert (tmp_path / live.SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_socket_that_was_left_over_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        with running(tmp_path, Windows()):
            LiveClient(tmp_path).close()


def test_socket_is_left_alone_when_another_exporter_listens_on_it(tmp_path: Path) -> None:
    with running(tmp_path, Windows()):
        assert live.bind(tmp_path, readers=None) is None
        with contextlib.closing(LiveClient(tmp_path)) as client:
            ask(client, {"show": "executables"})


def test_file_in_its_place_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / live.SOCKET_NAME).write_text("mine")

    assert live.bind(tmp_path, readers=None) is None
    assert (tmp_path / live.SOCKET_NAME).read_text() == "mine"
    assert "top_unavailable" in caplog.text


def test_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()

    with running(folder, Windows()):
        LiveClient(folder).close()


def test_client_says_how_to_start_when_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(PicosnitchError, match=r"start it \(systemctl start picosnitch-exporter"):
        LiveClient(tmp_path)
    with pytest.raises(PicosnitchError, match="no exporter runs with the storage path"):
        LiveClient(tmp_path / "nowhere")


def test_client_says_so_when_the_exporter_stops(tmp_path: Path) -> None:
    with running(tmp_path, Windows()):
        client = LiveClient(tmp_path)
        ask(client, {"show": "executables"})
    with (
        contextlib.closing(client),
        pytest.raises(PicosnitchError, match="has stopped: start it"),
    ):
        ask(client, {"show": "executables"})


def test_client_connects_again_when_it_was_silent_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_IDLE_SECONDS", 0.05)
    with running(tmp_path, Windows()), contextlib.closing(LiveClient(tmp_path)) as client:
        assert client.wait(0.5) is None
        assert "executables" in ask(client, {"show": "executables"})


def test_member_of_the_group_may_read_and_others_not() -> None:
    mine, other = socket.socketpair(socket.AF_UNIX)
    with mine, other:
        assert live._may_read(mine, None)  # of its own account
        assert live._may_read(mine, os.getgid())


def test_table_is_printed_once_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top, "_ONCE_SECONDS", 0.01)
    with running(tmp_path, Windows()):
        top._once(tmp_path)

    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["EXECUTABLE", "OUT/s", "IN/s"]
    assert line.split()[:2] == [CURL.exe, "42"]
