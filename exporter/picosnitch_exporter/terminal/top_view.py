"""What `top` shows, and what its keys do. No terminal here: keys come in, rows of text go out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from picosnitch_exporter.log.text import clean
from picosnitch_exporter.terminal.layout import Style, cells, fit, fit_columns
from picosnitch_exporter.terminal.listing import Listing
from picosnitch_exporter.terminal.live_client import Answer
from picosnitch_exporter.terminal.live_tables import (
    ConnectionLine,
    ConnectionTable,
    ExecutableLine,
    ExecutableTable,
)
from picosnitch_exporter.terminal.top_columns import CONNECTIONS, EXECUTABLES, moved

Line = TypeVar("Line")

_HEADER_ROWS: Final = 2
"""A title and the names of the columns; one more below is for the keys."""
_KEYS: Final = "Enter connections  / filter  < > sort  r reverse  p pause  h help  q quit"
_KEYS_OF_CONNECTIONS: Final = "Esc back  / filter  < > sort  r reverse  p pause  h help  q quit"
_HELP: Final = (
    "Up Down  j k        select a line",
    "PgUp PgDn Home End  further",
    "Enter               the connections of the selected executable",
    "Esc  Backspace      back",
    "/                   show only lines with some text; empty for all",
    "< >  (or , .)       sort by the column to the left or right",
    "r                   turn the order round",
    "p  Space            pause, go on",
    "q                   quit",
    "",
    "OUT and IN are bytes, those of a connection since it has been looked at.",
    "ACTIVE counts connections of the latest seconds, CONNS all of them.",
    "",
    "Any key goes back.",
)


class Key(Enum):
    """The keys that are no characters."""

    UP = "up"
    DOWN = "down"
    PAGE_UP = "page_up"
    PAGE_DOWN = "page_down"
    HOME = "home"
    END = "end"
    ENTER = "enter"
    ESCAPE = "escape"
    BACKSPACE = "backspace"


_LETTERS: Final = {"k": Key.UP, "j": Key.DOWN, "g": Key.HOME, "G": Key.END}


class Look(Enum):
    """What a whole row of the screen is."""

    LINE = "line"
    SELECTED = "selected"
    HEAD = "head"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the screen: texts one after the other, each with its style."""

    look: Look
    parts: tuple[tuple[str, Style], ...]

    @property
    def text(self) -> str:
        """The row without its looks."""
        return "".join(text for text, _style in self.parts)


