"""Questions and verdicts against a server that behaves as the public documentation says."""

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.checks import inquirer as inquirer_module
from picosnitch_exporter.checks import pace as pace_module
from picosnitch_exporter.checks import virustotal as virustotal_module
from picosnitch_exporter.checks.client import Client, RequestError
from picosnitch_exporter.checks.inquirer import Inquirer, SharedVerdicts
from picosnitch_exporter.checks.pace import Pace
from picosnitch_exporter.checks.virustotal import VirusTotal
from picosnitch_exporter.model import KnownVerdict, Sha256, Verdict, VirusTotalResult
from picosnitch_exporter.state.health import Health
from tests.virustotal_server import KEY, VirusTotalServer, error, serve

CONTENT = b"\x7fELF" + bytes(range(256)) * 4096
SHA = Sha256(hashlib.sha256(CONTENT).hexdigest())
OTHER = Sha256("ab" * 32)


@pytest.fixture
def server() -> Iterator[VirusTotalServer]:
    with serve() as state:
        yield state


class Asking:
    """An inquirer, its metrics, and what its thread died of."""

    def __init__(  # noqa: PLR0913
        self,
        folder: Path,
        url: str,
        *,
        key: str = KEY,
        client: Client | None = None,
        limit: float = 0.0,
        uploads: bool = False,
        recheck_days: int = 7,
        shared: SharedVerdicts | None = None,
        verdicts: tuple[KnownVerdict, ...] = (),
    ) -> None:
        self.health = Health()
        self.failures: list[BaseException] = []
        client = client or Client(socket_seconds=1.0)
        self.inquirer = Inquirer(
            VirusTotal(client, base_url=url, api_key=key),
            pace=Pace(folder / "virustotal.next", limit_seconds=limit),
            recheck_days=recheck_days,
            uploads=uploads,
            health=self.health,
            failed=self.failures.append,
            abort=client.abort,
            shared=shared,
        )
        self.inquirer.restore(verdicts)

    def __enter__(self) -> Inquirer:
        self.inquirer.start()
        return self.inquirer

    def __exit__(self, *_exception: object) -> None:
        self.inquirer.close()
        assert not self.failures

    def results(self) -> dict[str, int]:
        for family in self.health.collect():
            if family.metric is catalog.VIRUSTOTAL_REQUESTS:
                return {reading.labels[0]: int(reading.value) for reading in family.readings}
        return {}


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.005)


