"""The exporter's end of the stream: what is acknowledged when."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from picosnitch_exporter.identity.workloads import Cgroups
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.log.journal import Journal
from picosnitch_exporter.runs import COOKIE, STEP_BYTES
from picosnitch_exporter.service import conversation
from picosnitch_exporter.service.conversation import Conversation
from picosnitch_exporter.service.intake import Intake
from picosnitch_exporter.service.status import ClockWatch
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import (
    FROM_EXPORTER,
    FROM_SENSOR,
    Acknowledge,
    Channel,
    Introductions,
    Records,
    Stopping,
)
from picosnitch_exporter.wire import encode_flow
from tests.identity_samples import flow

if TYPE_CHECKING:
    from picosnitch_exporter.identity.registry import Registry
    from picosnitch_exporter.state.attribution import Attributor

RING = 7
OWNER_AT = 24
"""In a record in the ring: behind the ring's header and its own."""


class FakeAttributor:
    """Notes which sockets were told of."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def flows(self, run: memoryview) -> Iterator[bytes]:
        starts = range(0, len(run), STEP_BYTES)
        self.taken += [COOKIE.unpack_from(run, start + OWNER_AT)[0] for start in starts]
        return iter(())


def records(*cookies: int) -> bytes:
    return b"".join(encode_flow(flow(cookie=cookie)) for cookie in cookies)


class Ends:
    """Both ends of the stream, and what the exporter has journaled and taken in."""

    def __init__(self, folder: Path) -> None:
        ends = Channel.pair()
        for end in ends:
            end.settimeout(0)
        self.sensor = Channel(ends[0], receives=FROM_EXPORTER)
        self.attributor = FakeAttributor()
        self.folder = folder
        self.journal = Journal(folder)
        health = Health()
        intake = Intake(
            attributor=cast("Attributor", self.attributor),
            registry=cast("Registry", None),
            domains=DomainTable(health=health, to_unix=float),
            cgroups=Cgroups(),
            journal=self.journal,
            clocks=ClockWatch(),
            health=health,
        )
        self.conversation = Conversation(
            Channel(ends[1], receives=FROM_SENSOR),
            intake=intake,
            health=health,
            announce=lambda: None,
        )
        self._end = 0

    def send(self, *cookies: int) -> int:
        """Has the sensor send records of sockets in one frame; where the ring is then."""
        data = records(*cookies)
        start, self._end = self._end, self._end + len(data)
        self.sensor.send(Records(instance=RING, start=start, end=self._end, data=data))
        return self._end

    def acknowledged(self) -> list[int]:
        """Positions of what has been acknowledged."""
        found: list[int] = []
        while True:
            try:
                frame, _descriptor = self.sensor.receive()
            except BlockingIOError:
                return found
            assert isinstance(frame, Acknowledge)
            found.append(frame.position)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path / "journal")
    yield made
    made.sensor.close()
    made.conversation.close()


def journaled(folder: Path) -> int:
    """Entries that another process would find."""
    journal = Journal(folder)
    try:
        return len(list(journal.replay(0)))
    finally:
        journal.close()


def test_all_is_acknowledged_and_journaled_before_anything_is_taken_in(ends: Ends) -> None:
    positions = [ends.send(1), ends.send(2, 3)]

    assert ends.conversation.receive()

    assert ends.acknowledged() == positions
    assert ends.attributor.taken == []
    ends.journal.close()
    assert journaled(ends.folder) == 2


def test_frames_are_taken_in_one_by_one_and_in_order(ends: Ends) -> None:
    ends.send(1, 2)
    ends.sensor.send(Introductions(data=records(3)))
    ends.send(4)
    ends.sensor.send(Stopping())
    ends.conversation.receive()

    ends.conversation.work()
    assert ends.attributor.taken == [1, 2]

    ends.conversation.finish()
    assert ends.attributor.taken == [1, 2, 3, 4]
    assert ends.conversation.is_stopping
    assert not ends.conversation.has_work


def test_only_what_is_new_is_taken_in_when_a_piece_of_the_ring_comes_again(ends: Ends) -> None:
    first = ends.send(1)
    again = records(1, 2)
    ends.sensor.send(Records(instance=RING, start=0, end=len(again), data=again))
    ends.sensor.send(Records(instance=RING, start=0, end=first, data=again[:first]))
    ends.conversation.receive()
    ends.conversation.finish()

    assert ends.attributor.taken == [1, 2]
    assert ends.acknowledged() == [first, len(again), first]


def test_the_rest_waits_in_the_stream_when_too_much_was_received(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_WAITING", 2)
    positions = [ends.send(cookie) for cookie in (1, 2, 3)]

    ends.conversation.receive()
    assert ends.acknowledged() == positions[:2]

    ends.conversation.work()
    ends.conversation.receive()
    assert ends.acknowledged() == positions[2:]
    ends.conversation.finish()
    assert ends.attributor.taken == [1, 2, 3]


def test_what_was_received_is_there_when_the_sensor_has_gone(ends: Ends) -> None:
    ends.send(1)
    ends.sensor.close()

    assert not ends.conversation.receive()

    ends.conversation.finish()
    assert ends.attributor.taken == [1]
