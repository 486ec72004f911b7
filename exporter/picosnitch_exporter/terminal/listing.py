"""A table that is looked at: sorted, filtered, with one line selected. Pure."""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from picosnitch_exporter.terminal.layout import Column

Line = TypeVar("Line")


class Listing(Generic[Line]):
    """The lines of one table, and what the user has chosen of it."""

    def __init__(
        self,
        columns: Sequence[Column[Line]],
        *,
        key: Callable[[Line], Hashable],
        at_first: Callable[[Line], tuple[float, float]],
    ) -> None:
        self.columns = tuple(columns)
        self._key = key
        self._at_first = at_first
        self._lines: list[Line] = []
        self.shown: list[Line] = []
        """In order, those that the filter lets through."""
        self.sorted_by: Column[Line] | None = None
        """None: by what moves most."""
        self.is_reversed = False
        self.filter = ""
        self.first = 0
        """Number of the line at the top of the screen."""
        self._selected: Hashable | None = None
        self._position = 0

    @property
    def total(self) -> int:
        """Lines without the filter."""
        return len(self._lines)

    @property
    def position(self) -> int:
        """Number of the selected line among those that are shown."""
        return self._position

    @property
    def selected(self) -> Line | None:
        """The selected line."""
        return self.shown[self._position] if self.shown else None

    def show(self, lines: Sequence[Line]) -> None:
        """Takes new lines; the selected one stays selected, wherever it has gone to."""
        self._lines = list(lines)
        self._arrange()

    def set_filter(self, text: str) -> None:
        """Shows only lines with this text in any column, whatever its case."""
        self.filter = text
        self._arrange()

    def sort_next(self, step: int) -> None:
        """Sorts by the next or the previous column; beside the first is no column."""
        choices = (None, *self.columns)
        index = (choices.index(self.sorted_by) + step) % len(choices)
        self.sorted_by = choices[index]
        self.is_reversed = False
        self._arrange()

    def reverse(self) -> None:
        """Turns the order round."""
        self.is_reversed = not self.is_reversed
        self._arrange()

    def move(self, step: int) -> None:
        """Selects the line that many below, or above."""
        self._select(self._position + step)

    def scroll(self, height: int) -> Sequence[Line]:
        """The lines for so many rows of the screen, the selected one among them."""
        height = max(1, height)
        last = max(0, len(self.shown) - height)
        lowest, highest = self._position - height + 1, self._position
        self.first = min(max(self.first, lowest, 0), highest, last)
        return self.shown[self.first : self.first + height]

    def _select(self, position: int) -> None:
        self._position = max(0, min(position, len(self.shown) - 1))
        self._selected = self._key(self.shown[self._position]) if self.shown else None

    def _arrange(self) -> None:
        wanted = self.filter.casefold()
        lines = [line for line in self._lines if self._matches(line, wanted)]
        lines.sort(key=self.columns[0].order)
        lines.sort(key=self._at_first, reverse=True)
        column = self.sorted_by
        if column is not None:
            lines.sort(key=column.order, reverse=column.falls)
        if self.is_reversed:
            lines.reverse()
        self.shown = lines
        # Nobody has moved yet: then it is the first one that is selected, not a certain one.
        if self._position and self._selected is not None:
            for position, line in enumerate(lines):
                if self._key(line) == self._selected:
                    self._position = position
                    return
        self._select(self._position)

    def _matches(self, line: Line, wanted: str) -> bool:
        return not wanted or any(wanted in column.text(line).casefold() for column in self.columns)
