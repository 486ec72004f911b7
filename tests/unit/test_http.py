import contextlib
import errno
import gzip
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import RequirementError, UsageError
from picosnitch_exporter.model import Executable, Sha256, Snapshot
from picosnitch_exporter.outputs.http import WebServer
from picosnitch_exporter.outputs.listen import FLAG, bind
from picosnitch_exporter.outputs.request import (
    MAX_HEAD_BYTES,
    RefusedError,
    Request,
    find_head,
    parse_head,
)
from picosnitch_exporter.outputs.self_metrics import render_own
from picosnitch_exporter.settings import WebSettings
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import column, executable, facts, labels, large_snapshot, snapshot

DEADLINE_SECONDS = 10.0
SMALL = snapshot(transmit=column([(labels(executable(1)), 7)]), executables=(facts(1),))


class Running:
    """A server on a free port of the loopback, with its state in the test's hands."""

    def __init__(
        self,
        *,
        shown: Snapshot = SMALL,
        socket_seconds: float = 5.0,
        request_seconds: float = 10.0,
        max_connections: int = 64,
        settings: WebSettings | None = None,
    ) -> None:
        self.health = Health()
        self.shown: Callable[[], Snapshot] = lambda: shown
        self.reason_not_ready: str | None = None
        self.failures: list[BaseException] = []
        self.failed = threading.Event()
        self.server = WebServer(
            sockets=bind(["127.0.0.1:0"]),
            snapshot=self._snapshot,
            health=self.health,
            readiness=lambda: self.reason_not_ready,
            settings=settings or WebSettings(),
            failed=self._failed,
            version="1.2.3",
            socket_seconds=socket_seconds,
            request_seconds=request_seconds,
            max_connections=max_connections,
        )
        self.server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.server.close()

    def _snapshot(self) -> Snapshot:
        return self.shown()

    def _failed(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.addresses[0], timeout=DEADLINE_SECONDS)

    def ask(self, request: str | bytes) -> "Answer":
        raw = request if isinstance(request, bytes) else request.encode()
        with self.connect() as client:
            client.sendall(raw)
            return Answer(receive_all(client))

    def get(self, path: str, *headers: str, method: str = "GET") -> "Answer":
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        return self.ask("\r\n".join(lines))

    def counted(self, metric: catalog.Metric) -> dict[tuple[str, ...], float]:
        for family in self.health.collect():
            if family.metric is metric:
                return {one.labels: one.value for one in family.readings}
        return {}


class Answer:
    def __init__(self, raw: bytes) -> None:
        head, _empty, self.payload = raw.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split(" ")[1]) if raw else 0
        self.headers = dict(line.split(": ", 1) for line in lines)

    @property
    def body(self) -> bytes:
        body = self.payload
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = unchunked(body)
        elif "Content-Length" in self.headers:
            assert len(body) == int(self.headers["Content-Length"])
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return body


def receive_all(client: socket.socket) -> bytes:
    received = b""
    while some := client.recv(1 << 16):
        received += some
    return received


def unchunked(data: bytes) -> bytes:
    body = b""
    while True:
        size, _end, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert data == b"\r\n"
            return body
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        pause.wait(0.005)


@pytest.fixture
def running() -> Iterator[Running]:
    with Running() as running:
        yield running


def test_metrics_are_served_when_asked_for(running: Running) -> None:
    answer = running.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Connection"] == "close"
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"picosnitch_network_transmit_bytes", "picosnitch_exporter_http_requests"} <= names


