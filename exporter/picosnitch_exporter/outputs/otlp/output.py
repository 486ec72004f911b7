"""All of OTLP in one: what the plan asks for, started and stopped together."""

from collections.abc import Callable, Mapping
from typing import Final

from picosnitch_exporter.config.otel import OtlpPlan
from picosnitch_exporter.model import LogRow, Snapshot
from picosnitch_exporter.outputs.otlp import mapping, resource
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.baseline import Baseline
from picosnitch_exporter.outputs.otlp.courier import OtlpCourier
from picosnitch_exporter.outputs.otlp.logs import LogMapping
from picosnitch_exporter.outputs.otlp.metrics import MetricsThread
from picosnitch_exporter.outputs.otlp.sender import log_sender, metric_sender
from picosnitch_exporter.state.health import Health

_JOIN_SECONDS: Final = 0.2
"""Beyond what the last export has, for the thread to come back from it."""


class OtlpOutput:
    """Metrics and logs by OTLP; threads of their own, for which nobody waits but `close`.

    `encode_rows` and `decode_rows` say how rows wait for the receiver.

    Raises
    ------
    RequirementError
        from the constructor, if a package is missing or TLS can't be set up.
    """

    def __init__(  # noqa: PLR0913 - what it sends, from where, and who it is
        self,
        plan: OtlpPlan,
        *,
        environment: Mapping[str, str],
        snapshot: Callable[[], Snapshot],
        health: Health,
        failed: Callable[[BaseException], None],
        encode_rows: Callable[[tuple[LogRow, ...]], bytes],
        decode_rows: Callable[[bytes], tuple[LogRow, ...]],
        version: str,
        instance: str = "",
    ) -> None:
        self._metrics: MetricsThread | None = None
        self.courier: OtlpCourier | None = None
        """Of the connection log, for the log's writer to start, feed and close."""
        sender = resource.detect(environment, version=version, instance=instance)
        scope = instrumentation_scope(version)
        if plan.metrics is not None:
            baseline = Baseline() if plan.is_delta else None
            self._metrics = MetricsThread(
                sender=metric_sender(plan.metrics),
                mapping=mapping.Mapping(resource=sender, scope=scope, baseline=baseline),
                baseline=baseline,
                snapshot=snapshot,
                health=health,
                failed=failed,
                interval_seconds=plan.interval_seconds,
            )
        if plan.logs is not None:
            self.courier = OtlpCourier(
                sender=log_sender(plan.logs),
                mapping=LogMapping(resource=sender, scope=scope),
                encode=encode_rows,
                decode=decode_rows,
                health=health,
            )

    def begin(self) -> None:
        """Deltas count from now on: what there is was sent by an earlier run."""
        if self._metrics is not None:
            self._metrics.begin()

    def start(self) -> None:
        """Start to send."""
        if self._metrics is not None:
            self._metrics.start()

    def finish(self, *, timeout_seconds: float) -> None:
        """Ask for the last export and return; it has so long from now on."""
        if self._metrics is not None:
            self._metrics.finish(timeout_seconds=timeout_seconds)

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for the last export."""
        if self._metrics is not None:
            self._metrics.close(timeout_seconds=timeout_seconds + _JOIN_SECONDS)
