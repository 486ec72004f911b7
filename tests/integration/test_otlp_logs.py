"""The connection log at receivers over HTTP and gRPC, by the log's writer and its outbox."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.config.otel import plan
from picosnitch_exporter.log.batches import decode_rows, encode_rows
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.writer import LogWriter
from picosnitch_exporter.outputs.otlp.output import OtlpOutput
from picosnitch_exporter.settings import LogSettings, OtlpSettings
from picosnitch_exporter.state.health import Health
from tests.log_samples import commit, row
from tests.otlp_receivers import Got, Receiver, Reply, grpc_receiver, http_receiver, plain
from tests.unit.snapshots import snapshot

UNAVAILABLE: dict[str, int | str] = {"http/protobuf": 503, "grpc": "UNAVAILABLE"}
REFUSED: dict[str, int | str] = {"http/protobuf": 400, "grpc": "INVALID_ARGUMENT"}


class Bench:
    """A receiver, and a log that sends to it."""

    def __init__(self, storage: Path, protocol: str, receiver: Receiver) -> None:
        self.storage = storage
        self.protocol = protocol
        self.receiver = receiver
        self.health = Health()
        self.failures: list[BaseException] = []

    @contextlib.contextmanager
    def writer(self, *, log: LogSettings | None = None) -> Iterator[LogWriter]:
        settings = OtlpSettings(
            endpoint=self.receiver.url, protocol=self.protocol, logs=True, timeout_seconds=1
        )
        made = plan(settings, {"OTEL_METRICS_EXPORTER": "none"})
        assert made is not None
        output = OtlpOutput(
            made,
            environment={},
            snapshot=snapshot,
            health=self.health,
            failed=self.failures.append,
            encode_rows=encode_rows,
            decode_rows=decode_rows,
            version="1.2.3",
        )
        database = Database(self.storage / "snitch.db", boot_id="boot", retention_days=36_500)
        database.load()
        writer = LogWriter(
            database,
            settings=log or LogSettings(),
            storage=self.storage,
            health=self.health,
            committed=lambda _commit: None,
            failed=self.failures.append,
            otlp=output.courier,
        )
        writer.start()
        try:
            yield writer
        finally:
            writer.close(timeout_seconds=2)
            database.close()
        assert self.failures == []

    def value(self, metric: Metric, *labels: str) -> float:
        for family in self.health.collect():
            for reading in family.readings:
                if family.metric is metric and reading.labels == labels:
                    return reading.value
        return 0


@pytest.fixture(params=["http/protobuf", "grpc"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    receivers: dict[str, Callable[[], AbstractContextManager[Receiver]]] = {
        "http/protobuf": http_receiver,
        "grpc": grpc_receiver,
    }
    with receivers[request.param]() as receiver:
        yield Bench(tmp_path, request.param, receiver)


def sent(got: list[Got]) -> list[object]:
    """`picosnitch.transmit.bytes` of all records, by which the tests tell rows apart."""
    found: list[object] = []
    for one in got:
        assert isinstance(one.request, ExportLogsServiceRequest)
        for resource in one.request.resource_logs:
            assert plain(resource.resource.attributes)["service.name"] == "picosnitch-exporter"
            for scope in resource.scope_logs:
                found += [
                    plain(record.attributes)["picosnitch.transmit.bytes"]
                    for record in scope.log_records
                ]
    return found


def test_rows_arrive_in_their_order_when_windows_close(bench: Bench) -> None:
    with bench.writer() as writer:
        writer.submit(commit(row(send=1), row(send=2), segment=1))
        writer.submit(commit(row(send=3), segment=2))
        got = bench.receiver.wait(lambda got: len(sent(got)) == 3)

    assert sent(got) == [1, 2, 3]
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 3
    assert bench.value(catalog.LOG_ROWS_WAITING, "otlp") == 0


def test_nothing_is_sent_of_what_the_log_hides(bench: Bench) -> None:
    with bench.writer(log=LogSettings(addresses=False, commands=False, ports=False)) as writer:
        writer.submit(commit(row()))
        (got,) = bench.receiver.wait_for_requests(1)

    text = str(got.request)
    for hidden in ("93.184.216.34", "10.0.0.2", "com.example", "example.com", "50000", ".port"):
        assert hidden not in text


def test_rows_wait_on_the_disk_when_the_receiver_is_away(bench: Bench) -> None:
    bench.receiver.answer(*[Reply(status=UNAVAILABLE[bench.protocol])] * 3)
    with bench.writer() as writer:
        writer.submit(commit(row(send=1), segment=1))
        bench.receiver.wait_for_requests(1)
        writer.submit(commit(row(send=2), segment=2))
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 0
    while not bench.receiver.replies.empty():
        bench.receiver.replies.get()
    before = len(bench.receiver.got)

    with bench.writer():
        got = bench.receiver.wait(lambda got: len(sent(got[before:])) == 2)

    assert sent(got[before:]) == [1, 2]
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 2


def test_rest_comes_when_a_batch_is_refused(bench: Bench) -> None:
    partial = ExportLogsServiceResponse()
    partial.partial_success.rejected_log_records = 1
    bench.receiver.answer(Reply(status=REFUSED[bench.protocol]), Reply(body=partial))
    with bench.writer() as writer:
        writer.submit(commit(row(send=1), segment=1))
        bench.receiver.wait_for_requests(1)
        writer.submit(commit(row(send=2), row(send=3), segment=2))
        bench.receiver.wait_for_requests(2)
        writer.submit(commit(row(send=4), segment=3))
        got = bench.receiver.wait_for_requests(3)

    assert sent(got) == [1, 2, 3, 4]
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "refused") == 1
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "rejected") == 1
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 2
    assert bench.value(catalog.OTLP_EXPORTS, "partial") == 1