def test_openmetrics_is_served_when_the_client_likes_it_better(running: Running) -> None:
    answer = running.get(
        "/metrics?x=1", "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1"
    )
    assert (
        answer.headers["Content-Type"]
        == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    assert answer.body.endswith(b"# EOF\n")


def test_body_is_compressed_when_the_client_takes_gzip(running: Running) -> None:
    answer = running.get("/metrics", "Accept-Encoding: gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert b"picosnitch_network_transmit_bytes_total{" in answer.body
    assert "Content-Encoding" not in running.get("/metrics", "Accept-Encoding: gzip;q=0").headers


def test_body_ends_with_the_connection_when_the_client_speaks_http_1_0(running: Running) -> None:
    answer = running.ask("GET /metrics HTTP/1.0\r\n\r\n")
    assert "Transfer-Encoding" not in answer.headers
    assert answer.payload.startswith(b"# HELP picosnitch_network_transmit_bytes_total")


def test_path_of_the_metrics_is_another_one_when_set() -> None:
    with Running(settings=WebSettings(telemetry_path="/m/etrics")) as running:
        assert running.get("/m/etrics").status == 200
        assert running.get("/metrics").status == 404
        assert b'href="/m/etrics"' in running.get("/").body


def test_only_the_head_is_sent_when_the_method_is_head(running: Running) -> None:
    for path in ("/metrics", "/", "/-/healthy", "/nowhere"):
        answer = running.get(path, method="HEAD")
        assert answer.status == running.get(path).status
        assert answer.payload == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_method_is_refused_when_not_get_or_head(running: Running, method: str) -> None:
    answer = running.get("/metrics", "Content-Length: 3", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_path_is_not_found_when_unknown(running: Running) -> None:
    for path in ("/nowhere", "/metrics/", "/-/", "/../metrics", "//metrics"):
        assert running.get(path).status == 404


def test_path_is_understood_when_absolute_or_escaped(running: Running) -> None:
    assert running.get("http://proxied.example:80/metrics").status == 200
    assert running.get("http://proxied.example").status == 200
    assert running.get("/%6detrics").status == 200


def test_landing_page_says_how_it_is_when_asked_for(running: Running) -> None:
    running.reason_not_ready = "<b>no hooks</b> yet"
    answer = running.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = answer.body.decode()
    for part in ("1.2.3", 'href="/metrics"', "not ready: &lt;b&gt;no hooks&lt;/b&gt; yet"):
        assert part in page
    assert "<script" not in page
    running.reason_not_ready = None
    assert "<dd>ready</dd>" in running.get("/").body.decode()


def test_ready_says_why_not_when_it_is_not(running: Running) -> None:
    running.reason_not_ready = "hooks are being attached"
    answer = running.get("/-/ready")
    assert (answer.status, answer.body) == (503, b"not ready: hooks are being attached\n")
    assert running.get("/-/healthy").status == 200
    running.reason_not_ready = None
    assert (running.get("/-/ready").status, running.get("/-/ready").body) == (200, b"ready\n")


@pytest.mark.parametrize(
    ("status", "request_head"),
    [
        (400, b"GET /metrics\r\n\r\n"),
        (400, b"GET /metrics HTTP/1.1\r\n\r\n"),
        (400, b"GET /metrics HTTP/1.1\r\nHost : test\r\n\r\n"),
        (400, b"GET /metrics HTTP/1.1\r\nHost: test\r\n folded: yes\r\n\r\n"),
        (400, b"GET /metrics HTTP/1.1\r\nHost: te\0st\r\n\r\n"),
        (400, b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (400, b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: test\r\n" + b"a: b\r\n" * 101 + b"\r\n"),
        (431, b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n"),
        (431, b"a" * 10 * MAX_HEAD_BYTES),
        (431, b"\r\n" * MAX_HEAD_BYTES),
        (431, b"\n" * MAX_HEAD_BYTES + b"GET / HTTP/1.0\r\n\r\n"),
    ],
)
def test_request_is_refused_when_malformed(
    running: Running, status: int, request_head: bytes
) -> None:
    assert running.ask(request_head).status == status
    assert running.counted(catalog.HTTP_REQUESTS) == {("other", str(status)): 1}


def test_request_is_answered_when_it_comes_in_pieces(running: Running) -> None:
    with running.connect() as client:
        for byte in b"\r\nGET /-/healthy HTTP/1.1\nHost: test\n\n":
            client.sendall(bytes([byte]))
        assert Answer(receive_all(client)).status == 200


def test_requests_are_counted_when_answered(running: Running) -> None:
    running.get("/metrics")
    running.get("/nowhere")
    expected = {
        'picosnitch_exporter_http_requests_total{code="200",handler="telemetry"} 1.0',
        'picosnitch_exporter_http_requests_total{code="404",handler="other"} 1.0',
        "picosnitch_exporter_scrape_duration_seconds_count 1.0",
        "picosnitch_exporter_http_connections 0.0",
    }

    # What is counted after an answer is counted a moment after it has arrived.
    def is_counted() -> bool:
        own = render_own(running.health.collect(), openmetrics=False, with_workload_labels=False)
        return expected <= set(own.decode().splitlines())

    wait_until(is_counted)


def test_error_is_answered_and_the_next_request_served_when_rendering_fails(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Snapshot:
        raise LookupError("no snapshot")

    works, running.shown = running.shown, broken
    with caplog.at_level(logging.ERROR):
        assert running.get("/metrics").status == 500
        assert running.get("/metrics").status == 500
    assert [record.message for record in caplog.records] == ["http_request_failed"]
    running.shown = works
    assert running.get("/metrics").status == 200
    assert running.failures == []


def test_body_is_cut_visibly_when_rendering_fails_half_way(running: Running) -> None:
    shown = snapshot(
        transmit=column([(labels(executable(one)), one) for one in range(20_000)]),
        # A number in place of a path can't be escaped.
        executables=(facts(1, of=Executable(sha256=Sha256(""), exe=7)),),  # type: ignore[arg-type]
    )
    running.shown = lambda: shown
    with running.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            receive_all(client)
    wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS_DROPPED)[("failed",)] == 1)


def test_client_is_dropped_when_it_sends_nothing() -> None:
    with Running(socket_seconds=0.1) as running, running.connect() as client:
        assert receive_all(client) == b""
        assert running.counted(catalog.HTTP_CONNECTIONS_DROPPED)[("timeout",)] == 1


def test_client_is_dropped_when_it_sends_too_slowly() -> None:
    with Running(socket_seconds=5.0, request_seconds=0.3) as running, running.connect() as client:
        pause = threading.Event()
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012
            while time.monotonic() < started + DEADLINE_SECONDS:
                client.sendall(b"G")
                pause.wait(0.02)
        wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS_DROPPED)[("timeout",)] == 1)


def test_client_is_dropped_when_it_does_not_read() -> None:
    with (
        Running(shown=large_snapshot(50_000), socket_seconds=0.2) as running,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(running.server.addresses[0])
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS_DROPPED)[("timeout",)] == 1)
        assert running.get("/metrics").status == 200


def test_nothing_is_counted_as_dropped_when_a_client_only_connects(running: Running) -> None:
    with running.connect():
        wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS) == {(): 1})
    wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS) == {(): 0})
    assert set(running.counted(catalog.HTTP_CONNECTIONS_DROPPED).values()) == {0}


