from dataclasses import replace
from enum import Enum

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

from picosnitch_exporter.config.otel import OtlpPlan, plan
from picosnitch_exporter.outputs.otlp.answers import Answer, Result, Watch
from picosnitch_exporter.outputs.otlp.sender import Sender, log_sender, metric_sender
from picosnitch_exporter.settings import OtlpSettings
from tests.otlp_receivers import Reply, grpc_receiver

NOTHING = MetricsData(resource_metrics=[])
UNDECODABLE = Reply(status="UNAVAILABLE", retry_info=b"\xff\xff\xff\xff")


def planned(url: str) -> OtlpPlan:
    made = plan(OtlpSettings(endpoint=url, protocol="grpc", logs=True), {})
    assert made is not None
    return made


def test_answer_is_that_of_the_receiver_when_its_retry_info_is_undecodable() -> None:
    expected = Answer(result=Result.UNAVAILABLE, reason="UNAVAILABLE told to")
    with grpc_receiver() as receiver:
        made = planned(receiver.url)
        assert made.metrics is not None
        assert made.logs is not None
        metrics, logs = metric_sender(made.metrics), log_sender(made.logs)
        receiver.answer(UNDECODABLE, UNDECODABLE)
        assert [metrics.send(NOTHING), logs.send([])] == [expected, expected]
        success = replace(expected, result=Result.SUCCESS, reason="")
        assert [metrics.send(NOTHING), logs.send([])] == [success, success]
        metrics.close()
        logs.close()


@pytest.mark.parametrize("seen", [None, Answer(result=Result.DENIED, reason="no")])
def test_answer_is_what_was_seen_or_the_type_when_an_exporter_raises(seen: Answer | None) -> None:
    watch = Watch()

    class Raising:
        def export(self, _data: MetricsData, /) -> Enum:
            watch.answer = seen
            raise TypeError("s3cret")

        def shutdown(self) -> None:
            pass

    expected = seen or Answer(result=Result.UNAVAILABLE, reason="TypeError")
    assert Sender(Raising(), watch).send(NOTHING) == expected
