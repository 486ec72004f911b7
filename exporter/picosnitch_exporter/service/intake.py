"""From frames to state: journal first, then attribution; after a crash, from the journal again."""

import logging
import time
from dataclasses import replace

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import StorageError, StorageFullError, WireError
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.identity.workloads import Cgroups
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.log.journal import Journal
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import KnownFile
from picosnitch_exporter.runs import split_runs
from picosnitch_exporter.service.entries import Carried, Entry, pack, unpack
from picosnitch_exporter.service.status import ClockWatch
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import (
    CgroupPath,
    CommandLine,
    ExecutableSeen,
    Introductions,
    Records,
)
from picosnitch_exporter.wire import (
    DnsRecord,
    FlowRecord,
    LookupRecord,
    ProcessRecord,
    UnseenRecord,
    encode_flow,
)
from picosnitch_exporter.wire import decode as decode_record

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0

Evidence = Records | ExecutableSeen | CommandLine | CgroupPath | Introductions
"""Frames of which nothing may be lost."""


class Intake:
    """Takes frames in, each ring record exactly once."""

    def __init__(  # noqa: PLR0913  (it brings four together)
        self,
        *,
        attributor: Attributor,
        registry: Registry,
        domains: DomainTable,
        cgroups: Cgroups,
        journal: Journal,
        clocks: ClockWatch,
        health: Health,
    ) -> None:
        self._attributor = attributor
        self._registry = registry
        self._domains = domains
        self._cgroups = cgroups
        self._journal = journal
        self._health = health
        self._clocks = clocks
        self._retry_at = 0.0
        self._failure = ""
        self.instance = 0
        self.position = 0
        """Of the ring: everything before it has been accepted."""

    def replay(self, after: int) -> int:
        """Takes in what the journal has beyond a committed segment; returns how many entries."""
        entries = 0
        offset_ns = self._clocks.offset_ns
        for data in self._journal.replay(after):
            entries += 1
            try:
                entry, self._clocks.offset_ns = unpack(data)
            except WireError as error:
                self._health.count(catalog.EVENTS_LOST, ("journal", "malformed"))
                _log.warning(Event("journal_entry_lost", {"error": str(error)}))
                continue
            if isinstance(entry, Carried) and entry.segment > after:
                continue  # of a segment that is not committed itself: it is replayed from there
            self._replay_entry(entry)
        self._clocks.offset_ns = offset_ns
        return entries

    def _replay_entry(self, entry: Entry) -> None:
        match entry:
            case KnownFile():
                self._registry.learn(entry)
                self._attributor.settled()
            case Carried():
                self._take_in(entry.data)
            case Records():
                self.take(entry, None)
                self.instance, self.position = entry.instance, entry.end
            case ExecutableSeen() | CommandLine() | CgroupPath() | Introductions():
                # The descriptor of an executable ended with the process that had it.
                self.take(entry, None)
            case _:
                self._health.count(catalog.EVENTS_LOST, ("journal", "unexpected"))

    def accept(self, frame: Evidence) -> Evidence | None:
        """Journals a frame, so that the sensor may forget it; what of it is new, if anything is.

        What was accepted has to be taken in, in this order, before the segment of the journal ends.
        """
        if not isinstance(frame, Records):
            self._append(frame)
            return frame
        if frame.instance == self.instance and frame.start < self.position:
            known = min(self.position - frame.start, len(frame.data))
            frame = replace(frame, start=frame.start + known, data=frame.data[known:])
        if not frame.data:
            return None
        self._append(frame)
        self.instance, self.position = frame.instance, frame.end
        return frame

    def take(self, frame: Evidence, descriptor: int | None) -> None:
        """Takes in what was accepted; the descriptor of an executable becomes the registry's."""
        match frame:
            case ExecutableSeen():
                self._attributor.executable(frame, descriptor)
            case CommandLine():
                self._attributor.command_line(frame)
            case CgroupPath():
                self._cgroups.learn(frame)
            case Introductions() | Records():
                self._take_in(frame.data)

    def settled(self) -> None:
        """Takes in what has been hashed, and journals it: the descriptors would be gone."""
        self._attributor.settled()
        self._journal_hashed()

    def tick(self) -> None:
        """Has the attributor give up on what is too late, and journals as `settled` does."""
        self._attributor.tick()
        self._journal_hashed()

    def _journal_hashed(self) -> None:
        for file in self._registry.take_hashed():
            self._append(file)

    def carry_over(self, segment: int) -> None:
        """Writes what still waits for a hash into the segment after `segment`, which will go."""
        held = b"".join(encode_flow(record) for record in self._attributor.uncounted())
        if held:
            self._append(Carried(segment=segment, data=held))

    def _take_in(self, data: bytes) -> None:
        for piece in split_runs(data):
            if isinstance(piece, memoryview):
                for record in self._attributor.flows(piece):
                    self._take_record(record)
            else:
                self._take_record(piece)

    def _take_record(self, piece: bytes) -> None:
        try:
            record = decode_record(piece)
        except WireError as error:
            self._health.count(catalog.EVENTS_LOST, ("record", "malformed"))
            _log.warning(Event("record_lost", {"error": str(error)}))
            return
        if isinstance(record, FlowRecord):
            self._domains.introduce(record)
            self._attributor.flow(record)
        elif isinstance(record, ProcessRecord):
            self._attributor.process(record)
        elif isinstance(record, DnsRecord):
            self._domains.learn(record)
        elif isinstance(record, LookupRecord):
            self._domains.learn_lookup(record)
        elif isinstance(record, UnseenRecord):
            self._attributor.unseen(record)

    def forget(self, segment: int) -> None:
        """Has the journal delete what is durable; the next call deletes what this one can't."""
        try:
            self._journal.forget(segment)
        except StorageError as error:
            self._note_failure(error, meaning="what is durable already takes room")

    def _append(self, entry: Entry) -> None:
        """Journals an entry; what the disk refuses is only in memory, which is said and counted."""
        now = time.monotonic()
        if now < self._retry_at:
            self._health.count(catalog.LOG_ERRORS, ("journal", self._failure))
            return
        try:
            self._journal.append(pack(entry, self._clocks.offset_ns))
        except StorageError as error:
            self._retry_at = now + _RETRY_SECONDS
            self._note_failure(error, meaning="a crash now would lose the open window")

    def _note_failure(self, error: StorageError, *, meaning: str) -> None:
        self._failure = "full" if isinstance(error, StorageFullError) else "failed"
        self._health.count(catalog.LOG_ERRORS, ("journal", self._failure))
        _log.error(Event("journal_failed", {"error": str(error), "meaning": meaning}))
