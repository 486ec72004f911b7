"""Which events are told at once: those of one kind together, none twice, not too many."""

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from picosnitch_exporter.checks.events import EventKind, Notice
from picosnitch_exporter.model import HOST
from picosnitch_exporter.state.cardinality import fingerprint

GROUP_SECONDS: Final = 2.0
"""An installation brings many new executables at about the same time."""
GAP_SECONDS: Final = 20.0
"""Between two messages of one kind; what comes in between is in the second one."""
REPEAT_SECONDS: Final = 3600.0
"""What was told is not told again within this time."""
FIRST_START_SECONDS: Final = 60.0
"""On a first start everything is new: what is seen in this time is one summary."""
MAX_WAITING: Final = 1000
"""Of one kind; beyond it the number is kept, and nothing else."""
_MAX_REMEMBERED = 4096
_NEW = (EventKind.NEW_EXECUTABLE, EventKind.NEW_HASH)

_Key = tuple[object, ...]


class Grouping:
    """Collects events and gives them out in groups of one kind. Times are monotonic seconds."""

    def __init__(self, *, is_first_start: bool, now: float) -> None:
        self._quiet_until = now + FIRST_START_SECONDS if is_first_start else None
        self._first: Notice | None = None
        self._waiting: dict[EventKind, list[Notice]] = {}
        self._due: dict[EventKind, float] = {}
        self._next: dict[EventKind, float] = {}
        self._told: OrderedDict[_Key, float] = OrderedDict()
        self.suppressed = 0
        """Events that were repetitions, or too many."""

    def add(self, notice: Notice, *, now: float) -> None:
        """Takes an event."""
        if self._is_repeated(notice, now):
            self.suppressed += 1
            return
        if self._quiet_until is not None and notice.kind in _NEW:
            self._summarise(notice)
            return
        waiting = self._waiting.setdefault(notice.kind, [])
        if len(waiting) >= MAX_WAITING:
            self.suppressed += 1
            return
        waiting.append(notice)
        if notice.kind not in self._due:
            due = max(now + GROUP_SECONDS, self._next.get(notice.kind, 0.0))
            self._due[notice.kind] = due

    def take(self, *, now: float) -> list[tuple[Notice, ...]]:
        """The groups that are due."""
        groups: list[tuple[Notice, ...]] = []
        if self._quiet_until is not None and now >= self._quiet_until:
            self._quiet_until = None
            if self._first is not None:
                groups.append((self._first,))
        for kind in [kind for kind, due in self._due.items() if due <= now]:
            del self._due[kind]
            self._next[kind] = now + GAP_SECONDS
            groups.append(tuple(self._waiting.pop(kind)))
        return groups

    def _summarise(self, notice: Notice) -> None:
        count = self._first.count + 1 if self._first is not None else 1
        known = f"{count} executable{'' if count == 1 else 's'}"
        first = self._first or Notice(
            kind=EventKind.FIRST_START, time_seconds=notice.time_seconds, count=0
        )
        self._first = replace(
            first,
            count=count,
            detail=f"{known} on the network so far; you are told of those that come from now on",
        )

    def _is_repeated(self, notice: Notice, now: float) -> bool:
        subject: object = notice.detail.partition(":")[0]
        if notice.executable is not None:
            subject = fingerprint((notice.executable, HOST))
        key: _Key = (notice.kind, subject, notice.verdict)
        last = self._told.get(key)
        if last is not None and now - last < REPEAT_SECONDS:
            return True
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > _MAX_REMEMBERED:
            self._told.popitem(last=False)
        return False
