"""What a receiver of deltas has been told, so that the next export says what came since."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from picosnitch_exporter.model import CounterColumn, Snapshot

_MASK = (1 << 64) - 1
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a series has been told."""

    number: int
    value: int
    time_ns: int


class Baseline:
    """Positions of the series of the last snapshot, and of no others.

    What has not arrived is part of the next delta, which then covers a longer time.
    """

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._told)

    def begin(self, snapshot: Snapshot) -> None:
        """Take totals of an earlier run as told: that run has done so."""
        time_ns = int(snapshot.time_seconds * _NS)
        for column in _columns(snapshot):
            for number, value in zip(column.numbers, column.values, strict=True):
                self._told[number] = (value, time_ns)

    def added(
        self, column: CounterColumn, time_ns: int
    ) -> Iterator[tuple[int, int | None, Position | None]]:
        """Of each series: since when, what came (None for nothing), and where that leads."""
        for number, value, created_seconds in zip(
            column.numbers, column.values, column.created_seconds, strict=True
        ):
            before, start_ns = self._told.get(number, (0, int(created_seconds * _NS)))
            if value == before:
                self._told[number] = (value, time_ns)
                yield start_ns, None, None
            else:
                position = Position(number=number, value=value, time_ns=time_ns)
                yield start_ns, (value - before) & _MASK, position

    def told(self, positions: Iterable[Position]) -> None:
        """Note what has arrived."""
        for position in positions:
            self._told[position.number] = (position.value, position.time_ns)

    def keep(self, snapshot: Snapshot) -> None:
        """Forget series that are gone: their numbers never come back."""
        present = {number for column in _columns(snapshot) for number in column.numbers}
        if len(present) < len(self._told):
            self._told = {number: told for number, told in self._told.items() if number in present}


def _columns(snapshot: Snapshot) -> tuple[CounterColumn, ...]:
    return (
        snapshot.transmit_bytes,
        snapshot.receive_bytes,
        snapshot.connections,
        snapshot.connect_failures,
    )
