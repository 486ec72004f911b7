"""OTLP at a receiver that somebody else wrote: rotel's agent passes on what it understood."""

import contextlib
import importlib.util
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from picosnitch_exporter.config.otel import OtlpPlan, plan
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.logs import LogMapping
from picosnitch_exporter.outputs.otlp.mapping import Mapping
from picosnitch_exporter.outputs.otlp.resource import detect
from picosnitch_exporter.outputs.otlp.sender import log_sender, metric_sender
from picosnitch_exporter.settings import OtlpSettings
from tests.log_samples import row
from tests.otlp_receivers import DEADLINE_SECONDS, Receiver, http_receiver, plain, points, values
from tests.unit.snapshots import large_snapshot

RESOURCE = detect({}, version="1.2.3", instance="")
SCOPE = instrumentation_scope("1.2.3")
SUCCESS = Answer(result=Result.SUCCESS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Takes OTLP at both ports and passes it on to the receiver."""

    ports: dict[str, int]
    receiver: Receiver

    def plan(self, protocol: str) -> OtlpPlan:
        endpoint = f"http://127.0.0.1:{self.ports[protocol]}"
        made = plan(OtlpSettings(endpoint=endpoint, protocol=protocol, logs=True), {})
        assert made is not None
        return made


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at {port}"
        else:
            return


@contextlib.contextmanager
def running_agent(folder: Path) -> Iterator[Agent]:
    spec = importlib.util.find_spec("rotel")
    assert spec is not None, "pip install -e '.[test]'"
    assert spec.origin is not None
    ports = {"http/protobuf": free_port(), "grpc": free_port()}
    with http_receiver() as receiver:
        command = (
            Path(spec.origin).with_name("rotel-agent"), "start",
            "--otlp-http-endpoint", f"127.0.0.1:{ports['http/protobuf']}",
            "--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}",
            "--exporter", "otlp", "--otlp-exporter-protocol", "http",
            "--otlp-exporter-endpoint", receiver.url,
            "--pid-file", folder / "pid", "--log-file", folder / "log",
        )  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                for port in ports.values():
                    wait_for_port(port)
                yield Agent(ports=ports, receiver=receiver)
            finally:
                process.kill()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with running_agent(tmp_path) as running:
        yield running


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_foreign_receiver_understands_every_point(agent: Agent, protocol: str) -> None:
    target = agent.plan(protocol).metrics
    assert target is not None
    sender = metric_sender(target)
    batches = list(Mapping(resource=RESOURCE, scope=SCOPE).batches(large_snapshot(6_000)))
    expected = sum(batch.points for batch in batches)

    assert [sender.send(batch.data) for batch in batches] == [SUCCESS] * len(batches)

    got = agent.receiver.wait(lambda got: len(list(points(got))) >= expected)
    assert len(values(got)) == expected == 6_000 + 4 * 1_500
    io = [value for (name, _of), value in values(got).items() if name == "process.network.io"]
    assert sum(io) == 2 * sum(one * 1_234_567 for one in range(1_500))
    sender.close()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_foreign_receiver_understands_every_record(agent: Agent, protocol: str) -> None:
    target = agent.plan(protocol).logs
    assert target is not None
    sender = log_sender(target)
    mapping = LogMapping(resource=RESOURCE, scope=SCOPE)
    rows = tuple(row(send=number) for number in range(100))
    (batch,) = mapping.batches(rows, max_records=1_000, max_bytes=10**6)

    assert sender.send(batch) == SUCCESS

    (got,) = agent.receiver.wait_for_requests(1)
    assert isinstance(got.request, ExportLogsServiceRequest)
    (resource,) = got.request.resource_logs
    assert plain(resource.resource.attributes)["service.name"] == "picosnitch-exporter"
    records = resource.scope_logs[0].log_records
    sent = [plain(record.attributes)["picosnitch.transmit.bytes"] for record in records]
    assert sent == list(range(100))
    assert plain(records[0].attributes)["destination.port"] == 443
    assert {record.event_name for record in records} <= {"picosnitch.connection", ""}
    sender.close()