def test_scrape_is_answered_when_200_connections_idle(running: Running) -> None:
    with ExitStack() as clients:
        for _ in range(200):
            clients.enter_context(running.connect())
        answer = running.get("/metrics")
        assert answer.status == 200
        assert b"picosnitch_exporter_http_connections 64.0" in answer.body
        dropped = running.counted(catalog.HTTP_CONNECTIONS_DROPPED)
        assert dropped[("evicted",)] == 200 + 1 - 64
    assert threading.active_count() < 100


def test_oldest_is_evicted_when_there_are_too_many() -> None:
    with Running(max_connections=2) as running, ExitStack() as clients:
        oldest, older, _newest = (clients.enter_context(running.connect()) for _ in range(3))
        assert receive_all(oldest) == b""
        older.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: test\r\n\r\n")
        assert Answer(receive_all(older)).status == 200


def test_all_are_answered_when_many_scrape_at_once() -> None:
    statuses = []
    with Running(shown=large_snapshot(4000)) as running:
        start = threading.Barrier(50)

        def scrape() -> None:
            start.wait()
            answer = running.get("/metrics", "Accept-Encoding: gzip")
            statuses.append((answer.status, answer.body.count(b"_bytes_total{sha256=")))

        threads = [threading.Thread(target=scrape) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert statuses == [(200, 2 * 1000)] * 50


def test_clients_are_ended_when_the_server_closes() -> None:
    running = Running()
    with running.connect() as client:
        wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS) == {(): 1})
        address = running.server.addresses[0]
        started = time.monotonic()
        running.server.close()
        assert receive_all(client) == b""
        assert time.monotonic() - started < 2
        assert not running.failures
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=DEADLINE_SECONDS)


def test_sockets_are_closed_when_the_server_never_started() -> None:
    sockets = bind(["127.0.0.1:0"])
    server = WebServer(
        sockets=sockets,
        snapshot=lambda: SMALL,
        health=Health(),
        readiness=lambda: None,
        settings=WebSettings(),
        failed=lambda _error: None,
        version="1",
    )
    server.close()
    assert [one.fileno() for one in sockets] == [-1]


