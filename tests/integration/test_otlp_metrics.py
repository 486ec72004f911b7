"""Metrics at receivers over HTTP and gRPC, with and without TLS, willing and unwilling."""

import contextlib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from prometheus_client.parser import text_string_to_metric_families

from picosnitch_exporter.config.otel import OtlpTarget, plan
from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.mapping import Limits, Mapping
from picosnitch_exporter.outputs.otlp.resource import detect
from picosnitch_exporter.outputs.otlp.sender import metric_sender
from picosnitch_exporter.outputs.prometheus import Exposition
from picosnitch_exporter.settings import OtlpSettings
from picosnitch_exporter.state.health import Health
from tests.otlp_receivers import (
    Receiver,
    Reply,
    grpc_receiver,
    http_receiver,
    plain,
    points,
    values,
)
from tests.unit.snapshots import (
    CREATED_SECONDS,
    column,
    executable,
    labels,
    large_snapshot,
    snapshot,
)

RESOURCE = detect({}, version="1.2.3", instance="")
MAPPING = Mapping(resource=RESOURCE, scope=instrumentation_scope("1.2.3"))
SMALL = snapshot(transmit=column([(labels(executable(1)), 42)]))
NS = 10**9


def target_of(settings: OtlpSettings) -> OtlpTarget:
    made = plan(settings, {})
    assert made is not None
    assert made.metrics is not None
    return made.metrics


class Link:
    """A receiver, and what sends to it."""

    def __init__(self, receiver: Receiver, settings: OtlpSettings) -> None:
        self.receiver = receiver
        self.target = target_of(replace(settings, endpoint=receiver.url))
        self.sender = metric_sender(self.target)

    def send(self, one: Snapshot) -> list[Answer]:
        return [self.sender.send(batch.data) for batch in MAPPING.batches(one)]

    def send_small(self) -> Answer:
        (answer,) = self.send(SMALL)
        return answer


@contextlib.contextmanager
def linked(protocol: str, settings: OtlpSettings | None = None) -> Iterator[Link]:
    receivers: dict[str, Callable[[], contextlib.AbstractContextManager[Receiver]]] = {
        "http/protobuf": http_receiver,
        "grpc": grpc_receiver,
    }
    with receivers[protocol]() as receiver:
        link = Link(receiver, replace(settings or OtlpSettings(), protocol=protocol))
        try:
            yield link
        finally:
            link.sender.close()


@pytest.fixture(params=["http/protobuf", "grpc"])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    with linked(request.param) as made:
        yield made


