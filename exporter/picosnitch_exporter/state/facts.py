"""What is known of executables: first and last seen, name, parent, size, verdict."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from picosnitch_exporter import catalog
from picosnitch_exporter.model import (
    UNJUDGED,
    ExecutableFacts,
    KnownExecutable,
    KnownVerdict,
    Sha256,
    Verdict,
    VirusTotalResult,
)
from picosnitch_exporter.state.cardinality import Counts, Subject, fingerprint

MAX_REMEMBERED = 65_536
"""Executables without series whose first sight is remembered, those that one commit can speak of,
and verdicts."""
MAX_TOLD_BYTES = 32 << 20
"""Of the paths that one commit can speak of: one of 4,096 bytes can take 16 KB of memory."""

_UNKNOWN = VirusTotalResult(verdict=Verdict.UNKNOWN)


# Not frozen: it is written with each record.
@dataclass(slots=True, kw_only=True, eq=False)
class _Fact:
    known: KnownExecutable
    last_seen_seconds: float
    number: int = 0
    """Of `exposed`; 0 where that is to be numbered anew."""
    exposed: ExecutableFacts | None = None
    is_changed: bool = False
    is_deleted: bool = False
    """Once it was, for as long as it has series."""


class Facts:
    """The facts of each executable with series, and when those without were first seen.

    Part of `Store`, which locks.
    """

    def __init__(
        self,
        *,
        health: Counts,
        max_remembered: int = MAX_REMEMBERED,
        max_told_bytes: int = MAX_TOLD_BYTES,
        unjudged: VirusTotalResult = UNJUDGED,
    ) -> None:
        self._unjudged = unjudged
        self._health = health
        self._max_remembered = max_remembered
        self._max_told_bytes = max_told_bytes
        self._facts: dict[Subject, _Fact] = {}
        # By fingerprint: nothing but the time is asked for.
        self._first_seen: OrderedDict[bytes, float] = OrderedDict()
        self._verdicts: OrderedDict[Sha256, VirusTotalResult] = OrderedDict()
        self._changed: list[_Fact] = []
        # What the next commit has to tell of executables that have no facts (any more).
        self._departed: dict[Subject, KnownExecutable] = {}
        self._told_bytes = 0
        self._frozen: tuple[ExecutableFacts, ...] | None = ()

    def touch(
        self, subject: Subject, *, name: str, time_seconds: float, is_deleted: bool = False
    ) -> bool:
        """Notes that the executable was seen again; False where it is not known."""
        fact = self._facts.get(subject)
        if fact is None:
            return False
        fact.last_seen_seconds = max(fact.last_seen_seconds, time_seconds)
        fact.is_deleted = fact.is_deleted or is_deleted
        if time_seconds < fact.known.first_seen_seconds or (name and not fact.known.name):
            # The labels change only if its first process was introduced too late to be named.
            if not fact.known.name and name:
                fact.number = 0
            first_seen = min(fact.known.first_seen_seconds, time_seconds)
            fact.known = replace(
                fact.known, name=fact.known.name or name, first_seen_seconds=first_seen
            )
        self._mark_changed(fact)
        return True

    def begin(self, subject: Subject, known: KnownExecutable, *, is_deleted: bool = False) -> None:
        """Notes an executable that has series, for the first time or again after it was dropped."""
        first_seen = self._first_seen.pop(fingerprint(subject), float("inf"))
        first_seen = min(known.first_seen_seconds, first_seen)
        fact = self._insert(subject, replace(known, first_seen_seconds=first_seen))
        fact.is_deleted = is_deleted
        self._mark_changed(fact)

    def note(self, subject: Subject, known: KnownExecutable) -> None:
        """Notes an executable that has no series."""
        key = fingerprint(subject)
        first_seen = min(known.first_seen_seconds, self._first_seen.get(key, float("inf")))
        self._remember(key, first_seen)
        self._tell(subject, replace(known, first_seen_seconds=first_seen))

    def restore(self, subject: Subject, known: KnownExecutable) -> None:
        """Takes over the facts from an earlier run."""
        self._insert(subject, known)
        self._frozen = None

    def remember(self, executables: Iterable[KnownExecutable]) -> None:
        """Takes over when others were first seen; the last ones are kept longest."""
        for known in executables:
            subject = (known.executable, known.workload)
            if subject not in self._facts:
                self._remember(fingerprint(subject), known.first_seen_seconds)

    def judge(self, sha256: Sha256, result: VirusTotalResult) -> None:
        """Notes what VirusTotal says of a content."""
        self._keep_verdict(sha256, result)
        for fact in self._facts.values():
            if fact.known.executable.sha256 == sha256:
                fact.exposed = None
                self._frozen = None

    def restore_verdicts(self, verdicts: Iterable[KnownVerdict]) -> None:
        """Takes over what VirusTotal said in an earlier run; the last ones are kept longest."""
        for known in verdicts:
            self._keep_verdict(known.sha256, known.result)

    def drop(self, subject: Subject) -> None:
        """Forgets the facts of an executable, but not when it was first seen."""
        fact = self._facts.pop(subject, None)
        if fact is None:
            return
        self._remember(fingerprint(subject), fact.known.first_seen_seconds)
        if fact.is_changed:
            self._tell(subject, _current(fact))
        self._frozen = None

    def freeze(self, next_number: Callable[[], int]) -> tuple[ExecutableFacts, ...]:
        """All facts, as values that stay as they are."""
        if self._frozen is None:
            self._frozen = tuple(self._expose(fact, next_number) for fact in self._facts.values())
        return self._frozen

    def take_changed(self) -> tuple[KnownExecutable, ...]:
        """What has become known since the last call."""
        for fact in self._changed:
            fact.is_changed = False
            if self._facts.get((fact.known.executable, fact.known.workload)) is fact:
                self._departed[fact.known.executable, fact.known.workload] = _current(fact)
        self._changed.clear()
        changed = tuple(self._departed.values())
        self._departed.clear()
        self._told_bytes = 0
        return changed

    def _insert(self, subject: Subject, known: KnownExecutable) -> _Fact:
        fact = _Fact(known=known, last_seen_seconds=known.last_seen_seconds)
        self._facts[subject] = fact
        return fact

    def _expose(self, fact: _Fact, next_number: Callable[[], int]) -> ExecutableFacts:
        if fact.exposed is None:
            fact.number = fact.number or next_number()
            known = fact.known
            fact.exposed = ExecutableFacts(
                number=fact.number,
                executable=known.executable,
                workload=known.workload,
                name=known.name,
                parent=known.parent,
                size_bytes=known.size_bytes,
                first_seen_seconds=known.first_seen_seconds,
                last_seen_seconds=fact.last_seen_seconds,
                virustotal=self._verdict_of(known.executable.sha256),
                is_deleted=fact.is_deleted,
            )
        return fact.exposed

    def _mark_changed(self, fact: _Fact) -> None:
        self._frozen = None
        fact.exposed = None
        if not fact.is_changed:
            fact.is_changed = True
            self._changed.append(fact)

    def _verdict_of(self, sha256: Sha256) -> VirusTotalResult:
        if not sha256 and self._unjudged.verdict is Verdict.PENDING:
            # Nobody can be asked about what could not be hashed.
            return _UNKNOWN
        return self._verdicts.get(sha256, self._unjudged)

    def _keep_verdict(self, sha256: Sha256, result: VirusTotalResult) -> None:
        self._verdicts[sha256] = result
        self._verdicts.move_to_end(sha256)
        if len(self._verdicts) > self._max_remembered:
            self._verdicts.popitem(last=False)

    def _remember(self, key: bytes, first_seen_seconds: float) -> None:
        self._first_seen[key] = first_seen_seconds
        self._first_seen.move_to_end(key)
        if len(self._first_seen) > self._max_remembered:
            self._first_seen.popitem(last=False)

    def _tell(self, subject: Subject, known: KnownExecutable) -> None:
        if subject not in self._departed:
            is_full = len(self._departed) >= self._max_remembered
            if is_full or self._told_bytes >= self._max_told_bytes:
                self._health.count(catalog.EVENTS_LOST, ("state", "executables_full"))
                return
            paths = (known.executable.exe, known.parent.exe)
            self._told_bytes += sum(map(sys.getsizeof, paths))
        self._departed[subject] = known


def _current(fact: _Fact) -> KnownExecutable:
    if fact.last_seen_seconds == fact.known.last_seen_seconds:
        return fact.known
    return replace(fact.known, last_seen_seconds=fact.last_seen_seconds)
