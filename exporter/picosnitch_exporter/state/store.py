"""Totals of every series, and what is known of every executable that has them."""

import threading
from collections.abc import Iterable
from dataclasses import replace

from picosnitch_exporter import catalog
from picosnitch_exporter.model import (
    OTHER,
    UNJUDGED,
    CounterTotal,
    Executable,
    KnownExecutable,
    KnownVerdict,
    SeriesLabels,
    Sha256,
    Snapshot,
    VirusTotalResult,
    Workload,
)
from picosnitch_exporter.state.cardinality import OTHERS, Cardinality, Counts, Subject
from picosnitch_exporter.state.columns import Columns, Entry, Series
from picosnitch_exporter.state.facts import Facts
from picosnitch_exporter.state.totals import Totals

MAX_SERIES = 256
"""Of one executable, which has 20 as a rule: raw sockets have 256 protocols. What comes beyond is
counted with the others."""

_TRANSMIT, _RECEIVE = 0, 1


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
        unjudged: VirusTotalResult = UNJUDGED,
    ) -> None:
        self._health = health
        self._stale_after_seconds = stale_after_seconds
        self._cardinality = Cardinality(max_executables, health=health)
        self._facts = Facts(health=health, unjudged=unjudged)
        self._lock = threading.Lock()
        self._last_number = 0
        self._traffic = Columns("transmit_bytes", "receive_bytes")
        self._connections = Columns("connections")
        self._failures = Columns("connect_failures")
        self._entries: dict[Subject, Entry] = {}
        self._dropped: dict[tuple[str, SeriesLabels], Columns] = {}

    @property
    def series(self) -> int:
        """Series in use, over all metrics."""
        return len(self._traffic) + len(self._connections) + len(self._failures)

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
            series = self._series(self._traffic, labels, time_seconds)
            self._traffic.add(series, _TRANSMIT, transmit_bytes)
            self._traffic.add(series, _RECEIVE, receive_bytes)

    def add_connections(self, labels: SeriesLabels, count: int, *, time_seconds: float) -> None:
        """Adds opened or accepted connections; `labels` have a direction."""
        with self._lock:
            series = self._series(self._connections, labels, time_seconds)
            self._connections.add(series, 0, count)

    def add_failures(self, labels: SeriesLabels, count: int, *, time_seconds: float) -> None:
        """Adds connects that have failed."""
        with self._lock:
            series = self._series(self._failures, labels, time_seconds)
            self._failures.add(series, 0, count)

    def see(  # noqa: PLR0913  (what an executable has)
        self,
        executable: Executable,
        workload: Workload,
        *,
        name: str,
        parent: Executable,
        size_bytes: int,
        time_seconds: float,
        is_deleted: bool = False,
    ) -> None:
        """Notes an executable; name and parent are those of the first time."""
        subject = (executable, workload)
        with self._lock:
            if self._facts.touch(
                subject, name=name, time_seconds=time_seconds, is_deleted=is_deleted
            ):
                self._entries[subject].is_fresh = True
                return
            known = KnownExecutable(
                executable=executable,
                workload=workload,
                name=name,
                parent=parent,
                size_bytes=size_bytes,
                first_seen_seconds=time_seconds,
                last_seen_seconds=time_seconds,
            )
            entry = self._entry(subject)
            entry.is_fresh = True
            if entry.subject == subject:
                self._facts.begin(entry.subject, known, is_deleted=is_deleted)
            else:
                self._facts.note(subject, known)

    def judge(self, sha256: Sha256, result: VirusTotalResult) -> None:
        """Notes what VirusTotal says of a content."""
        with self._lock:
            self._facts.judge(sha256, result)

    def restore_verdicts(self, verdicts: Iterable[KnownVerdict]) -> None:
        """Takes over what VirusTotal said in an earlier run, latest last; before `restore`."""
        with self._lock:
            self._facts.restore_verdicts(verdicts)

    def drop_stale(self, now_seconds: float) -> None:
        """Drops what has been silent for too long; `now_seconds` is monotonic.

        Silence is measured between calls, so that a step of the wall clock drops nothing.
        """
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.is_fresh:
                    entry.is_fresh = False
                    entry.silent_since_seconds = now_seconds
                    if entry.restored_silence_seconds:
                        entry.silent_since_seconds -= entry.restored_silence_seconds
                        entry.restored_silence_seconds = 0.0
                if now_seconds - entry.silent_since_seconds >= self._stale_after_seconds:
                    self._drop(entry)

    def restore(
        self,
        totals: Iterable[CounterTotal],
        executables: Iterable[KnownExecutable],
        *,
        now_seconds: float,
    ) -> None:
        """Takes over what an earlier run has left; what has gone stale since then stays away.

        `now_seconds` is the Unix time. To be called once, before anything is added. Where the
        bound was lowered, slots go to those that were seen last.
        """
        latest_first = sorted(executables, key=lambda known: -known.last_seen_seconds)
        stale: set[Subject] = set()
        with self._lock:
            for known in latest_first:
                subject = (known.executable, known.workload)
                silence_seconds = now_seconds - known.last_seen_seconds
                if silence_seconds >= self._stale_after_seconds:
                    stale.add(subject)
                elif self._cardinality.admitted < self._cardinality.limit:
                    entry = self._entry(subject)
                    entry.restored_silence_seconds = max(0.0, silence_seconds)
                    self._facts.restore(entry.subject, known)
            self._facts.remember(reversed(latest_first))
            for total in totals:
                if total.created_seconds:
                    self._restore_total(total, stale)

    def restart_counters(self) -> None:
        """Forgets all that was added: it belongs to another boot of the machine."""
        with self._lock:
            for entry in self._entries.values():
                self._drop_series(entry)

    def snapshot(self, now_seconds: float) -> Snapshot:
        """Everything the outputs expose, at this Unix time."""
        with self._lock:
            transmit_bytes, receive_bytes = self._traffic.freeze()
            (connections,) = self._connections.freeze()
            (connect_failures,) = self._failures.freeze()
            facts = self._facts.freeze(self._number)
        return Snapshot(
            time_seconds=now_seconds,
            transmit_bytes=transmit_bytes,
            receive_bytes=receive_bytes,
            connections=connections,
            connect_failures=connect_failures,
            executables=facts,
        )

    def changed_totals(self) -> Totals:
        """The totals that have changed since the last call.

        A series that was dropped comes with `created_seconds` 0: it is to be forgotten.
        """
        totals = Totals()
        with self._lock:
            for (metric, labels), columns in self._dropped.items():
                if columns.find(labels) is None:
                    totals.add(metric, labels, value=0, created_seconds=0.0)
            self._dropped.clear()
            for columns in (self._traffic, self._connections, self._failures):
                columns.take_changed(totals)
        return totals

    def changed_executables(self) -> tuple[KnownExecutable, ...]:
        """The executables that were seen since the last call, also those without series."""
        with self._lock:
            return self._facts.take_changed()

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _series(self, columns: Columns, labels: SeriesLabels, time_seconds: float) -> Series:
        series = columns.find(labels)
        if series is not None:
            series.entry.is_fresh = True
            return series
        entry = self._entry((labels.executable, labels.workload))
        entry.is_fresh = True
        if len(entry.series) >= MAX_SERIES and entry.subject != OTHERS:
            if not entry.is_full:
                entry.is_full = True
                self._health.count(catalog.SERIES_REFUSED, ("max_series",))
            entry = self._entries.setdefault(OTHERS, Entry(subject=OTHERS))
        if entry.subject == OTHERS:
            labels = replace(labels, executable=OTHERS[0], workload=OTHERS[1])
            series = columns.find(labels)
        if series is None:
            series = self._insert(columns, entry, labels, time_seconds)
        return series

    def _insert(
        self, columns: Columns, entry: Entry, labels: SeriesLabels, created_seconds: float
    ) -> Series:
        first_number = self._last_number + 1
        self._last_number += len(columns.metrics)
        return columns.insert(
            labels, entry, first_number=first_number, created_seconds=created_seconds
        )

    def _entry(self, subject: Subject) -> Entry:
        """The entry of an executable, made now if there is room; that of all others if not."""
        entry = self._entries.get(subject)
        if entry is not None:
            return entry
        if subject[0] == OTHER or not self._cardinality.admit(subject):
            subject = OTHERS
        return self._entries.setdefault(subject, Entry(subject=subject))

    def _drop(self, entry: Entry) -> None:
        self._drop_series(entry)
        del self._entries[entry.subject]
        if entry.subject != OTHERS:
            self._cardinality.release()
        self._facts.drop(entry.subject)

    def _drop_series(self, entry: Entry) -> None:
        for series in entry.series:
            columns = series.columns
            columns.remove(series)
            for metric in columns.metrics:
                self._dropped[metric, series.labels] = columns
        entry.series = ()
        entry.is_full = False

    def _restore_total(self, total: CounterTotal, stale: set[Subject]) -> None:
        columns = self._columns_of(total.metric)
        labels = total.labels
        subject = (labels.executable, labels.workload)
        if subject in stale:
            self._dropped[total.metric, labels] = columns
            return
        series = self._series(columns, labels, total.created_seconds)
        columns.add(series, columns.metrics.index(total.metric), total.value)
        if series.labels != labels:
            # The bound was lowered: it is part of the others from now on, and only there.
            self._dropped[total.metric, labels] = columns

    def _columns_of(self, metric: str) -> Columns:
        for columns in (self._traffic, self._connections, self._failures):
            if metric in columns.metrics:
                return columns
        raise ValueError(f"no counter is called {metric}")