def test_receiver_decodes_what_the_snapshot_holds(link: Link) -> None:
    one = large_snapshot(1_000)

    answers = link.send(one)

    assert answers == [Answer(result=Result.SUCCESS)]
    got = link.receiver.got
    request = got[0].request
    assert isinstance(request, ExportMetricsServiceRequest)
    (resource,) = request.resource_metrics
    (scope,) = resource.scope_metrics
    assert plain(resource.resource.attributes) == dict(RESOURCE.attributes)
    assert (scope.scope.name, scope.scope.version) == ("picosnitch_exporter", "1.2.3")
    assert resource.schema_url == scope.schema_url != ""
    names = {metric.name: metric for metric in scope.metrics}
    assert names["process.network.io"].unit == "By"
    assert names["process.network.io"].sum.is_monotonic
    assert names["process.network.io"].sum.aggregation_temporality == (
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    assert len(list(points(got))) == 1_000 + 4 * 250
    for name, point in points(got):
        assert point.time_unix_nano == int(one.time_seconds * NS)
        if names[name].WhichOneof("data") == "sum":
            assert point.start_time_unix_nano == int(CREATED_SECONDS * NS)


def test_values_equal_those_of_a_scrape_of_the_same_snapshot(link: Link) -> None:
    one = large_snapshot(1_000)
    text = b"".join(
        Exposition(with_workload_labels=False).render(one, Health(), openmetrics=False)
    ).decode()
    scraped: dict[tuple[object, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("picosnitch_network_"):
                direction = "transmit" if "transmit" in sample.name else "receive"
                label = sample.labels
                key = (direction, label["sha256"], label["exe"], label["protocol"], label["scope"])
                scraped[key] = sample.value

    link.send(large_snapshot(1_000))

    found = {}
    for (name, attributes), value in values(link.receiver.got).items():
        if name == "process.network.io":
            of = dict(attributes)
            found[
                of["network.io.direction"],
                of["picosnitch.executable.sha256"],
                of["process.executable.path"],
                of["network.transport"],
                of["picosnitch.peer.scope"],
            ] = value
    assert found == scraped
    assert len(found) == 500


def test_requests_stay_below_the_limit_of_receivers_when_there_are_many_points(
    link: Link,
) -> None:
    long = snapshot(
        transmit=column(
            [(labels(executable(one, exe="/" + "é" * 2_000)), one) for one in range(3_000)]
        )
    )

    answers = link.send(long)

    assert {answer.result for answer in answers} == {Result.SUCCESS}
    assert len(answers) > 1
    assert max(got.size_bytes for got in link.receiver.got) < 4 * 1024 * 1024
    assert len(values(link.receiver.got)) == 3_000


def test_headers_and_compression_are_those_of_the_settings() -> None:
    settings = OtlpSettings(
        headers=(("authorization", "Bearer abc"), ("x-scope", "a,b")), compression="gzip"
    )
    for protocol in ("http/protobuf", "grpc"):
        with linked(protocol, settings) as link:
            link.send(large_snapshot(1_000))
            (got,) = link.receiver.got

        assert got.headers["authorization"] == "Bearer abc"
        assert got.headers["x-scope"] == "a,b"
        assert len(values([got])) == 2_000
        if protocol == "http/protobuf":
            assert got.headers["content-encoding"] == "gzip"
            assert got.size_bytes * 5 < got.request.ByteSize()


def test_partial_success_is_told_when_some_points_are_rejected(link: Link) -> None:
    body = ExportMetricsServiceResponse()
    body.partial_success.rejected_data_points = 3
    body.partial_success.error_message = "too old"
    link.receiver.answer(Reply(body=body))

    assert link.send_small() == Answer(result=Result.PARTIAL, rejected=3, reason="too old")


@pytest.mark.parametrize(
    ("protocol", "reply", "result"),
    [
        ("http/protobuf", Reply(status=400), Result.REFUSED),
        ("http/protobuf", Reply(status=401), Result.DENIED),
        ("http/protobuf", Reply(status=302, headers={"location": "/login"}), Result.DENIED),
        ("http/protobuf", Reply(status=413), Result.TOO_LARGE),
        ("http/protobuf", Reply(status=503, headers={"retry-after": "90"}), Result.UNAVAILABLE),
        ("grpc", Reply(status="INVALID_ARGUMENT"), Result.REFUSED),
        ("grpc", Reply(status="UNAUTHENTICATED"), Result.DENIED),
        ("grpc", Reply(status="UNIMPLEMENTED"), Result.DENIED),
        ("grpc", Reply(status="UNAVAILABLE", retry_delay_seconds=90), Result.UNAVAILABLE),
    ],
)
def test_refusal_is_final_for_the_batch_when_the_receiver_means_it(
    protocol: str, reply: Reply, result: Result
) -> None:
    with linked(protocol) as link:
        link.receiver.answer(reply)
        answer = link.send_small()

        assert answer.result is result
        assert answer.reason.startswith(str(reply.status))
        assert answer.retry_after_seconds == (90 if result is Result.UNAVAILABLE else 0)
        assert len(link.receiver.got) == 1
        assert link.send_small().result is Result.SUCCESS


@pytest.mark.parametrize(
    ("protocol", "replies"),
    [
        (
            "http/protobuf",
            (
                Reply(status=503),
                Reply(status=429, headers={"retry-after": "1"}),
            ),
        ),
        ("grpc", (Reply(status="UNAVAILABLE"), Reply(status="ABORTED", retry_delay_seconds=1))),
    ],
)
def test_batch_arrives_when_the_receiver_is_ready_again(
    protocol: str, replies: tuple[Reply, ...]
) -> None:
    with linked(protocol) as link:
        link.receiver.answer(*replies)

        assert link.send_small() == Answer(result=Result.SUCCESS)
        seconds = [got.seconds for got in link.receiver.got]
        assert len(seconds) == 3
        assert seconds[2] - seconds[1] >= 1.0


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_attempts_end_with_the_time_out_when_nobody_is_there(protocol: str) -> None:
    with linked(protocol) as link:
        url = link.receiver.url
    settings = OtlpSettings(endpoint=url, protocol=protocol, timeout_seconds=1)
    sender = metric_sender(target_of(settings))
    (batch,) = MAPPING.batches(SMALL)

    began = time.monotonic()
    answer = sender.send(batch.data)

    assert answer.result is Result.UNAVAILABLE
    assert answer.reason
    assert time.monotonic() - began < 3
    sender.close()


def test_request_ends_with_the_time_out_when_the_receiver_hangs() -> None:
    for protocol in ("http/protobuf", "grpc"):
        with linked(protocol, OtlpSettings(timeout_seconds=1)) as link:
            released = threading.Event()
            link.receiver.answer(*[Reply(waits_for=released)] * 4)
            began = time.monotonic()

            assert link.send_small().result is Result.UNAVAILABLE
            assert time.monotonic() - began < 3
            released.set()


def test_request_ends_with_the_deadline_when_the_exporter_stops() -> None:
    for protocol in ("http/protobuf", "grpc"):
        with linked(protocol, OtlpSettings(timeout_seconds=600)) as link:
            released = threading.Event()
            link.receiver.answer(*[Reply(waits_for=released)] * 4)
            link.sender.end_by(0.3)
            closer = threading.Timer(1.0, link.sender.close)
            closer.start()
            began = time.monotonic()

            assert link.send_small().result is Result.UNAVAILABLE
            assert time.monotonic() - began < 4
            released.set()
            closer.join()


def test_grpc_tells_a_message_that_is_too_large_from_throttling() -> None:
    large = snapshot(
        transmit=column([(labels(executable(one, exe="/" * 9_000)), 1) for one in range(500)])
    )
    with linked("grpc") as link:
        (batch,) = MAPPING.batches(large, Limits(size_bytes=10**9))
        assert link.sender.send(batch.data).result is Result.TOO_LARGE
        assert link.receiver.got == []

    with linked("grpc", OtlpSettings(timeout_seconds=1)) as link:
        link.receiver.answer(*[Reply(status="RESOURCE_EXHAUSTED")] * 4)
        assert link.send_small().result is Result.UNAVAILABLE


def test_answer_that_is_no_protobuf_counts_as_success() -> None:
    with linked("http/protobuf") as link:
        link.receiver.answer(Reply(body=b"\xff{}"), Reply(body=b"<html>"))

        assert [link.send_small().result, link.send_small().result] == [Result.SUCCESS] * 2


class Authority:
    """A certificate authority, a server at localhost and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        out = ("-keyout", "ca.key", "-out", "ca.pem")
        self._run("req", "-x509", *key, *out, "-subj", "/CN=ca", "-days", "2")
        by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        for name, extension in (("server", "subjectAltName=DNS:localhost"), ("client", "")):
            out = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
            self._run("req", *key, *out, "-subj", f"/CN={name}")
            (folder / "extension").write_text(extension)
            of = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "extension")
            self._run("x509", "-req", *by, *of)

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    @contextlib.contextmanager
    def receiver(self, protocol: str) -> Iterator[Receiver]:
        """One that lets in only who shows a certificate."""
        if protocol == "grpc":
            credentials = grpc.ssl_server_credentials(
                [(self.read("server.key"), self.read("server.pem"))],
                root_certificates=self.read("ca.pem"),
                require_client_auth=True,
            )
            with grpc_receiver(credentials) as receiver:
                yield receiver
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        with http_receiver(context) as receiver:
            yield receiver


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_certificates_are_shown_when_the_receiver_asks_for_them(
    protocol: str, authority: Authority
) -> None:
    settings = OtlpSettings(
        protocol=protocol,
        timeout_seconds=2,
        certificate=authority.folder / "ca.pem",
        client_certificate=authority.folder / "client.pem",
        client_key=authority.folder / "client.key",
    )
    with authority.receiver(protocol) as receiver:
        link = Link(receiver, settings)
        assert link.send_small().result is Result.SUCCESS
        link.sender.close()

        without = Link(receiver, replace(settings, client_certificate=None, client_key=None))
        assert without.send_small().result is Result.UNAVAILABLE
        without.sender.close()

        stranger = Link(receiver, replace(settings, certificate=None))
        assert stranger.send_small().result is Result.UNAVAILABLE
        stranger.sender.close()


def test_message_says_what_to_install_when_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    module = "picosnitch_exporter.outputs.otlp.grpc_transport"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr("picosnitch_exporter.outputs.otlp.grpc_transport", raising=False)
    target = target_of(OtlpSettings(endpoint="http://localhost:1", protocol="grpc"))

    with pytest.raises(RequirementError, match=r"pip install 'picosnitch-exporter\[otlp-grpc\]'"):
        metric_sender(target)
