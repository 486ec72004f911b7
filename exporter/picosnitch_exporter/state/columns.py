"""The series of one counter, as columns that can be copied at once."""

from array import array

from picosnitch_exporter.model import CounterColumn, CounterTotal, SeriesLabels

_MASK = (1 << 64) - 1


class Column:
    """Series by label, in columns of equal length. Values are 64 bits wide and wrap around.

    A frozen copy shares everything but the values with the next, unless series came or went
    between the two: with 50,000 series it takes 0.03 ms instead of 1.
    """

    def __init__(self) -> None:
        self._slots: dict[SeriesLabels, int] = {}
        self._labels: list[SeriesLabels] = []
        self._numbers = array("Q")
        self._values = array("Q")
        self._created = array("d")
        self._changed: set[SeriesLabels] = set()
        self._frozen: tuple[tuple[SeriesLabels, ...], array[int], array[float]] | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, labels: SeriesLabels) -> bool:
        return labels in self._slots

    def add(self, labels: SeriesLabels, amount: int) -> bool:
        """Adds to a series; False where there is none."""
        slot = self._slots.get(labels)
        if slot is None:
            return False
        if amount:
            self._values[slot] = (self._values[slot] + amount) & _MASK
            self._changed.add(labels)
        return True

    def insert(
        self, labels: SeriesLabels, *, number: int, value: int, created_seconds: float
    ) -> None:
        """Begins a series."""
        self._slots[labels] = len(self._labels)
        self._labels.append(labels)
        self._numbers.append(number)
        self._values.append(value & _MASK)
        self._created.append(created_seconds)
        self._changed.add(labels)
        self._frozen = None

    def remove(self, labels: SeriesLabels) -> None:
        """Ends a series; the last one takes its place."""
        slot = self._slots.pop(labels)
        moved = self._labels.pop()
        number, value, created = self._numbers.pop(), self._values.pop(), self._created.pop()
        if slot < len(self._labels):
            self._slots[moved] = slot
            self._labels[slot] = moved
            self._numbers[slot] = number
            self._values[slot] = value
            self._created[slot] = created
        self._changed.discard(labels)
        self._frozen = None

    def freeze(self) -> CounterColumn:
        """A copy that stays as it is."""
        if self._frozen is None:
            self._frozen = (tuple(self._labels), self._numbers[:], self._created[:])
        labels, numbers, created = self._frozen
        return CounterColumn(
            labels=labels, numbers=numbers, values=self._values[:], created_seconds=created
        )

    def take_changed(self, metric: str) -> list[CounterTotal]:
        """The totals that have changed since the last call, under the metric's name."""
        totals = []
        for labels in self._changed:
            slot = self._slots[labels]
            totals.append(
                CounterTotal(
                    metric=metric,
                    labels=labels,
                    value=self._values[slot],
                    created_seconds=self._created[slot],
                ),
            )
        self._changed.clear()
        return totals

    def forget_change(self, labels: SeriesLabels) -> None:
        """Leaves a series out of the next `take_changed`: it is known there already."""
        self._changed.discard(labels)
