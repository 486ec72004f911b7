"""The totals of a commit, in columns: as objects, those of 2,000 executables take half a MB."""

from array import array
from collections.abc import Collection, Iterator

from picosnitch_exporter.model import CounterTotal, SeriesLabels


class Totals(Collection[CounterTotal]):
    """Totals in the order in which they were added, each made when it is asked for."""

    def __init__(self) -> None:
        self._metrics: list[str] = []
        self._labels: list[SeriesLabels] = []
        self._values = array("Q")
        self._created_seconds = array("d")

    def add(self, metric: str, labels: SeriesLabels, *, value: int, created_seconds: float) -> None:
        """Adds one; the arguments are those of `CounterTotal`."""
        self._metrics.append(metric)
        self._labels.append(labels)
        self._values.append(value)
        self._created_seconds.append(created_seconds)

    def __len__(self) -> int:
        return len(self._metrics)

    def __iter__(self) -> Iterator[CounterTotal]:
        columns = (self._metrics, self._labels, self._values, self._created_seconds)
        for metric, labels, value, created_seconds in zip(*columns, strict=True):
            yield CounterTotal(
                metric=metric, labels=labels, value=value, created_seconds=created_seconds
            )

    def __contains__(self, total: object) -> bool:
        return any(total == each for each in self)
