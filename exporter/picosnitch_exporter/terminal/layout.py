"""Tables for a terminal of any width: which columns fit, and how each cell is cut. Pure."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

Line_contra = TypeVar("Line_contra", contravariant=True)

_GAP: Final = 2
_UNITS: Final = ("", "K", "M", "G", "T", "P", "E")
_STEP: Final = 1024
_TENTHS_BELOW: Final = 10


class Style(Enum):
    """What a cell means; the screen chooses how it looks, with colours or without."""

    NORMAL = "normal"
    DIM = "dim"
    MOVING = "moving"
    WARNING = "warning"
    BAD = "bad"


class Cut(Enum):
    """Which end of a text that is too long goes."""

    START = "start"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[Line_contra]):
    """One column; of those that don't fit, the ones with the highest `rank` go first."""

    title: str
    width: int
    """At least."""
    rank: int
    text: Callable[[Line_contra], str]
    order: Callable[[Line_contra], tuple[float, str]]
    """What lines are sorted by."""
    is_right: bool = False
    grows: int = 0
    """Its share of the room that is left."""
    cut: Cut = Cut.END
    style: Callable[[Line_contra], Style] = lambda _line: Style.NORMAL
    is_optional: bool = False
    """Left out where it is empty in all lines."""
    falls: bool = True
    """Sorted with the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Generic[Line_contra]):
    """A column with the width that it got, and where it begins."""

    column: Column[Line_contra]
    start: int
    width: int

    def cell(self, line: Line_contra) -> str:
        """The text of this column, exactly as wide as the column."""
        return fit(
            self.column.text(line), self.width, is_right=self.column.is_right, cut=self.column.cut
        )


def fit_columns(
    columns: Sequence[Column[Line_contra]], width: int
) -> tuple[Fitted[Line_contra], ...]:
    """Those columns that a terminal of this width has room for."""
    kept = list(columns)
    while len(kept) > 1 and _least(kept) > width:
        kept.remove(max(kept, key=lambda column: column.rank))
    left = max(0, width - _least(kept))
    shares = sum(column.grows for column in kept)
    fitted = []
    start = 0
    for column in kept:
        wide = min(column.width + (left * column.grows // shares if shares else 0), width)
        fitted.append(Fitted(column=column, start=start, width=wide))
        start += wide + _GAP
    return tuple(fitted)


def _least(columns: Sequence[Column[Line_contra]]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def fit(text: str, width: int, *, is_right: bool = False, cut: Cut = Cut.END) -> str:
    """The text in exactly so many cells of the terminal."""
    taken = cells(text)
    if taken > width:
        text = _shorten(text, width, cut)
        taken = cells(text)
    blank = " " * max(0, width - taken)
    return blank + text if is_right else text + blank


def cells(text: str) -> int:
    """How many cells of a terminal the text takes (Unicode Standard Annex 11)."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _shorten(text: str, width: int, cut: Cut) -> str:
    if width <= 1:
        return "~"[:width]
    left = width - 1
    kept = 0
    for character in reversed(text) if cut is Cut.START else text:
        left -= _cells_of(character)
        if left < 0:
            break
        kept += 1
    return f"~{text[len(text) - kept :]}" if cut is Cut.START else f"{text[:kept]}~"


def amount(value: float) -> str:
    """Bytes in five characters at most, with a unit of 1024; empty for none."""
    if value < 1:
        return ""
    unit = 0
    while value >= _STEP - 0.5 and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    is_short = unit and value < _TENTHS_BELOW - 0.05
    return f"{value:.1f}{_UNITS[unit]}" if is_short else f"{value:.0f}{_UNITS[unit]}"
