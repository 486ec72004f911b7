"""What the exporter says about itself: lines on stderr, logfmt or JSON, an event word first.

::

    log = logging.getLogger(__name__)
    log.info(Event("listening", {"address": ":10054", "tls": False}))

    time=2026-01-31T12:00:00.123Z level=info process=exporter event=listening address=:10054 ...

The event word is a constant, so that it can be searched for and counted; what varies stands in the
fields. Values come from strangers (paths, names of domains): each format escapes them so that one
record stays one line and no terminal obeys it. Messages of libraries have the event `message`.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from picosnitch_exporter.settings import LoggingSettings

Value = str | bytes | int | float | bool | None

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

MAX_VALUE_CHARACTERS = 8192
"""A path has up to 4,096 bytes, a traceback some thousand."""

_WINDOW_SECONDS = 60.0
_MAX_WORDS = 1000
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_LAST_OF_FOUR_DIGITS = 0xFFFF
_UNDECODED_BYTES = range(0xDC80, 0xDD00)


class Event:
    """A message: an event word and its fields.

    Field names are Python identifiers by convention; a bytes value is text that nobody decoded.
    """

    __slots__ = ("fields", "word")

    def __init__(self, word: str, fields: Mapping[str, Value] | None = None) -> None:
        self.word = word
        self.fields: tuple[tuple[str, Value], ...] = tuple((fields or {}).items())

    def __str__(self) -> str:
        return _logfmt((("event", self.word), *self.fields))


class LogfmtFormatter(logging.Formatter):
    """`key=value` pairs; values with white space, quotes or escapes in double quotes."""

    def __init__(self, *, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line without its newline."""
        return _logfmt(_fields(record, self._process))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only."""

    def __init__(self, *, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line without its newline."""
        fields = {
            key: _text(value) if isinstance(value, str | bytes) else value
            for key, value in _fields(record, self._process)
        }
        # NaN is no JSON; as text it can still be read.
        fields = {
            key: str(value) if isinstance(value, float) and value - value != 0 else value
            for key, value in fields.items()
        }
        return json.dumps(fields, allow_nan=False)


@dataclass(slots=True)
class _Window:
    opened_seconds: float
    passed: int = 0
    suppressed: int = 0


class RateLimited(logging.Filter):
    """At most `per_minute` records of one event word in a minute.

    The first record that passes after some were held back says how many, in `suppressed`.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        # A library's messages are one word each, by its logger.
        word = record.msg.word if isinstance(record.msg, Event) else record.name
        now = self._clock()
        window = self._windows.get(word)
        if window is None:
            if len(self._windows) >= _MAX_WORDS:
                self._windows.clear()
            window = self._windows[word] = _Window(now)
        elif now - window.opened_seconds >= _WINDOW_SECONDS:
            window.opened_seconds, window.passed = now, 0
        if window.passed >= self._per_minute:
            window.suppressed += 1
            return False
        window.passed += 1
        if window.suppressed:
            record.suppressed = window.suppressed
            window.suppressed = 0
        return True


def configure(
    settings: LoggingSettings,
    *,
    process: Literal["sensor", "exporter", "launcher"],
    per_minute: int = 60,
) -> None:
    """All logging of this process to stderr; may be called again. `debug` is not rate-limited."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = {"logfmt": LogfmtFormatter, "json": JsonFormatter}[settings.format]
    handler.setFormatter(formatter(process=process))
    if settings.level != "debug":
        handler.addFilter(RateLimited(per_minute))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, LogfmtFormatter | JsonFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[settings.level])


def _fields(record: logging.LogRecord, process: str) -> tuple[tuple[str, Value], ...]:
    seconds, milliseconds = divmod(int(record.created * 1000), 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
    fields: list[tuple[str, Value]] = [
        ("time", f"{stamp}.{milliseconds:03d}Z"),
        ("level", level),
        ("process", process),
    ]
    if isinstance(record.msg, Event):
        fields += [("event", record.msg.word), *record.msg.fields]
    else:
        fields += [
            ("event", "message"),
            ("logger", record.name),
            ("message", record.getMessage()),
        ]
    if record.exc_info and record.exc_info[1] is not None:
        fields.append(("traceback", logging.Formatter().formatException(record.exc_info)))
    suppressed = getattr(record, "suppressed", None)
    if suppressed is not None:
        fields.append(("suppressed", suppressed))
    return tuple(fields)


def _text(value: str | bytes) -> str:
    """Text that can be encoded, and is bounded; bytes that are no UTF-8 become escapes."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if len(text) > MAX_VALUE_CHARACTERS:
        text = f"{text[:MAX_VALUE_CHARACTERS]}... ({len(text)} characters)"
    return _SURROGATE.sub(lambda found: _escaped(found.group()), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code in _UNDECODED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


def _logfmt(fields: tuple[tuple[str, Value], ...]) -> str:
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in fields)


def _logfmt_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if not isinstance(value, str | bytes):
        return str(value)
    text = _text(value)
    quoted = "".join(
        _SHORT_ESCAPES.get(character, character)
        if character.isprintable() or character in _SHORT_ESCAPES
        else _escaped(character)
        for character in text
    )
    if quoted == text and text and " " not in text and "=" not in text:
        return text
    return f'"{quoted}"'
