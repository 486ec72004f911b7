"""Answers of receivers that mean harm, over plain sockets: as long and as slow as they like."""

import contextlib
import gzip
import itertools
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricsData

from picosnitch_exporter.config.otel import OtlpTarget
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.sender import metric_sender

DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.1
NOTHING = MetricsData(resource_metrics=[])
OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1 << 20


class Receiver:
    """Answers each request of a connection with the next pieces, and sees what it was sent."""

    def __init__(
        self,
        *answers: Iterable[bytes],
        pause_seconds: float = 0.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._answers = iter(answers)
        self._pause_seconds = pause_seconds
        self._context = context
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.heads: list[bytes] = []
        self.connections = 0
        self.sent_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def send(self, *, timeout_seconds: float = DEADLINE_SECONDS, times: int = 1) -> list[Answer]:
        """What becomes of an export to it."""
        scheme = "http" if self._context is None else "https"
        sender = metric_sender(
            OtlpTarget(
                url=f"{scheme}://localhost:{self._listener.getsockname()[1]}/v1/metrics",
                is_grpc=False,
                headers=(),
                timeout_seconds=timeout_seconds,
                is_compressed=False,
                certificate=Path("ca.pem") if self._context else None,
                client_certificate=None,
                client_key=None,
            )
        )
        try:
            return [sender.send(NOTHING) for _ in range(times)]
        finally:
            sender.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(OSError):
                accepted, _address = self._listener.accept()
                accepted.settimeout(DEADLINE_SECONDS)
                self.connections += 1
                with self._spoken(accepted) as connection:
                    for answer in self._answers:
                        if not self._answer(connection, answer):
                            break

    def _spoken(self, accepted: socket.socket) -> socket.socket:
        if self._context is None:
            return accepted
        return self._context.wrap_socket(accepted, server_side=True)

    def _answer(self, connection: socket.socket, pieces: Iterable[bytes]) -> bool:
        # An export of nothing has no body.
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            some = connection.recv(65536)
            if not some:
                return False
            received += some
        self.heads.append(received)
        for piece in pieces:
            connection.sendall(piece)
            self.sent_bytes += len(piece)
            if self._ending.wait(self._pause_seconds):
                return False
        return True


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.chdir(tmp_path)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ("openssl", "req", "-x509", *key, "-out", "ca.pem", *names, "-days", "2")
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("ca.pem", "ca.key")
    return context


def drops(begin: bytes, drop: bytes) -> Iterator[bytes]:
    """An answer that takes six seconds."""
    return itertools.chain([begin], itertools.repeat(drop, int(6 / PAUSE_SECONDS)))


def whole(content: bytes, *headers: bytes) -> list[bytes]:
    """An answer with its length."""
    length = b"Content-Length: %d" % len(content)
    return [OK + b"\r\n".join([length, *headers, b"", content])]


DROPS = {
    "status line": (b"HTTP/1.1 ", b"2"),
    "headers": (OK, b"a"),
    "informational answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (OK + b"Content-Length: 1000\r\n\r\n", b"a"),
    "body without a length": (OK + b"\r\n", b"a"),
    "size of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "trailer": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a"),
}


@pytest.mark.parametrize("place", DROPS)
def test_request_ends_with_the_time_out_when_the_answer_comes_in_drops(place: str) -> None:
    with Receiver(drops(*DROPS[place]), pause_seconds=PAUSE_SECONDS) as receiver:
        began = time.monotonic()
        (answer,) = receiver.send(timeout_seconds=0.5)
        assert time.monotonic() - began < 3
    assert answer.result is Result.UNAVAILABLE


def test_request_ends_with_the_time_out_when_drops_come_over_tls(tls: ssl.SSLContext) -> None:
    pieces = drops(*DROPS["body"])
    with Receiver(pieces, pause_seconds=PAUSE_SECONDS, context=tls) as receiver:
        began = time.monotonic()
        (answer,) = receiver.send(timeout_seconds=0.5)
        assert time.monotonic() - began < 3
    assert answer.result is Result.UNAVAILABLE


def test_rest_is_not_read_when_an_answer_is_too_long() -> None:
    endless = [OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB), *[bytes(MIB)] * 64]
    with Receiver(endless, whole(b"")) as receiver:
        answers = receiver.send(times=2)
        assert receiver.sent_bytes < 32 * MIB  # what the buffers of both sockets hold
        assert receiver.connections == 2
    assert answers == [Answer(result=Result.SUCCESS)] * 2


def test_answer_is_not_unpacked_when_it_is_packed_without_being_asked() -> None:
    bomb = gzip.compress(bytes(32 * MIB))
    with Receiver(whole(bomb, b"Content-Encoding: gzip")) as receiver:
        tracemalloc.start()
        try:
            (answer,) = receiver.send()
            _now, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer == Answer(result=Result.SUCCESS)
    assert peak_bytes < 16 * MIB
    assert b"\r\nAccept-Encoding: identity\r\n" in receiver.heads[0]


@pytest.mark.parametrize("is_tls", [False, True])
def test_connection_is_used_again_when_answers_are_whole(
    request: pytest.FixtureRequest, *, is_tls: bool
) -> None:
    partial = ExportMetricsServiceResponse()
    partial.partial_success.rejected_data_points = 3
    content = partial.SerializeToString()
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    context = request.getfixturevalue("tls") if is_tls else None
    with Receiver(whole(content), [OK + chunked], whole(b""), context=context) as receiver:
        answers = receiver.send(times=3)
        assert receiver.connections == 1
    assert [answer.rejected for answer in answers] == [3, 3, 0]
