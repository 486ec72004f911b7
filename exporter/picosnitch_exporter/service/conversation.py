"""What the sensor says, and what it is told: how far the books are, and what has been taken."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable

from picosnitch_exporter.errors import PeerGoneError, WireError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.service.intake import Evidence, Intake
from picosnitch_exporter.service.status import report_hello, report_status
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import (
    Acknowledge,
    Channel,
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

MAX_WAITING = 256
MAX_WAITING_BYTES = 4 << 20
"""Of records that were received and not taken in yet; what comes then waits in the stream."""


class Conversation:
    """The exporter process's end of the stream. `announce` is called once the sensor counts."""

    def __init__(
        self, channel: Channel, *, intake: Intake, health: Health, announce: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._intake = intake
        self._health = health
        self._announce = announce
        self._waiting: deque[tuple[Frame, int | None]] = deque()
        self._waiting_bytes = 0
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

    @property
    def has_work(self) -> bool:
        """Something was received and not taken in yet."""
        return bool(self._waiting)

    def receive(self) -> bool:
        """Journals what has come and acknowledges it; False once the sensor has closed its end.

        All of it before anything is taken in, which takes a hundred times as long: meanwhile the
        ring would fill.

        Raises
        ------
        WireError
            if what comes is no frame, or none that the sensor sends.
        """
        while len(self._waiting) < MAX_WAITING and self._waiting_bytes < MAX_WAITING_BYTES:
            try:
                frame, descriptor = self._channel.receive()
            except BlockingIOError:
                break
            except PeerGoneError:
                return False
            self._accept(frame, descriptor)
        return True

    def work(self) -> None:
        """Takes in one frame of those that were received."""
        frame, descriptor = self._waiting.popleft()
        self._waiting_bytes -= _size_of(frame)
        if isinstance(frame, Evidence):
            self._intake.take(frame, descriptor)
        else:
            self._take_news(frame)

    def finish(self) -> None:
        """Takes in all of them."""
        while self._waiting:
            self.work()

    def _accept(self, frame: Frame, descriptor: int | None) -> None:
        new: Frame | None = frame
        if isinstance(frame, Evidence):
            new = self._intake.accept(frame)
        if new is not None:
            self._waiting.append((new, descriptor))
            self._waiting_bytes += _size_of(new)
        if isinstance(frame, Records):
            # A stream that is full of them will take the next one, which says more. Where there is
            # nobody any more, the next call finds out.
            with contextlib.suppress(BlockingIOError, PeerGoneError):
                self._channel.send(Acknowledge(instance=frame.instance, position=frame.end))

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


def _size_of(frame: Frame) -> int:
    return len(frame.data) if isinstance(frame, Records | Introductions) else 0
