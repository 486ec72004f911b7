import queue
import threading
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.log.batches import decode_rows, encode_rows
from picosnitch_exporter.log.outbox import Batch
from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.courier import MAX_RECORDS, OtlpCourier
from picosnitch_exporter.outputs.otlp.logs import LogMapping
from picosnitch_exporter.state.health import Health
from tests.log_samples import commit, row

DEADLINE_SECONDS = 10.0
SUCCESS = Answer(result=Result.SUCCESS)
AWAY = Answer(result=Result.UNAVAILABLE, reason="503 Later")


class Sender:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.sent: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.is_closed = False

    def send(self, data: Sequence[ReadableLogRecord]) -> Answer:
        self.sent.put(len(data))
        assert self.may_answer.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        return self.answers.pop(0) if self.answers else SUCCESS

    def end_by(self, timeout_seconds: float) -> None:  # noqa: ARG002
        self.may_answer.set()

    def close(self) -> None:
        self.is_closed = True

    def next(self) -> int:
        return self.sent.get(timeout=DEADLINE_SECONDS)


class Bench:
    def __init__(self) -> None:
        self.sender = Sender()
        self.health = Health()
        self.arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.courier = OtlpCourier(
            sender=self.sender,
            mapping=LogMapping(resource=Resource({}), scope=instrumentation_scope("1")),
            encode=encode_rows,
            decode=decode_rows,
            health=self.health,
            first_retry_seconds=0.01,
        )

    def start(self) -> None:
        self.courier.start(self.arrived.put, self.failures.put)

    def bring(self, rows: int, key: bytes = b"k") -> None:
        body = self.courier.encode(commit(*[row() for _ in range(rows)]))
        self.courier.bring(Batch(number=1, key=key, rows=rows, body=body))

    def next_arrival(self) -> bytes:
        return self.arrived.get(timeout=DEADLINE_SECONDS)

    def value(self, metric: Metric, *labels: str) -> float:
        for family in self.health.collect():
            for reading in family.readings:
                if family.metric is metric and reading.labels == labels:
                    return reading.value
        return 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.start()
    yield made
    made.courier.close(timeout_seconds=DEADLINE_SECONDS)


def test_batch_has_arrived_when_all_its_rows_have(bench: Bench) -> None:
    bench.bring(2 * MAX_RECORDS + 1)

    assert bench.next_arrival() == b"k"
    assert [bench.sender.next() for _ in range(3)] == [MAX_RECORDS, MAX_RECORDS, 1]
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 2 * MAX_RECORDS + 1
    assert bench.value(catalog.OTLP_EXPORTS, "success") == 3


def test_rest_is_sent_again_when_the_receiver_was_away_in_between(bench: Bench) -> None:
    bench.sender.answers = [SUCCESS, AWAY, AWAY, Answer(result=Result.DENIED)]
    bench.bring(MAX_RECORDS + 1)

    assert bench.next_arrival() == b"k"
    assert [bench.sender.next() for _ in range(5)] == [MAX_RECORDS, 1, 1, 1, 1]
    assert bench.value(catalog.LOG_ERRORS, "otlp", "unavailable") == 2
    assert bench.value(catalog.LOG_ERRORS, "otlp", "denied") == 1
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == MAX_RECORDS + 1


def test_rows_are_dropped_and_counted_when_they_are_refused(bench: Bench) -> None:
    bench.sender.answers = [
        Answer(result=Result.REFUSED),
        Answer(result=Result.PARTIAL, rejected=2),
    ]
    bench.bring(MAX_RECORDS + 5)

    assert bench.next_arrival() == b"k"
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "refused") == MAX_RECORDS
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "rejected") == 2
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 3


def test_requests_become_smaller_when_they_are_too_large(bench: Bench) -> None:
    too_large = Answer(result=Result.TOO_LARGE)
    bench.sender.answers = [too_large, too_large, SUCCESS, too_large]
    bench.bring(4)

    assert bench.next_arrival() == b"k"
    # The second row is one that the receiver never takes.
    assert [bench.sender.next() for _ in range(6)] == [4, 2, 1, 1, 1, 1]
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "too_large") == 1
    assert bench.value(catalog.LOG_ROWS_WRITTEN, "otlp") == 3


def test_batch_is_dropped_when_it_can_not_be_read(bench: Bench) -> None:
    bench.courier.bring(Batch(number=1, key=b"k", rows=7, body=b"nonsense"))

    assert bench.next_arrival() == b"k"
    assert bench.value(catalog.LOG_ROWS_DROPPED, "otlp", "unreadable") == 7


def test_batch_stays_in_the_outbox_when_it_closes_before_it_arrived(bench: Bench) -> None:
    bench.sender.answers = [Answer(result=Result.UNAVAILABLE, retry_after_seconds=600)]
    bench.bring(1)
    bench.sender.next()

    bench.courier.close(timeout_seconds=DEADLINE_SECONDS)

    assert bench.arrived.empty()
    assert bench.failures.empty()
    assert bench.sender.is_closed


def test_batch_under_way_has_arrived_when_it_closes(bench: Bench) -> None:
    bench.sender.may_answer.clear()
    bench.bring(1)
    bench.sender.next()

    bench.courier.close(timeout_seconds=DEADLINE_SECONDS)

    assert bench.next_arrival() == b"k"


def test_error_is_handed_on_when_the_thread_can_not_go_on(bench: Bench) -> None:
    bench.sender.error = ValueError("a bug")
    bench.bring(1)

    assert bench.failures.get(timeout=DEADLINE_SECONDS) is bench.sender.error
