"""The exporter's own log: one record is one line, whatever strangers put into it."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.logging_format import (
    Event,
    JsonFormatter,
    LogfmtFormatter,
    RateLimited,
    Value,
    configure,
)
from picosnitch_exporter.settings import LoggingSettings

LOGFMT = LogfmtFormatter(process="exporter")
JSON = JsonFormatter(process="sensor")


def record(message: object, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("some.library", level, __file__, 1, message, arguments, None)
    made.created = 1_767_225_600.1234
    return made


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers, logger.level = handlers, level


def test_logfmt_has_the_event_before_its_fields() -> None:
    event = Event("listening", {"address": ":10054", "tls": False, "count": 2, "user": None})

    assert LOGFMT.format(record(event)) == (
        "time=2026-01-01T00:00:00.123Z level=info process=exporter event=listening "
        "address=:10054 tls=false count=2 user=null"
    )


def test_json_has_the_same_fields() -> None:
    event = Event("slow", {"seconds": 1.5, "path": b"/a\xff", "worst": float("inf")})

    assert json.loads(JSON.format(record(event, level=logging.WARNING))) == {
        "time": "2026-01-01T00:00:00.123Z",
        "level": "warn",
        "process": "sensor",
        "event": "slow",
        "seconds": 1.5,
        "path": "/a\\xff",
        "worst": "inf",
    }


def test_message_of_a_library_is_a_field() -> None:
    line = LOGFMT.format(record("took %d s", 3, level=logging.ERROR))

    assert line.endswith(
        'level=error process=exporter event=message logger=some.library message="took 3 s"'
    )


def test_traceback_stays_on_the_line() -> None:
    failed = record(Event("failed"))
    try:
        int("no\nway")
    except ValueError:
        failed.exc_info = sys.exc_info()

    for line in (LOGFMT.format(failed), JSON.format(failed)):
        assert "ValueError: invalid literal" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain/path-1.2", "plain/path-1.2"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("a\\b", '"a\\\\b"'),
        ("a\n\r\tb", '"a\\n\\r\\tb"'),
        ("\x1b[31m\0", '"\\u001b[31m\\u0000"'),
        ("\u202egnp.exe", '"\\u202egnp.exe"'),
        ("\U000e0041", '"\\U000e0041"'),
        ("é", "é"),
        (b"/bin/\xff\xfe", '"/bin/\\\\xff\\\\xfe"'),
        ("/bin/\udcff", '"/bin/\\\\xff"'),
        ("\ud800", '"\\\\ud800"'),
        ("x" * 9000, '"' + "x" * 8192 + '... (9000 characters)"'),
    ],
)
def test_value_is_escaped_in_logfmt(value: Value, expected: str) -> None:
    assert str(Event("e", {"v": value})) == f"event=e v={expected}"


@given(st.text() | st.binary())
def test_any_value_is_one_printable_line(value: str | bytes) -> None:
    event = record(Event("e", {"v": value}))

    line = LOGFMT.format(event)
    assert line.isprintable()
    assert line.encode("utf-8").decode("utf-8") == line
    assert JSON.format(event).isascii()
    assert isinstance(json.loads(JSON.format(event))["v"], str)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_event_is_held_back_when_it_comes_too_often() -> None:
    clock = Clock()
    limit = RateLimited(2, clock=clock)

    assert [limit.filter(record(Event("a", {"n": n}))) for n in range(5)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert limit.filter(record(Event("b")))


def test_next_event_says_how_many_were_held_back() -> None:
    clock = Clock()
    limit = RateLimited(1, clock=clock)
    for _ in range(4):
        limit.filter(record(Event("a")))

    clock.seconds += 60
    after, later = record(Event("a")), record(Event("a"))

    assert limit.filter(after)
    assert LOGFMT.format(after).endswith(" event=a suppressed=3")
    clock.seconds += 60
    assert limit.filter(later)
    assert LOGFMT.format(later).endswith(" event=a")


def test_messages_of_one_library_count_as_one_event() -> None:
    limit = RateLimited(1, clock=Clock())

    assert limit.filter(record("a"))
    assert not limit.filter(record("b"))


def test_limiter_forgets_when_there_are_too_many_events() -> None:
    limit = RateLimited(1, clock=Clock())
    for number in range(1001):
        assert limit.filter(record(Event(f"e{number}")))

    assert limit.filter(record(Event("e0")))


@pytest.mark.parametrize(("form", "first"), [("logfmt", "t"), ("json", "{")])
def test_configured_log_goes_to_stderr_once(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], form: str, first: str
) -> None:
    for _ in range(2):
        configure(LoggingSettings(level="warn", format=form), process="exporter", per_minute=1)
    log = logging.getLogger("picosnitch_exporter.test")
    log.info(Event("hidden"))
    log.warning(Event("shown"))
    log.warning(Event("shown"))

    lines = capsys.readouterr().err.splitlines()
    assert (1, first) == (len(lines), lines[0][0])
    assert root.level == logging.WARNING


def test_debug_log_is_not_limited(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingSettings(level="debug"), process="sensor", per_minute=1)
    for _ in range(3):
        logging.getLogger("picosnitch_exporter.test").debug(Event("shown"))

    assert capsys.readouterr().err.count("event=shown") == 3
    assert root.level == logging.DEBUG
