"""The kernel's BPF ring buffer, read through its mapped memory.

libbpf's own reader calls back for each record and moves the consumer's position at once; here the
position moves only when the exporter has made everything before it safe.
Source: kernel/bpf/ringbuf.c (layout of the mapping: consumer page, producer page, data twice).
"""

import mmap
from itertools import takewhile

from picosnitch_exporter.errors import KernelError


class Ring:
    """Positions are bytes since the ring was made, and only ever grow."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        page = mmap.PAGESIZE
        # Positions are read and written as native 64-bit words, in one instruction each; struct's
        # standard sizes go byte by byte, and the kernel could see half a position.
        self._consumer = memoryview(
            mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        ).cast("Q")
        # The data is mapped twice in a row, so that a record that wraps reads in one piece.
        self._producer = mmap.mmap(
            descriptor, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._produced = memoryview(self._producer)[:page].cast("Q")
        self._words = memoryview(self._producer)[page:].cast("I")

    @property
    def consumer_position(self) -> int:
        """What has been given back to the kernel."""
        return self._consumer[0]

    @property
    def producer_position(self) -> int:
        """What has been reserved; the records up to it may still be in the making."""
        return self._produced[0]

    def read(self, start: int, limit: int) -> bytes:
        """Whole, finished records from `start` on, with their headers, at most `limit` bytes.

        Between reading the producer's position and the records' headers lie thousands of
        instructions of the interpreter and, in the callers, a system call, so the loads can't be
        seen out of order on weakly ordered CPUs either.

        Raises
        ------
        KernelError
            if a length points beyond what has been reserved.
        """
        end = self.producer_position
        position = start
        while position < end:
            at = position % self.size // 4
            word = self._words[at]
            if word & 0x8000_0000:
                break
            length = 8 + ((word & 0x3FFF_FFFF) + 7) // 8 * 8
            if position + length > end:
                raise KernelError(f"the ring is damaged: a record at {position} ends beyond {end}")
            # Most records are as long as the one before them: these are found at once.
            room = (min(end, start + limit) - position) // length
            if room < 1:
                break
            alike = self._words[at : at + room * length // 4 : length // 4]
            position += length * sum(1 for _ in takewhile(word.__eq__, alike))
        offset = mmap.PAGESIZE + start % self.size
        return self._producer[offset : offset + position - start]

    def release(self, position: int) -> None:
        """Gives everything before `position` back to the kernel."""
        if self.consumer_position <= position <= self.producer_position:
            self._consumer[0] = position

    def close(self) -> None:
        """Unmaps; the ring itself lives as long as the map."""
        self._consumer.release()
        self._produced.release()
        self._words.release()
        self._producer.close()
