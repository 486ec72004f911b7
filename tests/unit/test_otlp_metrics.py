import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics.export import MetricsData, Sum
from opentelemetry.sdk.resources import Resource

from picosnitch_exporter.outputs.otlp.answers import Answer, Result
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.baseline import Baseline
from picosnitch_exporter.outputs.otlp.mapping import Mapping
from picosnitch_exporter.outputs.otlp.metrics import MetricsThread
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import column, executable, labels, large_snapshot, snapshot

DEADLINE_SECONDS = 10.0
SUCCESS = Answer(result=Result.SUCCESS)


class Sender:
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.sent: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.totals: list[int | float] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.ends_by: float | None = None
        self.is_closed = False
        self.error: Exception | None = None

    def send(self, data: MetricsData) -> Answer:
        metrics = [one.data for one in data.resource_metrics[0].scope_metrics[0].metrics]
        sums = [point for one in metrics if isinstance(one, Sum) for point in one.data_points]
        self.totals.append(sum(point.value for point in sums))
        self.sent.put(sum(len(one.data_points) for one in metrics))
        assert self.may_answer.wait(DEADLINE_SECONDS)
        if self.error is not None:
            raise self.error
        return self.answers.pop(0) if self.answers else SUCCESS

    def end_by(self, timeout_seconds: float) -> None:
        self.ends_by = timeout_seconds

    def close(self) -> None:
        self.is_closed = True

    def next(self) -> int:
        return self.sent.get(timeout=DEADLINE_SECONDS)


class Setup:
    def __init__(self) -> None:
        self.sender = Sender()
        self.health = Health()
        self.failures: list[BaseException] = []
        self.current = large_snapshot(400)
        self.threads: list[MetricsThread] = []

    def thread(self, *, interval_seconds: float = 3600.0, is_delta: bool = False) -> MetricsThread:
        baseline = Baseline() if is_delta else None
        thread = MetricsThread(
            sender=self.sender,
            mapping=Mapping(
                resource=Resource({}), scope=instrumentation_scope("1"), baseline=baseline
            ),
            baseline=baseline,
            snapshot=lambda: self.current,
            health=self.health,
            failed=self.failures.append,
            interval_seconds=interval_seconds,
        )
        thread.begin()
        thread.start()
        self.threads.append(thread)
        return thread

    def results(self) -> dict[str, float]:
        return {
            reading.labels[0]: reading.value
            for family in self.health.collect()
            if family.metric.name == "picosnitch_exporter_otlp_exports_total"
            for reading in family.readings
        }


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.sender.may_answer.set()
    for thread in made.threads:
        thread.finish(timeout_seconds=1)
        thread.close(timeout_seconds=DEADLINE_SECONDS)


def end(thread: MetricsThread) -> None:
    thread.finish(timeout_seconds=1.5)
    thread.close(timeout_seconds=DEADLINE_SECONDS)


def test_last_export_is_made_when_it_ends_before_the_first(setup: Setup) -> None:
    end(setup.thread())

    assert setup.sender.next() == 400 + 4 * 100
    assert setup.sender.sent.empty()
    assert setup.sender.ends_by == 1.5
    assert setup.sender.is_closed
    assert setup.results() == {"success": 1}


def test_exports_come_again_when_the_interval_has_passed(setup: Setup) -> None:
    setup.thread(interval_seconds=0.01)

    assert [setup.sender.next() for _ in range(3)] == [800] * 3


@pytest.mark.parametrize("result", [Result.UNAVAILABLE, Result.DENIED, Result.TOO_LARGE])
def test_rest_waits_for_the_next_export_when_a_batch_did_not_get_through(
    setup: Setup, result: Result
) -> None:
    setup.current = large_snapshot(12_000)
    setup.sender.answers = [SUCCESS, Answer(result=result)]

    end(setup.thread())

    assert [setup.sender.next(), setup.sender.next()] == [5_000, 5_000]
    assert setup.sender.sent.empty()
    assert setup.results() == {"success": 1, result: 1}


def test_other_batches_are_sent_when_one_is_refused(setup: Setup) -> None:
    setup.current = large_snapshot(12_000)
    setup.sender.answers = [Answer(result=Result.REFUSED)]

    end(setup.thread())

    assert [setup.sender.next() for _ in range(4)] == [5_000, 5_000, 5_000, 5_000]
    assert setup.results() == {"success": 3, "refused": 1}


def test_batches_become_smaller_when_they_are_too_large(setup: Setup) -> None:
    setup.current = large_snapshot(12_000)
    setup.sender.answers = [Answer(result=Result.TOO_LARGE), Answer(result=Result.TOO_LARGE)]

    setup.thread(interval_seconds=0.01)

    assert [setup.sender.next() for _ in range(3)] == [5_000, 2_500, 1_250]


def test_receiver_is_left_alone_when_it_asks_for_it(setup: Setup) -> None:
    setup.sender.answers = [Answer(result=Result.UNAVAILABLE, retry_after_seconds=600)]
    thread = setup.thread(interval_seconds=0.01)
    setup.sender.next()

    with pytest.raises(queue.Empty):
        setup.sender.sent.get(timeout=0.2)
    end(thread)
    assert setup.sender.next() == 800


def test_delta_holds_what_was_lost_when_the_next_arrives(setup: Setup) -> None:
    curl = labels(executable(1))
    setup.current = snapshot(transmit=column([(curl, 100)]))
    setup.sender.answers = [Answer(result=Result.UNAVAILABLE)]
    setup.sender.may_answer.clear()
    thread = setup.thread(interval_seconds=0.01, is_delta=True)
    setup.current = replace(setup.current, transmit_bytes=column([(curl, 107)]))
    setup.sender.next()
    setup.sender.may_answer.set()
    setup.sender.next()
    end(thread)

    # In between nothing has come: no points, no request.
    assert setup.sender.totals == [7, 7]
    assert setup.sender.sent.empty()


def test_error_is_handed_on_when_the_thread_can_not_go_on(setup: Setup) -> None:
    setup.sender.error = ValueError("a bug")

    thread = setup.thread(interval_seconds=0.01)
    thread._thread.join(DEADLINE_SECONDS)

    assert setup.failures == [setup.sender.error]


def test_thread_is_left_behind_when_the_receiver_hangs_at_the_end(setup: Setup) -> None:
    setup.sender.may_answer.clear()
    setup.sender.error = ValueError("Cannot invoke RPC on closed channel!")
    thread = setup.thread()

    thread.finish(timeout_seconds=0.01)
    thread.close(timeout_seconds=0.01)
    assert setup.sender.is_closed
    setup.sender.may_answer.set()
    thread._thread.join(DEADLINE_SECONDS)

    assert setup.failures == []


def test_each_change_is_said_once(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away = Answer(result=Result.UNAVAILABLE, reason="503 Later")
    partial = Answer(result=Result.PARTIAL, rejected=2, reason="old")
    setup.sender.answers = [SUCCESS, away, away, partial, partial]
    thread = setup.thread(interval_seconds=0.01)
    for _ in range(6):
        setup.sender.next()
    end(thread)

    assert [record.getMessage() for record in caplog.records] == [
        'event=otlp_failed signal=metrics result=unavailable rejected=0 reason="503 Later"',
        "event=otlp_failed signal=metrics result=partial rejected=2 reason=old",
        "event=otlp_recovered signal=metrics",
    ]
