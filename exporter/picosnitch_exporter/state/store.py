"""Totals of every series, and what is known of every executable that has them."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from picosnitch_exporter import catalog
from picosnitch_exporter.model import (
    OTHER,
    CounterTotal,
    Executable,
    ExecutableFacts,
    KnownExecutable,
    SeriesLabels,
    Sha256,
    Snapshot,
    VirusTotalResult,
    Workload,
)
from picosnitch_exporter.state.cardinality import OTHERS, Cardinality, Counts, Subject
from picosnitch_exporter.state.columns import Column

MAX_REMEMBERED = 65_536
"""Executables whose first sight is remembered beyond their series: 30 MB if all were in use."""

_TRANSMIT = "transmit_bytes"
_RECEIVE = "receive_bytes"
_CONNECTIONS = "connections"
_FAILURES = "connect_failures"
_METRICS = (_TRANSMIT, _RECEIVE, _CONNECTIONS, _FAILURES)


# Not frozen: it is written with each record.
@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    """An executable that has series."""

    subject: Subject
    series: list[tuple[Column, SeriesLabels]] = field(default_factory=list)
    facts: ExecutableFacts | None = None
    last_seen_seconds: float = 0.0
    is_fresh: bool = True
    """Something was added since the last look for silent ones."""
    silent_since_seconds: float = 0.0
    """On the monotonic clock of `drop_stale`."""
    silence_seconds: float = 0.0
    """That has been going on when it was restored."""


class Store:
    """The only state behind the outputs. One thread writes, any thread takes snapshots.

    There is no clock in here: Unix seconds come with what is added.
    """

    def __init__(
        self,
        *,
        health: Counts,
        max_executables: int,
        stale_after_seconds: float,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._health = health
        self._stale_after_seconds = stale_after_seconds
        self._max_remembered = max_remembered
        self._cardinality = Cardinality(max_executables, health=health)
        self._lock = threading.Lock()
        self._last_number = 0
        self._columns = {name: Column() for name in _METRICS}
        self._entries: dict[Subject, _Entry] = {}
        self._first_seen: OrderedDict[Subject, float] = OrderedDict()
        self._verdicts: dict[Sha256, VirusTotalResult] = {}
        self._seen: dict[Subject, KnownExecutable] = {}
        self._stale_facts: set[Subject] = set()
        self._facts: tuple[ExecutableFacts, ...] | None = ()
        self._dropped: dict[tuple[str, SeriesLabels], None] = {}

    @property
    def series(self) -> int:
        """Series in use, over all metrics."""
        return sum(len(column) for column in self._columns.values())

    @property
    def executables(self) -> int:
        """Executables that have series of their own."""
        return self._cardinality.admitted

    def add_traffic(
        self,
        labels: SeriesLabels,
        *,
        transmit_bytes: int,
        receive_bytes: int,
        time_seconds: float,
    ) -> None:
        """Adds bytes; both series exist from the first of either on."""
        with self._lock:
            self._add(_TRANSMIT, labels, transmit_bytes, time_seconds)
            self._add(_RECEIVE, labels, receive_bytes, time_seconds)

    def add_connections(self, labels: SeriesLabels, count: int, *, time_seconds: float) -> None:
        """Adds opened or accepted connections; `labels` have a direction."""
        with self._lock:
            self._add(_CONNECTIONS, labels, count, time_seconds)

    def add_failures(self, labels: SeriesLabels, count: int, *, time_seconds: float) -> None:
        """Adds connects that have failed."""
        with self._lock:
            self._add(_FAILURES, labels, count, time_seconds)

    def see(  # noqa: PLR0913  (what an executable has)
        self,
        executable: Executable,
        workload: Workload,
        *,
        name: str,
        parent: Executable,
        size_bytes: int,
        time_seconds: float,
    ) -> None:
        """Notes an executable; name and parent are those of the first time."""
        subject = (executable, workload)
        with self._lock:
            first_seen = self._remember(subject, time_seconds)
            entry = self._entry(subject)
            if entry is None:
                known = KnownExecutable(
                    executable=executable,
                    workload=workload,
                    name=name,
                    parent=parent,
                    size_bytes=size_bytes,
                    first_seen_seconds=first_seen,
                    last_seen_seconds=time_seconds,
                )
                self._note_refused(subject, known)
                return
            entry.is_fresh = True
            entry.last_seen_seconds = max(entry.last_seen_seconds, time_seconds)
            self._stale_facts.add(subject)
            facts = entry.facts
            if facts is None:
                self._last_number += 1
                entry.facts = ExecutableFacts(
                    number=self._last_number,
                    executable=executable,
                    workload=workload,
                    name=name,
                    parent=parent,
                    size_bytes=size_bytes,
                    first_seen_seconds=first_seen,
                    last_seen_seconds=entry.last_seen_seconds,
                    virustotal=self._verdicts.get(executable.sha256, VirusTotalResult()),
                )
                self._facts = None
            elif (name and not facts.name) or first_seen < facts.first_seen_seconds:
                # With a name it is another series: it was unknown as its process came too late.
                self._last_number += 1
                entry.facts = replace(
                    facts,
                    number=self._last_number,
                    name=facts.name or name,
                    first_seen_seconds=first_seen,
                )

    def judge(self, sha256: Sha256, result: VirusTotalResult) -> None:
        """Notes what VirusTotal says of a content, for as long as it has series."""
        with self._lock:
            self._verdicts[sha256] = result
            for subject, entry in self._entries.items():
                if subject[0].sha256 == sha256 and entry.facts is not None:
                    entry.facts = replace(entry.facts, virustotal=result)
                    self._facts = None

    def drop_stale(self, now_seconds: float) -> None:
        """Drops what has been silent for too long; `now_seconds` is monotonic.

        Silence is measured between calls, so that a step of the wall clock drops nothing.
        """
        with self._lock:
            for subject, entry in list(self._entries.items()):
                if entry.is_fresh:
                    entry.is_fresh = False
                    entry.silent_since_seconds = now_seconds - entry.silence_seconds
                    entry.silence_seconds = 0.0
                if now_seconds - entry.silent_since_seconds >= self._stale_after_seconds:
                    self._drop(subject, entry)
            in_use = {executable.sha256 for executable, _workload in self._entries}
            for sha256 in self._verdicts.keys() - in_use:
                del self._verdicts[sha256]

    def restore(
        self,
        totals: Iterable[CounterTotal],
        executables: Iterable[KnownExecutable],
        *,
        now_seconds: float,
    ) -> None:
        """Takes over what an earlier run has left; what went stale since then stays away.

        `now_seconds` is the Unix time. To be called once, before anything is added.
        """
        latest_first = sorted(executables, key=lambda known: -known.last_seen_seconds)
        with self._lock:
            for known in reversed(latest_first):
                self._remember((known.executable, known.workload), known.first_seen_seconds)
            silences = {
                (known.executable, known.workload): max(0.0, now_seconds - known.last_seen_seconds)
                for known in latest_first
            }
            self._restore_facts(latest_first, silences)
            for total in totals:
                self._restore_total(total, silences)

    def snapshot(self, now_seconds: float) -> Snapshot:
        """Everything the outputs expose, at this Unix time."""
        with self._lock:
            columns = {name: column.freeze() for name, column in self._columns.items()}
            facts = self._freeze_facts()
        return Snapshot(
            time_seconds=now_seconds,
            transmit_bytes=columns[_TRANSMIT],
            receive_bytes=columns[_RECEIVE],
            connections=columns[_CONNECTIONS],
            connect_failures=columns[_FAILURES],
            executables=facts,
        )

    def changed_totals(self) -> tuple[CounterTotal, ...]:
        """The totals that have changed since the last call.

        A series that was dropped comes with `created_seconds` 0: it is to be forgotten.
        """
        with self._lock:
            totals = [
                CounterTotal(metric=metric, labels=labels, value=0, created_seconds=0.0)
                for metric, labels in self._dropped
                if labels not in self._columns[metric]
            ]
            self._dropped.clear()
            for metric, column in self._columns.items():
                totals.extend(column.take_changed(metric))
        return tuple(totals)

    def changed_executables(self) -> tuple[KnownExecutable, ...]:
        """The executables that were seen since the last call."""
        with self._lock:
            self._freeze_facts()
            seen = tuple(self._seen.values())
            self._seen.clear()
        return seen

    def _add(self, metric: str, labels: SeriesLabels, amount: int, time_seconds: float) -> None:
        column = self._columns[metric]
        entry = self._entry((labels.executable, labels.workload))
        if entry is None:
            entry = self._others()
            labels = replace(labels, executable=OTHERS[0], workload=OTHERS[1])
        entry.is_fresh = True
        if time_seconds > entry.last_seen_seconds:
            entry.last_seen_seconds = time_seconds
            if entry.facts is not None:
                self._stale_facts.add(entry.subject)
        if not column.add(labels, amount):
            self._last_number += 1
            column.insert(
                labels, number=self._last_number, value=amount, created_seconds=time_seconds
            )
            entry.series.append((column, labels))

    def _entry(self, subject: Subject) -> _Entry | None:
        """The entry of an executable, made now if there is room; None where there is none."""
        entry = self._entries.get(subject)
        if entry is None:
            if subject[0] == OTHER:
                return self._others()
            if not self._cardinality.admit(subject):
                return None
            entry = self._entries[subject] = _Entry(subject=subject)
        return entry

    def _others(self) -> _Entry:
        entry = self._entries.get(OTHERS)
        if entry is None:
            entry = self._entries[OTHERS] = _Entry(subject=OTHERS)
        return entry

    def _drop(self, subject: Subject, entry: _Entry) -> None:
        for column, labels in entry.series:
            column.remove(labels)
        for metric, column in self._columns.items():
            for held, labels in entry.series:
                if held is column:
                    self._dropped[metric, labels] = None
        del self._entries[subject]
        self._cardinality.release(subject)
        if entry.facts is not None:
            self._note_seen(entry)
            self._facts = None

    def _remember(self, subject: Subject, time_seconds: float) -> float:
        """When the executable was first seen, now included."""
        first_seen = min(self._first_seen.get(subject, time_seconds), time_seconds)
        self._first_seen[subject] = first_seen
        self._first_seen.move_to_end(subject)
        if len(self._first_seen) > self._max_remembered:
            self._first_seen.popitem(last=False)
        return first_seen

    def _note_refused(self, subject: Subject, known: KnownExecutable) -> None:
        if subject not in self._seen and len(self._seen) >= self._max_remembered:
            self._health.count(catalog.EVENTS_LOST, ("state", "executables_full"))
            return
        self._seen[subject] = known

    def _note_seen(self, entry: _Entry) -> None:
        facts = entry.facts
        if facts is None:
            return
        self._stale_facts.discard(entry.subject)
        self._seen[entry.subject] = KnownExecutable(
            executable=facts.executable,
            workload=facts.workload,
            name=facts.name,
            parent=facts.parent,
            size_bytes=facts.size_bytes,
            first_seen_seconds=facts.first_seen_seconds,
            last_seen_seconds=entry.last_seen_seconds,
        )

    def _freeze_facts(self) -> tuple[ExecutableFacts, ...]:
        if self._stale_facts:
            for subject in tuple(self._stale_facts):
                entry = self._entries[subject]
                if entry.facts is not None:
                    entry.facts = replace(entry.facts, last_seen_seconds=entry.last_seen_seconds)
                self._note_seen(entry)
            self._facts = None
        if self._facts is None:
            entries = self._entries.values()
            self._facts = tuple(entry.facts for entry in entries if entry.facts is not None)
        return self._facts

    def _restore_facts(
        self, executables: Iterable[KnownExecutable], silences: dict[Subject, float]
    ) -> None:
        for known in executables:
            subject = (known.executable, known.workload)
            if silences[subject] >= self._stale_after_seconds:
                continue
            if self.executables == self._cardinality.limit:
                return
            entry = self._entry(subject)
            if entry is None or entry.facts is not None:
                continue
            self._last_number += 1
            entry.silence_seconds = silences[subject]
            entry.last_seen_seconds = known.last_seen_seconds
            entry.facts = ExecutableFacts(
                number=self._last_number,
                executable=known.executable,
                workload=known.workload,
                name=known.name,
                parent=known.parent,
                size_bytes=known.size_bytes,
                first_seen_seconds=known.first_seen_seconds,
                last_seen_seconds=known.last_seen_seconds,
            )
            self._facts = None

    def _restore_total(self, total: CounterTotal, silences: dict[Subject, float]) -> None:
        labels = total.labels
        subject = (labels.executable, labels.workload)
        if not total.created_seconds:
            return
        if silences.get(subject, 0.0) >= self._stale_after_seconds:
            self._dropped[total.metric, labels] = None
            return
        entry = self._entry(subject)
        if entry is None:
            # The bound was lowered: what has no slot any more is summed up, and kept only there.
            self._dropped[total.metric, labels] = None
            self._add(total.metric, labels, total.value, total.created_seconds)
            return
        column = self._columns[total.metric]
        if not column.add(labels, total.value):
            self._last_number += 1
            column.insert(
                labels,
                number=self._last_number,
                value=total.value,
                created_seconds=total.created_seconds,
            )
            entry.series.append((column, labels))
        if subject != OTHERS:
            column.forget_change(labels)
