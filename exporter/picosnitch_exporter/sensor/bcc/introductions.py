"""Processes that found no room in the ring, out of the kernel's memory."""

import mmap
import struct
import time

from picosnitch_exporter.sensor.control import Control
from picosnitch_exporter.wire import CMDLINE_BYTES, COMM_BYTES, PROCESS, RecordKind

SLOTS = 8192
_HEAD = "QQIIQQIIQIIQQQQIHH"
_NODE = struct.Struct(f"={_HEAD}II{COMM_BYTES}s{CMDLINE_BYTES}s")
"""`struct process_node` of ebpf/bcc_maps.h; its key begins with the start, tgid is the third."""
_SENT = struct.Struct("=I")
_SENT_OFFSET = struct.calcsize(f"={_HEAD}")
_TGID_OFFSET = 16
_SENT_AS_ANCESTOR, _SENT_LATE = 2, 4
SLOTS_BYTES = SLOTS * _NODE.size


class Introductions:
    """The place of the iterator introduce_again; see `kernel_side.Runnable`."""

    is_stopped = False

    def __init__(self, memory: mmap.mmap, control: Control) -> None:
        self._memory = memory
        self._control = control

    def run(self) -> bytes:
        """Process records, in a row, of those that were told of, or that could not be."""
        is_late = self._control.is_introducing_late
        records = []
        for offset in range(0, SLOTS_BYTES, _NODE.size):
            (sent,) = _SENT.unpack_from(self._memory, offset + _SENT_OFFSET)
            if not sent or (is_late and not sent & _SENT_LATE):
                continue
            record = self._record(offset)
            if record is None:
                continue
            records.append(record)
            # A flag that the kernel sets at the same moment may be lost: it is told of twice then.
            _SENT.pack_into(
                self._memory, offset + _SENT_OFFSET, sent & ~_SENT_LATE | _SENT_AS_ANCESTOR
            )
        return b"".join(records)

    def begin_anew(self) -> None:
        """Each run begins with the first one."""

    def _record(self, offset: int) -> bytes | None:
        """None where another process takes the place at this moment."""
        node = _NODE.unpack_from(self._memory, offset)
        (tgid,) = _SENT.unpack_from(self._memory, offset + _TGID_OFFSET)
        if not tgid or tgid != node[2]:
            return None
        *head, uid, cmdline_bytes, flags, _sent, _pad, comm, cmdline = node
        header = (RecordKind.PROCESS, flags, 0, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        record = PROCESS.pack(*header, *head, uid, cmdline_bytes, 0, 0, comm)
        return record + bytes(cmdline)
