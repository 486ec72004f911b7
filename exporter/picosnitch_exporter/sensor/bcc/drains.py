"""Has the programs of ebpf/bcc_drain.h run, in place of iterators.

Each is a filter at one end of a socket pair: a byte that is sent runs it, in the kernel, and goes
nowhere. That takes neither privileges nor the bpf() system call.
"""

import mmap
import socket
from typing import Final

from picosnitch_exporter.sensor.control import Control

_SO_ATTACH_BPF = 50  # include/uapi/asm-generic/socket.h
RUN_MAX = 64
"""Of ebpf/bcc_drain.h: a run that has moved less is through with all there is."""
BLOCK_BYTES = 56
_ROUND, _MOVED, _IS_STOPPED, _SOCKET_COUNT, _UNREAD_BYTES, _MISSED_CALLS, _LATE_COUNT = range(7)


class DrainBlock:
    """`struct drain_block`, in the kernel's memory."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory: Final = memory  # kept, since the view does not keep it mapped
        self._words = memoryview(memory).cast("Q")

    def begin_round(self) -> None:
        """Tells what a drain has met already from what it has not."""
        self._words[_ROUND] += 1

    @property
    def is_through(self) -> bool:
        """The last run has found nothing more to do."""
        return self._words[_MOVED] < RUN_MAX

    @property
    def is_stopped(self) -> bool:
        """The last run has found the ring full."""
        return bool(self._words[_IS_STOPPED])

    @property
    def missed_calls(self) -> int:
        """Calls that found no room for a note of their entry."""
        return self._words[_MISSED_CALLS]


class Trigger:
    """Runs a program of the kind socket filter, each time it is called."""

    def __init__(self, program: int) -> None:
        self._sender, self._filtered = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._filtered.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)

    def __call__(self) -> None:
        """Runs it once, and returns when it is done."""
        self._sender.send(b"\0")


class Drain:
    """A drain of one queue; see `kernel_side.Runnable`."""

    def __init__(self, run: Trigger, block: DrainBlock) -> None:
        self._run = run
        self._block = block
        self.is_stopped = False
        """The last run ended early, since the ring was full; the next one continues it."""

    def run(self) -> bytes:
        """Moves what is pending into the ring."""
        self._block.begin_round()
        while True:
            self._run()
            self.is_stopped = self._block.is_stopped
            if self.is_stopped or self._block.is_through:
                return b""

    def begin_anew(self) -> None:
        """Nothing: what waits first in the queue is the first in any case."""


class FlowDrain(Drain):
    """The drain of flows, which also expires the idle ones when it is time to."""

    def __init__(
        self, run: Trigger, block: DrainBlock, *, expire: Trigger, control: Control
    ) -> None:
        super().__init__(run, block)
        self._expire = Drain(expire, block)
        self._control = control

    def run(self) -> bytes:
        """Expires, then moves what is pending into the ring."""
        if self._control.is_expiring:
            self._expire.run()
        return super().run()


class Nothing:
    """What this plan can't look for; see `kernel_side.Runnable`."""

    is_stopped = False

    def run(self) -> bytes:
        """Finds nothing."""
        return b""

    def begin_anew(self) -> None:
        """Nothing to begin."""
