"""The loops around the kernel's programs, with queues of numbers in the kernel's place."""

import mmap
import struct
from typing import cast

import pytest

from picosnitch_exporter.sensor.bcc.drains import (
    BLOCK_BYTES,
    RUN_MAX,
    Drain,
    DrainBlock,
    FlowDrain,
    Trigger,
)
from picosnitch_exporter.sensor.control import SIZE, Control


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, mmap.PAGESIZE)


class Program:
    """What a drain of ebpf/bcc_drain.h does: up to RUN_MAX at a time, as long as there is room."""

    def __init__(self, memory: mmap.mmap, *, waiting: int, room: int = 1_000_000) -> None:
        self._memory = memory
        self.waiting = waiting
        self.room = room
        self.rounds: set[int] = set()

    def __call__(self) -> None:
        moved = min(self.waiting, self.room, RUN_MAX)
        self.waiting -= moved
        self.room -= moved
        is_stopped = moved < RUN_MAX and bool(self.waiting)
        (number,) = struct.unpack_from("=Q", self._memory)
        self.rounds.add(number)
        struct.pack_into("=QQ", self._memory, 8, moved, is_stopped)


def drain(program: Program, memory: mmap.mmap) -> Drain:
    return Drain(cast("Trigger", program), DrainBlock(memory))


@pytest.mark.parametrize("waiting", [0, 1, RUN_MAX, RUN_MAX + 1, 1000])
def test_all_is_moved_in_one_round_when_there_is_room(memory: mmap.mmap, waiting: int) -> None:
    program = Program(memory, waiting=waiting)
    drained = drain(program, memory)

    assert drained.run() == b""
    assert (program.waiting, drained.is_stopped) == (0, False)
    assert program.rounds == {1}


def test_the_next_run_goes_on_when_the_ring_was_full(memory: mmap.mmap) -> None:
    program = Program(memory, waiting=500, room=300)
    drained = drain(program, memory)
    drained.run()

    assert (program.waiting, drained.is_stopped) == (200, True)

    program.room = 1000
    drained.run()

    assert (program.waiting, drained.is_stopped) == (0, False)
    assert program.rounds == {1, 2}


@pytest.mark.parametrize("is_expiring", [True, False])
def test_idle_flows_are_looked_for_when_it_is_time_to(
    memory: mmap.mmap,
    *,
    is_expiring: bool,
) -> None:
    control = Control(mmap.mmap(-1, mmap.PAGESIZE))
    assert mmap.PAGESIZE >= SIZE
    control.set_expiring(is_expiring=is_expiring)
    dirty, idle = Program(memory, waiting=3), Program(memory, waiting=100)
    flows = FlowDrain(
        cast("Trigger", dirty),
        DrainBlock(memory),
        expire=cast("Trigger", idle),
        control=control,
    )

    flows.run()

    assert dirty.waiting == 0
    assert idle.waiting == (0 if is_expiring else 100)


def test_calls_without_a_note_are_read_when_the_kernel_has_counted_some(
    memory: mmap.mmap,
) -> None:
    struct.pack_into("=7Q", memory, 0, *range(10, 17))

    assert struct.calcsize("=7Q") == BLOCK_BYTES
    assert DrainBlock(memory).missed_calls == 15