class TopView:
    """The state of the display."""

    def __init__(self) -> None:
        self._executable_table = ExecutableTable()
        self._executables = Listing(
            EXECUTABLES, key=lambda one: (one.sha256, one.exe, one.workload), at_first=moved
        )
        self._connection_table = ConnectionTable()
        self._connections: Listing[ConnectionLine] | None = None
        self._chosen: ExecutableLine | None = None
        self._not_ready = ""
        self._page = 1
        self._is_filtering = False
        self._has_help = False
        self.is_paused = False
        self.has_quit = False

    @property
    def request(self) -> Answer:
        """What to ask the exporter."""
        if self._chosen is None:
            return {"show": "executables"}
        return {
            "show": "connections",
            "exe": self._chosen.exe,
            "sha256": self._chosen.sha256,
        }

    def take(self, answer: Answer, now: float) -> None:
        """Shows an answer, which came at this monotonic time; raises PicosnitchError."""
        if "executables" in answer and self._chosen is None:
            reason = answer.get("not_ready")
            self._not_ready = reason if isinstance(reason, str) else ""
            executables = self._executable_table.lines(answer, now)
            if not self.is_paused:
                self._executables.show(executables)
        elif (
            self._connections is not None
            and self._chosen is not None
            and (answer.get("sha256"), answer.get("exe")) == (self._chosen.sha256, self._chosen.exe)
        ):  # and not one that was left in the meantime
            connections = self._connection_table.lines(answer, now)
            if not self.is_paused or not self._connections.total:
                self._connections.show(connections)

    def press(self, key: Key | str) -> bool:
        """Does what the key is for; whether something else is to be asked for at once."""
        if self._has_help:
            self._has_help = False
        elif self._is_filtering:
            self._type(key)
        elif isinstance(key, Key) or key in _LETTERS:
            return self._go(key if isinstance(key, Key) else _LETTERS[key])
        else:
            self._do(key)
        return False

    def rows(self, *, width: int, height: int) -> list[Row]:
        """The screen, at most so many rows of at most so many cells."""
        if self._has_help:
            return [_plain(fit(text, width)) for text in _HELP[:height]]
        self._page = max(1, height - _HEADER_ROWS - 1)
        if self._connections is not None:
            table = _table(self._connections, width, self._page)
        else:
            table = _table(self._executables, width, self._page)
        rows = [_plain(fit(self._title(), width)), *table]
        rows += [_plain(" " * width)] * (height - 1 - len(rows))
        rows.append(_plain(fit(self._bottom(), width)))
        return rows[:height]

    def table(self, *, width: int) -> list[str]:
        """All executables, with the names of the columns first."""
        rows = _table(self._executables, width, max(1, len(self._executables.shown)))
        return [row.text for row in rows]

    @property
    def _listing(self) -> Listing[ExecutableLine] | Listing[ConnectionLine]:
        return self._executables if self._connections is None else self._connections

    def _do(self, key: str) -> None:
        listing = self._listing
        match key:
            case "q":
                self.has_quit = True
            case "/":
                self._is_filtering = True
            case "<" | ",":
                listing.sort_next(-1)
            case ">" | "." | "s":
                listing.sort_next(1)
            case "r":
                listing.reverse()
            case "p" | " ":
                self.is_paused = not self.is_paused
            case "h" | "?":
                self._has_help = True

    def _go(self, key: Key) -> bool:
        listing = self._listing
        steps = {
            Key.UP: -1,
            Key.DOWN: 1,
            Key.PAGE_UP: -self._page,
            Key.PAGE_DOWN: self._page,
            Key.HOME: -len(listing.shown),
            Key.END: len(listing.shown),
        }
        if key in steps:
            listing.move(steps[key])
            return False
        if key is Key.ENTER and self._connections is None:
            return self._open()
        if key in {Key.ESCAPE, Key.BACKSPACE}:
            return self._leave()
        return False

    def _open(self) -> bool:
        self._chosen = self._executables.selected
        if self._chosen is None:
            return False
        self._connection_table = ConnectionTable()
        self._connections = Listing(
            CONNECTIONS, key=lambda one: (one.pid, one.local_port, one.peer), at_first=moved
        )
        return True

    def _leave(self) -> bool:
        if self._connections is None:
            self._executables.set_filter("")
            return False
        self._chosen = self._connections = None
        return True

    def _type(self, key: Key | str) -> None:
        listing = self._listing
        if key is Key.ENTER:
            self._is_filtering = False
        elif key is Key.ESCAPE:
            self._is_filtering = False
            listing.set_filter("")
        elif key is Key.BACKSPACE:
            listing.set_filter(listing.filter[:-1])
        elif isinstance(key, str) and key.isprintable():
            listing.set_filter(listing.filter + key)

    def _title(self) -> str:
        listing = self._listing
        kind = "executables" if self._chosen is None else "connections"
        count = f"{len(listing.shown)} of {listing.total}" if listing.filter else listing.total
        parts = [f"{count} {kind}"]
        if self._chosen is not None:
            verdict = f" ({self._chosen.verdict})" if self._chosen.verdict else ""
            parts.insert(0, f"{clean(self._chosen.exe)}{verdict}")
        if self.is_paused:
            parts.append("PAUSED")
        if self._not_ready:
            parts.append(f"not ready: {clean(self._not_ready)}")
        if listing.filter and not self._is_filtering:
            parts.append(f"with '{clean(listing.filter)}'")
        return "picosnitch  " + "  ".join(parts)

    def _bottom(self) -> str:
        if self._is_filtering:
            return f"filter: {clean(self._listing.filter)}_"
        return _KEYS if self._chosen is None else _KEYS_OF_CONNECTIONS


def _plain(text: str) -> Row:
    return Row(look=Look.PLAIN, parts=((text, Style.NORMAL),))


def _table(listing: Listing[Line], width: int, height: int) -> Sequence[Row]:
    columns = [
        column
        for column in listing.columns
        if not column.is_optional or any(map(column.text, listing.shown))
    ]
    fitted = fit_columns(columns, width)
    head = []
    for one in fitted:
        column = one.column
        mark = "*" if column is listing.sorted_by else ""
        head.append(fit(f"{column.title}{mark}", one.width, is_right=column.is_right))
    rows = [Row(look=Look.HEAD, parts=((fit("  ".join(head), width), Style.NORMAL),))]
    for number, line in enumerate(listing.scroll(height), start=listing.first):
        parts: list[tuple[str, Style]] = []
        for one in fitted:
            if parts:
                parts.append(("  ", Style.NORMAL))
            cell = one.cell(line)
            # On the selected line a style is a background: not under nothing.
            parts.append((cell, one.column.style(line) if cell.strip() else Style.NORMAL))
        rest = width - sum(cells(text) for text, _style in parts)
        parts.append((" " * max(0, rest), Style.NORMAL))
        is_selected = number == listing.position
        rows.append(Row(look=Look.SELECTED if is_selected else Look.LINE, parts=tuple(parts)))
    return rows
