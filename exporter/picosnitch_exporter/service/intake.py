"""From frames to state: journal first, then attribution; after a crash, from the journal again."""

import logging
import struct
import time
from dataclasses import replace

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageError, WireError
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.log.journal import Journal
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.service.status import ClockWatch
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import (
    CommandLine,
    ExecutableSeen,
    Records,
    decode,
    encode,
)
from picosnitch_exporter.wire import DnsRecord, FlowRecord, ProcessRecord, encode_flow, split_ring
from picosnitch_exporter.wire import decode as decode_record

_log = logging.getLogger(__name__)

_OFFSET = struct.Struct("=q")
"""Before each entry: wall clock minus CLOCK_BOOTTIME when it was received, in nanoseconds."""
_RETRY_SECONDS = 5.0


class Intake:
    """Takes frames in, each ring record exactly once."""

    def __init__(
        self,
        *,
        attributor: Attributor,
        domains: DomainTable,
        journal: Journal,
        clocks: ClockWatch,
        health: Health,
    ) -> None:
        self._attributor = attributor
        self._domains = domains
        self._journal = journal
        self._health = health
        self._clocks = clocks
        self._retry_at = 0.0
        self.instance = 0
        self.position = 0
        """Of the ring: everything before it has been taken in."""

    def replay(self, after: int) -> int:
        """Takes in what the journal has beyond a committed segment; returns how many entries."""
        entries = 0
        for entry in self._journal.replay(after):
            entries += 1
            (self._clocks.offset_ns,) = _OFFSET.unpack_from(entry)
            try:
                frame = decode(entry[_OFFSET.size :])
            except WireError as error:
                self._health.count(catalog.EVENTS_LOST, ("journal", "malformed"))
                _log.warning(Event("journal_entry_lost", {"error": str(error)}))
                continue
            if isinstance(frame, ExecutableSeen):
                # Its descriptor ended with the process that had it.
                self._attributor.executable(frame, None)
            elif isinstance(frame, CommandLine):
                self._attributor.command_line(frame)
            elif isinstance(frame, Records):
                self._take_in(frame)
        return entries

    def executable(self, frame: ExecutableSeen, descriptor: int | None) -> None:
        """An executable; the descriptor becomes the registry's."""
        self._append(frame)
        self._attributor.executable(frame, descriptor)

    def command_line(self, frame: CommandLine) -> None:
        """A command line from /proc."""
        self._append(frame)
        self._attributor.command_line(frame)

    def records(self, frame: Records) -> None:
        """A piece of the ring, whatever of it is new."""
        if frame.instance == self.instance and frame.start < self.position:
            known = min(self.position - frame.start, len(frame.data))
            frame = replace(frame, start=frame.start + known, data=frame.data[known:])
        if not frame.data:
            return
        self._append(frame)
        self._take_in(frame)

    def carry_over(self) -> None:
        """Writes what still waits for a hash into the new segment, as the old ones will go."""
        held = b"".join(encode_flow(record) for record in self._attributor.uncounted())
        if held:
            self._append(Records(instance=0, start=0, end=len(held), data=held))

    def _take_in(self, frame: Records) -> None:
        for data in split_ring(frame.data):
            try:
                record = decode_record(data)
            except WireError as error:
                self._health.count(catalog.EVENTS_LOST, ("record", "malformed"))
                _log.warning(Event("record_lost", {"error": str(error)}))
                continue
            if isinstance(record, FlowRecord):
                self._domains.introduce(record)
                self._attributor.flow(record)
            elif isinstance(record, ProcessRecord):
                self._attributor.process(record)
            elif isinstance(record, DnsRecord):
                self._domains.learn(record)
        if frame.instance:
            self.instance, self.position = frame.instance, frame.end

    def _append(self, frame: ExecutableSeen | CommandLine | Records) -> None:
        """Journals a frame; with a full disk it is only in memory, which is said and counted."""
        now = time.monotonic()
        if now < self._retry_at:
            self._health.count(catalog.LOG_ERRORS, ("journal", "full"))
            return
        try:
            self._journal.append(_OFFSET.pack(self._clocks.offset_ns) + encode(frame))
        except StorageError as error:
            self._retry_at = now + _RETRY_SECONDS
            self._health.count(catalog.LOG_ERRORS, ("journal", "full"))
            _log.error(
                Event(
                    "journal_failed",
                    {"error": str(error), "meaning": "a crash now would lose the open window"},
                )
            )
