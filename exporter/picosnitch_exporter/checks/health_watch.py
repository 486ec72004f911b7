"""Finds in the exporter's own metrics what people have to be told of."""

from collections.abc import Iterable

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.events import EventKind, Notice
from picosnitch_exporter.state.health import Family

_WATCHED = {
    catalog.LOG_ERRORS.name: EventKind.LOG_FAILED,
    catalog.LOG_ROWS_DROPPED.name: EventKind.RECORDS_LOST,
    catalog.EVENTS_LOST.name: EventKind.RECORDS_LOST,
}
_PASSING = "locked"
"""A database that somebody else has locked for a moment is no trouble yet."""


class HealthWatch:
    """Compares the metrics with those of the look before; the first look only takes them in.

    What was lost before the start of this process is not told: an earlier one has.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, tuple[str, ...]], float] | None = None
        self._rising: set[tuple[str, tuple[str, ...]]] = set()

    def look(self, families: Iterable[Family], *, time_seconds: float) -> list[Notice]:
        """What has got worse since the last look."""
        values = {
            (family.metric.name, reading.labels): reading.value
            for family in families
            if family.metric.name in _WATCHED
            for reading in family.readings
        }
        before, self._seen = self._seen, values
        if before is None:
            return []
        rising = {key for key, value in values.items() if value > before.get(key, 0.0)}
        notices = [
            _notice(key, values[key] - before.get(key, 0.0), time_seconds)
            for key in sorted(rising)
            if key[1][-1] != _PASSING or key in self._rising
        ]
        self._rising = rising
        return notices


def _notice(key: tuple[str, tuple[str, ...]], amount: float, time_seconds: float) -> Notice:
    name, (what, reason) = key
    kind = _WATCHED[name]
    if kind is EventKind.LOG_FAILED:
        detail = f"{what}: {reason.replace('_', ' ')}; see error.log"
    else:
        detail = f"{what}: {amount:.0f} ({reason.replace('_', ' ')})"
    return Notice(
        kind=kind,
        time_seconds=time_seconds,
        detail=detail,
        count=1 if kind is EventKind.LOG_FAILED else max(1, int(amount)),
    )