def test_failure_is_reported_when_accepting_ends(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    (listener,) = running.server._sockets
    # A socket that no longer listens: accept fails with EINVAL.
    listener.shutdown(socket.SHUT_RDWR)
    assert running.failed.wait(DEADLINE_SECONDS)
    assert isinstance(running.failures[0], OSError)
    assert "http_accept_failed" in caplog.text


class Failing:
    """A listening socket whose accept fails."""

    def __init__(self, number: int) -> None:
        self._number = number

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        raise OSError(self._number, errno.errorcode[self._number])


def test_oldest_half_is_evicted_when_descriptors_run_out(caplog: pytest.LogCaptureFixture) -> None:
    with Running(max_connections=4) as running, ExitStack() as clients:
        first, second, third = (clients.enter_context(running.connect()) for _ in range(3))
        wait_until(lambda: running.counted(catalog.HTTP_CONNECTIONS) == {(): 3})
        for _ in range(2):
            running.server._accept(cast("socket.socket", Failing(errno.EMFILE)))
        assert receive_all(first) == b""
        for alive in (second, third):
            alive.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert Answer(receive_all(alive)).status == 200
    assert caplog.text.count("http_accept_exhausted") == 1


def test_accepting_goes_on_when_a_client_has_gone_before(running: Running) -> None:
    running.server._accept(cast("socket.socket", Failing(errno.ECONNABORTED)))
    with pytest.raises(OSError, match="EBADF"):
        running.server._accept(cast("socket.socket", Failing(errno.EBADF)))


def test_client_is_dropped_when_no_thread_can_be_started(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with running.connect() as client:
            assert receive_all(client) == b""
    assert running.get("/metrics").status == 200
    assert running.counted(catalog.HTTP_CONNECTIONS_DROPPED)[("evicted",)] == 1


def test_any_address_is_ipv4_when_the_machine_has_no_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    (listener,) = bind([":0"])
    with listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize(
    ("advice", "number"),
    [("CAP_NET_BIND_SERVICE", errno.EACCES), ("can't be listened on", errno.ENOMEM)],
)
def test_requirement_is_named_when_listening_fails(
    monkeypatch: pytest.MonkeyPatch, advice: str, number: int
) -> None:
    def fail(_socket: socket.socket, _address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", fail)
    with pytest.raises(RequirementError, match=advice):
        bind(["127.0.0.1:80"])


def test_both_families_are_served_when_only_a_port_is_given() -> None:
    (listener,) = bind([":0"])
    with listener:
        port = listener.getsockname()[1]
        assert listener.family == socket.AF_INET6
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=DEADLINE_SECONDS).close()


def test_address_is_bound_when_given_in_any_form() -> None:
    sockets = bind(["127.0.0.1:0", "[::1]:0", "localhost:0"])
    try:
        hosts = [one.getsockname()[0] for one in sockets]
        assert hosts[:2] == ["127.0.0.1", "::1"]
        assert set(hosts[2:]) <= {"127.0.0.1", "::1"}
        assert len(hosts) > 2
    finally:
        for one in sockets:
            one.close()


def test_requirement_is_named_when_the_port_is_taken() -> None:
    (listener,) = bind(["127.0.0.1:0"])
    with listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RequirementError, match=rf"{address} is taken.*{re.escape(FLAG)}"):
            bind(["127.0.0.1:0", address])


def test_requirement_is_named_when_the_address_is_elsewhere() -> None:
    with pytest.raises(RequirementError, match="no address of this machine"):
        bind(["192.0.2.1:0"])


@pytest.mark.parametrize(
    "address", ["", "9100", "localhost", ":http", ":65536", "::1:9100", "[::1]", "a b:1"]
)
def test_address_is_refused_when_not_one(address: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{FLAG}=")):
        bind([address])


def test_address_is_refused_when_it_does_not_resolve() -> None:
    with pytest.raises(UsageError, match="does not resolve"):
        bind(["nowhere.invalid:0"])


@given(st.binary(max_size=200))
def test_head_is_parsed_or_refused_when_anything_arrives(data: bytes) -> None:
    head = find_head(data + b"\r\n\r\n")
    if head is None:
        assert not data.strip(b"\r\n")
        return
    with contextlib.suppress(RefusedError):
        assert parse_head(head).path


def test_head_is_waited_for_when_few_empty_lines_come_before_it() -> None:
    lines = b"\r\n" * (MAX_HEAD_BYTES // 2)
    assert find_head(lines) is None
    assert find_head(b"\r\n\nGET / HTTP/1.0\r\n\r\nrest") == b"GET / HTTP/1.0"
    with pytest.raises(RefusedError):
        find_head(lines + b"\n")


def test_headers_are_joined_when_repeated() -> None:
    head = b"GET /?q HTTP/1.0\r\nAccept: a;q=1 \r\nACCEPT:\tb\r\nEmpty:"
    assert parse_head(head) == Request(
        method="GET",
        path="/",
        minor_version=0,
        headers={"accept": "a;q=1, b", "empty": ""},
    )


def seconds_to_refuse(blanks: int) -> float:
    """Of this thread's processor time, the least of some."""
    head = b"GET / HTTP/1.1\r\nA:" + b" " * blanks + b"\0"
    took = []
    for _ in range(5):
        started = time.thread_time()
        with pytest.raises(RefusedError, match="malformed header"):
            parse_head(head)
        took.append(time.thread_time() - started)
    return min(took)


def test_time_grows_with_the_head_alone_when_a_header_is_blanks() -> None:
    # In proportion it is 16 times, with each number of blanks tried 256 times.
    assert seconds_to_refuse(16_000) < 64 * seconds_to_refuse(1_000)


@pytest.mark.parametrize("blanks", ["", " ", "\t", " \t "])
def test_value_is_bare_when_blanks_are_around_it(blanks: str) -> None:
    head = f"GET / HTTP/1.0\r\na:{blanks}b \t c{blanks}\r\nempty:{blanks}"
    assert parse_head(head.encode()).headers == {"a": "b \t c", "empty": ""}
