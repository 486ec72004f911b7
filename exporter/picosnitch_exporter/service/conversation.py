"""What the sensor says, and what it is told: how far the books are, and what has been taken."""

import contextlib
import logging
from collections.abc import Callable

from picosnitch_exporter.errors import PeerGoneError, WireError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.service.intake import Intake
from picosnitch_exporter.service.status import report_hello, report_status
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import (
    Acknowledge,
    CgroupPath,
    Channel,
    CommandLine,
    ExecutableSeen,
    Frame,
    Hello,
    Introductions,
    KernelStatus,
    Ready,
    Records,
    Resume,
    Stopping,
)

_log = logging.getLogger(__name__)

_FRAMES_A_TURN = 64


class Conversation:
    """The exporter process's end of the stream. `announce` is called once the sensor counts."""

    def __init__(
        self, channel: Channel, *, intake: Intake, health: Health, announce: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._intake = intake
        self._health = health
        self._announce = announce
        self.is_greeted = False
        """The sensor has said which ring there is."""
        self.is_stopping = False
        """The sensor has said that nothing more comes."""

    def fileno(self) -> int:
        """For poll(): readable when there are frames."""
        return self._channel.fileno()

    def close(self) -> None:
        """Ends it; the sensor sees that."""
        self._channel.close()

    def receive(self) -> bool:
        """Takes in a number of frames; False once the sensor has closed its end.

        Raises
        ------
        WireError
            if what comes is no frame, or none that the sensor sends.
        """
        acknowledged: Records | None = None
        is_open = True
        for _ in range(_FRAMES_A_TURN):
            try:
                frame, descriptor = self._channel.receive()
            except BlockingIOError:
                break
            except PeerGoneError:
                is_open = False
                break
            if isinstance(frame, Records):
                acknowledged = frame
            self._take(frame, descriptor)
            if self.is_stopping:
                break
        if acknowledged is not None and is_open:
            # A stream that is full of them will take the next one, which says more.
            with contextlib.suppress(BlockingIOError):
                self._channel.send(
                    Acknowledge(instance=acknowledged.instance, position=acknowledged.end)
                )
        return is_open

    def _take(self, frame: Frame, descriptor: int | None) -> None:
        match frame:
            case Records():
                self._intake.records(frame)
            case ExecutableSeen():
                self._intake.executable(frame, descriptor)
            case CommandLine():
                self._intake.command_line(frame)
            case CgroupPath():
                self._intake.cgroup_path(frame)
            case Introductions():
                self._intake.introductions(frame)
            case _:
                self._take_news(frame)

    def _take_news(self, frame: Frame) -> None:
        """What the sensor says of itself."""
        match frame:
            case KernelStatus():
                report_status(self._health, frame)
            case Hello():
                self._greet(frame)
            case Ready():
                self._announce()
            case Stopping():
                self.is_stopping = True
            case _:
                raise WireError(f"a {type(frame).__name__} frame from the sensor")

    def _greet(self, hello: Hello) -> None:
        self.is_greeted = True
        report_hello(self._health, hello)
        intake = self._intake
        known = intake.instance == hello.instance
        self._channel.send(
            Resume(
                instance=intake.instance if known else 0,
                position=intake.position if known else 0,
            )
        )
        if hello.idle:
            _log.warning(
                Event("kernel_was_idle", {"meaning": "nobody had read for bpf.linger_seconds"})
            )
        for plan, reason in hello.refused_plans:
            _log.info(Event("plan_refused", {"plan": plan, "reason": reason}))
        for loss in hello.plan_losses:
            _log.warning(Event("plan_loss", {"plan": hello.plan, "not_counted": loss}))
        _log.info(
            Event(
                "attached",
                {
                    "plan": hello.plan,
                    "adopted": hello.adopted,
                    "hooks": ",".join(hello.hooks),
                },
            )
        )