def verdict(inquirer: Inquirer, number: int = 1) -> list[VirusTotalResult]:
    found: list[KnownVerdict] = []

    def is_complete() -> bool:
        found.extend(inquirer.take_answers())
        return len(found) >= number

    wait_until(is_complete)
    return [each.result for each in found]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(pace_module, "LAST_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(inquirer_module, "ANALYSIS_SECONDS", 0.01)
    monkeypatch.setattr(inquirer_module, "CLAIMED_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("expected", "stats"),
    [
        (Verdict.CLEAN, {}),
        (Verdict.SUSPICIOUS, {"suspicious": 1}),
        (Verdict.MALICIOUS, {"malicious": 1, "suspicious": 2}),
        (Verdict.PENDING, {"undetected": 0}),
    ],
)
def test_verdict_is_given_when_the_hash_is_known(
    server: VirusTotalServer, tmp_path: Path, expected: Verdict, stats: dict[str, int]
) -> None:
    server.add(SHA, **stats)
    asking = Asking(tmp_path, server.url)
    with asking as inquirer:
        inquirer.ask(SHA, "/bin/x")
        (result,) = verdict(inquirer)
    assert result.verdict is expected
    assert result.malicious == stats.get("malicious", 0)
    assert abs(result.checked_seconds - time.time()) < 60
    assert asking.results() == {"found": 1}
    assert [request.path for request in server.requests] == [f"/api/v3/files/{SHA}"]


def test_verdict_is_unknown_when_nothing_may_be_uploaded(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    asking = Asking(tmp_path, server.url)
    with asking as inquirer:
        inquirer.ask(SHA, "/bin/x")
        assert verdict(inquirer)[0].verdict is Verdict.UNKNOWN
        inquirer.ask(SHA, "/bin/x")
        inquirer.ask(Sha256(""), "/bin/unreadable")
        assert len(server.requests) == 1
    assert asking.results() == {"unknown": 1}


@pytest.mark.usefixtures("_impatient")
def test_file_is_uploaded_and_its_analysis_awaited_when_it_is_unknown(
    server: VirusTotalServer, tmp_path: Path, program: Path
) -> None:
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    descriptor = os.open(program, os.O_RDONLY)
    os.lseek(descriptor, 100, os.SEEK_SET)
    asking.inquirer.held.offer(SHA, descriptor)
    program.unlink()
    with asking as inquirer:
        inquirer.ask(SHA, str(program))
        first, second = verdict(inquirer, 2)
    assert first.verdict is Verdict.PENDING
    assert (second.verdict, second.malicious) == (Verdict.MALICIOUS, 3)
    assert server.uploads == {SHA: CONTENT}
    assert asking.results() == {"unknown": 1, "uploaded": 1, "queued": 1, "analysed": 1}
    assert not any(b"program" in request.body for request in server.requests)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.usefixtures("_impatient")
def test_file_is_sent_again_when_the_receipt_can_be_no_part_of_a_url(
    server: VirusTotalServer, tmp_path: Path, program: Path
) -> None:
    receipt = b'{"data": {"type": "analysis", "id": "\\ud800"}}'
    server.answers.extend([(404, error("NotFoundError"), {}), (200, receipt, {})])
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    asking.inquirer.held.offer(SHA, os.open(program, os.O_RDONLY))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        verdict(inquirer, 2)
    expected = {"unknown": 1, "garbage": 1, "uploaded": 1, "queued": 1, "analysed": 1}
    assert asking.results() == expected


@pytest.mark.usefixtures("_impatient")
def test_upload_url_is_asked_for_when_the_file_is_large(
    server: VirusTotalServer, tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquirer_module, "SMALL_FILE_BYTES", 1000)
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    asking.inquirer.held.offer(SHA, os.open(program, os.O_RDONLY))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        verdict(inquirer, 2)
    assert server.uploads == {SHA: CONTENT}
    paths = [request.path for request in server.requests][:3]
    assert paths == [f"/api/v3/files/{SHA}", "/api/v3/files/upload_url", "/_ah/upload/1/"]


@pytest.mark.usefixtures("_impatient")
def test_nothing_is_sent_when_the_upload_url_is_of_another_site(
    server: VirusTotalServer, tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquirer_module, "SMALL_FILE_BYTES", 1000)
    server.upload_host = "http://localhost:1"
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    asking.inquirer.held.offer(SHA, os.open(program, os.O_RDONLY))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        (result,) = verdict(inquirer)
    assert result.verdict is Verdict.UNKNOWN
    assert asking.results() == {"unknown": 1, "garbage": inquirer_module.MAX_ATTEMPTS}
    assert not server.uploads


def test_file_is_not_uploaded_when_it_is_too_large(
    server: VirusTotalServer, tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquirer_module, "MAX_FILE_BYTES", 1000)
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    asking.inquirer.held.offer(SHA, os.open(program, os.O_RDONLY))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        assert verdict(inquirer)[0].verdict is Verdict.UNKNOWN
    assert asking.results() == {"unknown": 1}


def test_upload_is_broken_off_when_the_file_was_changed(
    server: VirusTotalServer, tmp_path: Path, program: Path
) -> None:
    asking = Asking(tmp_path, server.url, uploads=True)
    assert asking.inquirer.held is not None
    asking.inquirer.held.offer(SHA, os.open(program, os.O_RDONLY))
    program.write_bytes(CONTENT[:-1] + b"?")
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        assert verdict(inquirer)[0].verdict is Verdict.UNKNOWN
        wait_until(lambda: "incomplete" in server.uploads)
    assert asking.results() == {"unknown": 1, "modified": 1}
    assert set(server.uploads) == {"incomplete"}


REPORT = (
    b'{"data": {"type": "file", "id": "%s", "attributes": {"last_analysis_stats":'
    b' {"malicious": 1, "suspicious": 0, "harmless": 0, "undetected": 0}}}}' % SHA.encode()
)
WRONG: list[tuple[str, tuple[int, bytes, dict[str, str]]]] = [
    ("bad_key", (401, error("WrongCredentialsError"), {})),
    ("bad_key", (403, error("ForbiddenError"), {})),
    ("quota", (429, error("QuotaExceededError"), {})),
    ("quota", (429, error("TooManyRequestsError"), {"Retry-After": "0"})),
    ("server_error", (503, error("TransientError"), {})),
    ("server_error", (500, b"<html>", {})),
    ("refused", (400, error("BadRequestError"), {})),
    ("refused", (404, b"<html>Please log in</html>", {})),
    ("refused", (404, b'{"error": {"code": "PortalError"}}', {})),
    ("garbage", (200, b"<html>Please log in</html>", {})),
    ("garbage", (302, b"", {"Location": "http://127.0.0.1:1/"})),
    ("garbage", (200, b"", {})),
    ("garbage", (200, b"[]", {})),
    ("garbage", (200, b"[" * 100_000, {})),
    ("garbage", (200, REPORT + b" " * 2**21, {})),
    ("garbage", (200, b'{"data": {"type": "file"}}', {})),
    ("garbage", (200, b'{"data": {"type": "file"}}', {"Content-Length": "9999"})),
]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(("expected", "answer"), WRONG)
def test_verdict_comes_later_when_an_answer_is_wrong(
    server: VirusTotalServer,
    tmp_path: Path,
    expected: str,
    answer: tuple[int, bytes, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace_module, "BAD_KEY_SECONDS", 0.01)
    server.add(SHA)
    server.answers.append(answer)
    asking = Asking(tmp_path, server.url)
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        assert verdict(inquirer)[0].verdict is Verdict.CLEAN
    assert asking.results() == {expected: 1, "found": 1}
    assert len(server.requests) == 2


@pytest.mark.usefixtures("_impatient")
def test_report_is_not_believed_when_it_is_about_another_file(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    server.add(OTHER, malicious=9)
    with serve() as other, Asking(tmp_path, server.url) as inquirer:
        other.add(OTHER)
        inquirer.ask(OTHER, "x")
        assert verdict(inquirer)[0].verdict is Verdict.MALICIOUS
        body = b'{"data": {"type": "file", "id": "%s", "attributes": {}}}' % OTHER.encode()
        server.answers.extend([(200, body, {})] * inquirer_module.MAX_ATTEMPTS)
        inquirer.ask(SHA, "x")
        server.wait_for_requests(1 + inquirer_module.MAX_ATTEMPTS)
        wait_until(lambda: not inquirer._questions)
        assert inquirer.take_answers() == ()
        # It is left alone for a while, instead of being asked about again and again.
        assert inquirer.ask(SHA, "x")
        assert not inquirer._questions


@pytest.mark.usefixtures("_impatient")
def test_request_ends_when_the_server_hangs(
    server: VirusTotalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virustotal_module, "REQUEST_SECONDS", 0.2)
    server.hangs.set()
    asking = Asking(tmp_path, server.url)
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        server.wait_for_requests(2)
    assert asking.results()["timeout"] >= 1


def test_request_ends_when_the_answer_only_drips() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        stop = threading.Event()

        def drip() -> None:
            connection, _address = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"X")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(RequestError) as caught:
            Client(socket_seconds=5).request("GET", f"http://127.0.0.1:{port}/", total_seconds=0.3)
        stop.set()
        thread.join()
    assert caught.value.result == "timeout"
    assert time.monotonic() - begun < 3


@contextmanager
def endless_proxy() -> Iterator[tuple[str, threading.Event]]:
    """A proxy whose answer to CONNECT has no end; its URL, and whether it has begun."""
    begun, stop = threading.Event(), threading.Event()

    def drip() -> None:
        connection, _address = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            begun.set()
            while not stop.wait(0.02):
                connection.sendall(b"a: b\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", begun
        stop.set()
        thread.join()


def failure(client: Client, *, total_seconds: float) -> tuple[threading.Thread, list[str]]:
    """A thread with a request over TLS, and how it comes to fail."""
    results: list[str] = []

    def request() -> None:
        try:
            client.request("GET", "https://vt.example/", total_seconds=total_seconds)
        except RequestError as error:
            results.append(error.result)

    thread = threading.Thread(target=request)
    thread.start()
    return thread, results


def test_request_ends_when_the_proxy_only_drips() -> None:
    with endless_proxy() as (url, _begun):
        thread, results = failure(Client(proxy_url=url, socket_seconds=20), total_seconds=0.3)
        thread.join(10)
        assert results == ["timeout"]


def test_request_ends_when_it_is_aborted_in_a_proxy() -> None:
    with endless_proxy() as (url, begun):
        client = Client(proxy_url=url, socket_seconds=20)
        thread, results = failure(client, total_seconds=60)
        assert begun.wait(10)
        client.abort()
        thread.join(10)
        assert len(results) == 1
    with pytest.raises(RequestError) as caught:
        client.request("GET", url, total_seconds=60)
    assert caught.value.result == "timeout"


def is_connecting(sock: socket.socket | None) -> bool:
    """Whether it is in the state TCP_SYN_SENT (tcp(7), TCP_INFO)."""
    return sock is not None and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x02"


@pytest.mark.parametrize("is_aborted", [False, True])
def test_request_ends_when_nobody_takes_the_connection(*, is_aborted: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as waiting:
        # As many as wait there: the next one gets no answer at all.
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.settimeout(0)
            sock.connect_ex(listening.getsockname())
        proxy = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client = Client(proxy_url=proxy, socket_seconds=20)
        thread, results = failure(client, total_seconds=60 if is_aborted else 0.3)
        if is_aborted:
            wait_until(lambda: is_connecting(client._under_way))
            client.abort()
        thread.join(10)
        assert len(results) == 1


@pytest.mark.usefixtures("_impatient")
def test_nothing_is_believed_when_nobody_listens(tmp_path: Path) -> None:
    asking = Asking(tmp_path, "http://127.0.0.1:1/api/v3")
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        wait_until(lambda: asking.results().get("unreachable", 0) >= 2)
        assert inquirer.take_answers() == ()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=vt"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.usefixtures("_impatient")
def test_key_is_not_sent_when_the_certificate_is_not_trusted(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serve(context) as server:
        asking = Asking(tmp_path, server.url)
        with asking as inquirer:
            inquirer.ask(SHA, "x")
            wait_until(lambda: asking.results().get("tls", 0) >= 1)
        assert not server.requests


def test_verdict_is_given_over_tls_when_the_certificate_is_trusted(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with serve(context) as server:
        server.add(SHA)
        client = Client(context=trusting)
        with Asking(tmp_path, server.url, client=client) as inquirer:
            inquirer.ask(SHA, "x")
            assert verdict(inquirer)[0].verdict is Verdict.CLEAN


def test_proxy_gets_the_request_when_one_is_set(server: VirusTotalServer, tmp_path: Path) -> None:
    server.add(SHA)
    proxy = server.url.removesuffix("/api/v3").replace("http://", "http://me:se%20cret@")
    asking = Asking(tmp_path, "http://vt.example/api/v3", client=Client(proxy_url=proxy))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        assert verdict(inquirer)[0].verdict is Verdict.CLEAN
    (request,) = server.requests
    assert request.path == f"http://vt.example/api/v3/files/{SHA}"
    assert request.headers["Proxy-Authorization"] == "Basic bWU6c2UgY3JldA=="


@pytest.mark.usefixtures("_impatient")
def test_key_does_not_reach_the_proxy_when_the_way_is_a_tunnel(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    proxy = server.url.removesuffix("/api/v3")
    asking = Asking(tmp_path, "https://vt.example/api/v3", client=Client(proxy_url=proxy))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        wait_until(lambda: asking.results().get("unreachable", 0) >= 1)
    assert server.requests[0].path == "vt.example:443"
    assert not any(KEY in str(request.headers) for request in server.requests)


def test_limit_is_kept_when_there_are_many_questions(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    with Asking(tmp_path, server.url, limit=0.2) as inquirer:
        for number in range(3):
            inquirer.ask(Sha256(f"{number:064x}"), "x")
        verdict(inquirer, 3)
    times = [request.time for request in server.requests]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) > 0.1


def test_limit_is_kept_when_the_process_is_started_anew(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    with Asking(tmp_path, server.url, limit=0.5) as inquirer:
        inquirer.ask(SHA, "x")
        verdict(inquirer)
    with Asking(tmp_path, server.url, limit=0.5) as inquirer:
        inquirer.ask(OTHER, "x")
        verdict(inquirer)
    assert server.requests[1].time - server.requests[0].time > 0.3


@pytest.mark.parametrize(
    ("expected", "known", "age_days"),
    [
        (1, Verdict.UNKNOWN, 8),
        (1, Verdict.CLEAN, 8),
        (1, Verdict.PENDING, 1),
        (0, Verdict.CLEAN, 6),
        (0, Verdict.MALICIOUS, 800),
    ],
)
def test_question_is_asked_again_when_the_answer_is_old(
    server: VirusTotalServer, tmp_path: Path, expected: int, known: Verdict, age_days: int
) -> None:
    server.add(OTHER)
    then = time.time() - age_days * 86_400
    result = VirusTotalResult(verdict=known, checked_seconds=then)
    before = KnownVerdict(sha256=SHA, exe="x", result=result)
    with Asking(tmp_path, server.url, verdicts=(before,)) as inquirer:
        inquirer.ask(SHA, "x")
        inquirer.ask(OTHER, "x")
        verdict(inquirer, 1 + expected)
    assert expected == sum(SHA in request.path for request in server.requests)


def test_thread_ends_at_once_when_a_request_is_under_way(
    server: VirusTotalServer, tmp_path: Path
) -> None:
    server.hangs.set()
    asking = Asking(tmp_path, server.url, client=Client(socket_seconds=20))
    with asking as inquirer:
        inquirer.ask(SHA, "x")
        server.wait_for_requests(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1.5
    assert not inquirer._thread.is_alive()


@pytest.mark.usefixtures("_impatient")
def test_key_is_in_no_message_when_requests_fail(
    server: VirusTotalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers.extend(answer for _result, answer in WRONG[2:])
    asking = Asking(tmp_path, server.url)
    with asking as inquirer:
        for number in range(20):
            inquirer.ask(Sha256(f"{number:064x}"), "x")
        verdict(inquirer, 5)
    assert "virustotal_failed" in caplog.text
    assert KEY not in caplog.text
    assert KEY not in (tmp_path / "virustotal.next").read_text()


class Table:
    """What several hosts share, without a server (see test_shared_verdicts)."""

    def __init__(self) -> None:
        self.verdicts: dict[str, VirusTotalResult] = {}
        self.claims: set[str] = set()
        self.lock = threading.Lock()

    def find(self, sha256: Sha256) -> VirusTotalResult | None:
        return self.verdicts.get(sha256)

    def claim(self, sha256: Sha256) -> bool:
        with self.lock:
            is_first = sha256 not in self.claims
            self.claims.add(sha256)
            return is_first

    def tell(self, known: KnownVerdict) -> None:
        self.verdicts[known.sha256] = known.result

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("_impatient")
def test_fleet_asks_once_when_it_shares_verdicts(server: VirusTotalServer, tmp_path: Path) -> None:
    server.add(SHA, suspicious=1)
    table = Table()
    fleet = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        fleet.append(Asking(folder, server.url, shared=table))
    for asking in fleet:
        asking.inquirer.start()
        asking.inquirer.ask(SHA, "x")
    for asking in fleet:
        assert verdict(asking.inquirer)[0].verdict is Verdict.SUSPICIOUS
        asking.inquirer.close()
        assert not asking.failures
    assert len(server.requests) == 1


def test_openssl_is_there() -> None:
    assert shutil.which("openssl"), "apt-get install openssl"
