from collections import Counter
from typing import cast

import pytest

from picosnitch_exporter.sensor.execs import ExecWatch
from picosnitch_exporter.sensor.fanotify import ExecEvent, Fanotify
from picosnitch_exporter.sensor.filesystems import Filesystems
from picosnitch_exporter.sensor.procfs import Procfs


class Flood:
    """A queue of events to which there is no end; so many wait when it is asked."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self.reads = 0

    def waiting(self) -> int:
        return self._waiting

    def read(self) -> list[ExecEvent]:
        self.reads += 1
        return [ExecEvent(descriptor=-1, tgid=0, is_overflow=False)] * 10


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("waiting", "reads"), [(0, 0), (1, 1), (25, 3)])
def test_events_that_wait_are_read_and_no_more_when_there_is_no_end_of_them(
    waiting: int, reads: int
) -> None:
    flood = Flood(waiting)
    procfs = Procfs()
    lost = Counter[tuple[str, str]]()
    watch = ExecWatch(
        fanotify=cast("Fanotify", flood),
        filesystems=Filesystems(procfs=procfs, mark=lambda _path: False),
        procfs=procfs,
        lost=lambda stage, reason: lost.update([(stage, reason)]),
    )
    assert watch.read_events() == []
    assert flood.reads == reads
    assert lost.total() == 10 * reads
