"""The real exporter with OTLP: what a receiver gets of real traffic, and a receiver that hangs."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.kernel.exporter import Exporter
from tests.otlp_receivers import (
    Got,
    Receiver,
    Reply,
    grpc_receiver,
    http_receiver,
    plain,
    points,
)

SENT_BYTES = 54_321
CLIENT = f"""
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peer.sendall(b"x" * {SENT_BYTES})
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
"""
RECEIVERS: dict[str, Callable[[], AbstractContextManager[Receiver]]] = {
    "http/protobuf": http_receiver,
    "grpc": grpc_receiver,
}


@contextlib.contextmanager
def sink() -> Iterator[int]:
    """Reads all that one client sends; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _address = server.accept()
                with peer:
                    while peer.recv(65_536):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(10)


def send_from(program: Path) -> None:
    with sink() as port:
        subprocess.run([program, "-I", "-c", CLIENT, str(port)], check=True, timeout=60)


def transmitted(got: list[Got], path: str) -> list[int]:
    """Each value of the program's `process.network.io` that was sent."""
    metrics = [one for one in got if not isinstance(one.request, ExportLogsServiceRequest)]
    found = []
    for name, point in points(metrics):
        of = plain(point.attributes)
        if (
            name == "process.network.io"
            and of["process.executable.path"] == path
            and of["network.io.direction"] == "transmit"
            and of["network.transport"] == "tcp"
        ):
            found.append(point.as_int)
    return found


def rows(got: list[Got], path: str) -> list[dict[str, object]]:
    """Attributes of all records of the program."""
    found = []
    for one in got:
        if isinstance(one.request, ExportLogsServiceRequest):
            for record in one.request.resource_logs[0].scope_logs[0].log_records:
                attributes = plain(record.attributes)
                if attributes["process.executable.path"] == path:
                    found.append(attributes)
    return found


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An interpreter that is not that of anybody else, by its path."""
    copy = tmp_path / "otlp-client"
    shutil.copy(Path(sys.executable).resolve(), copy)
    return copy


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.usefixtures("privileges")
def test_receiver_gets_what_a_program_sent_when_it_sends(protocol: str, program: Path) -> None:
    path = str(program)
    with RECEIVERS[protocol]() as receiver:
        otlp = {
            "endpoint": receiver.url,
            "protocol": protocol,
            "interval_seconds": 1,
            "logs": True,
        }
        with Exporter.start({"otlp": otlp, "log": {"write_limit_seconds": 1}}):
            send_from(program)
            got = receiver.wait(lambda got: SENT_BYTES in transmitted(got, path))
            receiver.wait(lambda got: rows(got, path) != [])
        values = transmitted(receiver.got, path)
        records = rows(receiver.got, path)

    assert max(values) == values[-1] == SENT_BYTES
    assert got[0].request is not None
    assert sum(int(str(one["picosnitch.transmit.bytes"])) for one in records) == SENT_BYTES
    assert {one["destination.address"] for one in records} == {"127.0.0.1"}


@pytest.mark.usefixtures("privileges")
def test_last_export_has_all_when_the_interval_is_long(program: Path) -> None:
    with http_receiver() as receiver:
        otlp = {"endpoint": receiver.url, "interval_seconds": 3600}
        with Exporter.start({"otlp": otlp}):
            send_from(program)
            assert receiver.got == []

        assert transmitted(receiver.got, str(program)) == [SENT_BYTES]


@pytest.mark.usefixtures("privileges")
def test_exporter_stops_in_time_when_the_receiver_hangs() -> None:
    released = threading.Event()
    with http_receiver() as receiver:
        receiver.answer(*[Reply(waits_for=released)] * 10)
        otlp = {"endpoint": receiver.url, "interval_seconds": 1, "logs": True}
        with Exporter.start({"otlp": otlp, "log": {"write_limit_seconds": 1}}) as exporter:
            receiver.wait_for_requests(1)
            began = time.monotonic()
            exporter.stop(signal.SIGINT)
            took = time.monotonic() - began
        released.set()

    assert took < 5
