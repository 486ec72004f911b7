"""`picosnitch-exporter top`: what talks right now, in the terminal.

Curses, because it is there: importing it takes 1 ms and 0.3 MB (Textual: 300 ms and 23 MB), and it
knows every terminal that SSH may bring along.
"""

import argparse
import contextlib
import curses
import locale
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from picosnitch_exporter.errors import PicosnitchError, UsageError
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.terminal.layout import Style
from picosnitch_exporter.terminal.live_client import LiveClient
from picosnitch_exporter.terminal.top_view import Key, Look, Row, TopView

_KEYS: Final = {
    curses.KEY_UP: Key.UP,
    curses.KEY_DOWN: Key.DOWN,
    curses.KEY_PPAGE: Key.PAGE_UP,
    curses.KEY_NPAGE: Key.PAGE_DOWN,
    curses.KEY_HOME: Key.HOME,
    curses.KEY_END: Key.END,
    curses.KEY_ENTER: Key.ENTER,
    curses.KEY_LEFT: Key.ESCAPE,
    curses.KEY_RIGHT: Key.ENTER,
    curses.KEY_BACKSPACE: Key.BACKSPACE,
}
_CHARACTERS: Final = {
    "\n": Key.ENTER,
    "\r": Key.ENTER,
    "\x1b": Key.ESCAPE,
    "\x7f": Key.BACKSPACE,
    "\b": Key.BACKSPACE,
}
_COLOURS: Final = {
    Style.MOVING: curses.COLOR_GREEN,
    Style.WARNING: curses.COLOR_YELLOW,
    Style.BAD: curses.COLOR_RED,
}
_ESCAPE_MILLISECONDS: Final = 50
_LOOK_SECONDS: Final = 0.25
"""How soon a change of the terminal's size shows."""
_ONCE_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 10.0
_WIDE: Final = 200
_MIN_INTERVAL: Final = 0.2


def run(settings: Settings, arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Shows the running exporter until q is pressed.

    Raises
    ------
    PicosnitchError
        if none runs, it has stopped, or one may not look; if the terminal is of no use.
    """
    if not _MIN_INTERVAL <= arguments.interval <= 3600:  # noqa: PLR2004  (an hour)
        raise UsageError(f"--interval: must be between {_MIN_INTERVAL} and 3600 seconds")
    storage = settings.storage.path
    if arguments.once:
        return _once(storage)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal (ssh -t): top --once prints the table once")
    # In time: the screen is left as it is if nobody answers.
    client = LiveClient(storage)
    has_colour = not (arguments.no_color or environment.get("NO_COLOR"))
    locale.setlocale(locale.LC_ALL, "")
    os.environ.setdefault("ESCDELAY", str(_ESCAPE_MILLISECONDS))
    try:
        curses.wrapper(
            lambda window: _Screen(window, client, has_colour=has_colour).run(arguments.interval)
        )
    except curses.error as error:
        raise PicosnitchError(
            f"the terminal can't be used ({error}): is TERM={environment.get('TERM', '')} right?"
        ) from error
    except KeyboardInterrupt:
        pass  # as good as q
    finally:
        client.close()
    return 0


def _once(storage: Path) -> int:
    client = LiveClient(storage)
    with contextlib.closing(client):
        view = TopView()
        for wait_seconds in (_ONCE_SECONDS, 0.0):
            client.ask(view.request)
            answer = client.wait(_ANSWER_SECONDS)
            if answer is None:
                raise PicosnitchError(f"the exporter at {storage} does not answer: see its log")
            view.take(answer, time.monotonic())
            time.sleep(wait_seconds)
    for text in view.table(width=_WIDE):
        print(text.rstrip())
    return 0


class _Screen:
    """The terminal, and the loop between it and the exporter."""

    def __init__(self, window: curses.window, client: LiveClient, *, has_colour: bool) -> None:
        self._window = window
        self._client = client
        self._view = TopView()
        self._encoding = locale.getpreferredencoding(do_setlocale=False)
        self._colours: dict[Style, int] = {}
        window.nodelay(True)  # noqa: FBT003  (curses takes no keywords)
        with contextlib.suppress(curses.error):  # not every terminal can hide it
            curses.curs_set(0)
        if has_colour and curses.has_colors():
            curses.use_default_colors()
            for number, (style, colour) in enumerate(_COLOURS.items(), start=1):
                curses.init_pair(number, colour, -1)
                self._colours[style] = curses.color_pair(number)

    def run(self, interval_seconds: float) -> None:
        """Until q is pressed; raises PicosnitchError if the exporter stops."""
        next_ask = 0.0
        self._draw()
        while not self._view.has_quit:
            now = time.monotonic()
            if now >= next_ask and not self._client.is_waiting:
                self._client.ask(self._view.request)
                next_ask = now + interval_seconds
            readable, _w, _x = select.select([sys.stdin, self._client], [], [], _LOOK_SECONDS)
            if self._client in readable and (answer := self._client.take()) is not None:
                self._view.take(answer, time.monotonic())
                self._draw()
            if self._press_all():
                next_ask = 0.0

    def _press_all(self) -> bool:
        """Does what all waiting keys are for; whether to ask at once."""
        is_urgent = False
        while True:
            try:
                character = self._window.get_wch()
            except curses.error:  # none is waiting
                return is_urgent
            key: Key | str | None
            if isinstance(character, int):
                key = _KEYS.get(character)
                if character == curses.KEY_RESIZE:
                    curses.update_lines_cols()
                    self._window.clear()
            else:
                key = _CHARACTERS.get(character, character)
            if key is not None:
                is_urgent |= self._view.press(key)
            self._draw()

    def _draw(self) -> None:
        height, width = self._window.getmaxyx()
        self._window.erase()
        for number, row in enumerate(self._view.rows(width=width, height=height)):
            self._draw_row(number, row)
        self._window.refresh()

    def _draw_row(self, number: int, row: Row) -> None:
        column = 0
        for text, style in row.parts:
            attributes = self._attributes(row.look, style)
            encodable = text.encode(self._encoding, "replace").decode(self._encoding)
            # The last cell of the screen can't be written without scrolling: it is, and complains.
            with contextlib.suppress(curses.error):
                if column:
                    self._window.addstr(encodable, attributes)
                else:
                    self._window.addstr(number, 0, encodable, attributes)
            column += len(text)

    def _attributes(self, look: Look, style: Style) -> int:
        if look is Look.HEAD:
            return curses.A_REVERSE | curses.A_BOLD
        marked = curses.A_REVERSE if look is Look.SELECTED else 0
        if self._colours:
            return marked | self._colours.get(style, curses.A_DIM if style is Style.DIM else 0)
        return marked | (curses.A_BOLD if style in {Style.BAD, Style.WARNING} else 0)
