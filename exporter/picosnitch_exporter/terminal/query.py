"""`picosnitch-exporter query`: the connection log, from the shell."""

import argparse
import csv
import ipaddress
import json
import pwd
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, TextIO

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.errors import UsageError
from picosnitch_exporter.log.reader import BYTES, GROUPS, SUMS, LogReader, Result
from picosnitch_exporter.log.schema import MAX_INTEGER, storable
from picosnitch_exporter.log.selection import Selection
from picosnitch_exporter.log.text import clean
from picosnitch_exporter.settings import Settings

if TYPE_CHECKING:
    from picosnitch_exporter.log.reader import Cell

EXAMPLES: Final = """\
examples:
  picosnitch-exporter query --since 1h                      what talked in the last hour
  picosnitch-exporter query --since 24h --by exe            the top talkers of the last day
  picosnitch-exporter query --exe curl --by domain,rport    where curl went
  picosnitch-exporter query --domain example.com --by exe,user
  picosnitch-exporter query --address 10.0.0.0/8 --since 2024-05-01 --until 2024-05-02
  picosnitch-exporter query --by hour,exe --format csv > traffic.csv
  picosnitch-exporter query executables --since 7d          what was seen in the last week
"""
_SPAN: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNIX_SECONDS: Final = re.compile(r"\d{9,11}", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,10}", re.ASCII)
_SPAN_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP: Final = 1024
_CONNECTION_COLUMNS: Final = (
    "contime",
    "exe",
    "uid",
    "protocol",
    "direction",
    "peer",
    "domain",
    "send",
    "recv",
)
_EXECUTABLE_COLUMNS: Final = ("last_seen", "first_seen", "exe", "sha256", "container", "verdict")
_RIGHT: Final = frozenset({"send", "recv", "events", "rows", "rport"})
_PERIODS: Final = {"hour": "%Y-%m-%d %H:00Z", "day": "%Y-%m-%dZ"}
_HASH_CHARACTERS: Final = 16
_PATIENCE_SECONDS: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads; examples for the help are in `EXAMPLES`."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=("connections", "executables"),
        default="connections",
        help="what to list (default: connections)",
    )
    when = "2024-05-31, 2024-05-31T22:15, 90m, 24h, 7d, or Unix seconds"
    parser.add_argument("--since", metavar="TIME", help=f"from then on: {when}")
    parser.add_argument("--until", metavar="TIME", help="before then")
    parser.add_argument(
        "--exe",
        default="",
        metavar="PATTERN",
        help="path, name, or a pattern of one with * and ?",
    )
    parser.add_argument("--sha256", default="", metavar="HASH", help="beginning of the hash")
    parser.add_argument("--domain", default="", metavar="NAME", help="with all subdomains")
    parser.add_argument("--address", default="", metavar="NET", help="address or subnet")
    parser.add_argument("--port", type=int, metavar="N", help="local or remote")
    parser.add_argument("--user", metavar="NAME", help="name or number")
    parser.add_argument("--container", default="", metavar="ID", help="beginning of the id")
    parser.add_argument(
        "--by",
        default="",
        metavar="COLUMNS",
        help=f"sums by one or more of {', '.join(GROUPS)}",
    )
    parser.add_argument(
        "--sort",
        default="",
        metavar="COLUMN",
        help=f"of sums: {', '.join(SUMS)}, bytes, or one of --by (default: bytes, both ways)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="lines at most, 0 for all (default: 100)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="default: table; csv and json have all columns, in full",
    )


def run(
    settings: Settings,
    arguments: argparse.Namespace,
    *,
    output: TextIO | None = None,
    now: Callable[[], float] = time.time,
) -> int:
    """Prints what is asked for.

    Raises
    ------
    UsageError
        if an argument is malformed.
    StorageError
        if there is no log, or it can't be read.
    """
    output = output or sys.stdout
    selection = _selection(arguments, now())
    if not 0 <= arguments.limit <= MAX_INTEGER:
        raise UsageError(f"--limit: must be from 0 to {MAX_INTEGER}")
    limit = arguments.limit or -1
    progress = _Progress(sys.stderr)
    path = settings.storage.path / "snitch.db"
    if not path.exists():
        raise UsageError(f"no log at {path}: is --storage.path right, and has it run yet?")
    reader = LogReader(path, progress=progress)
    try:
        if arguments.what == "executables":
            result = reader.executables(selection, limit=limit)
            columns: tuple[str, ...] = _EXECUTABLE_COLUMNS
        elif arguments.by or arguments.sort:
            by = tuple(name for name in arguments.by.split(",") if name)
            result = reader.sums(selection, by=by, sort=arguments.sort or BYTES, limit=limit)
            columns = (*by, *SUMS)
        else:
            result = reader.rows(selection, limit=limit)
            columns = _CONNECTION_COLUMNS
        _print(result, columns, arguments.format, output)
    finally:
        progress.finish()
        reader.close()
    return 0


def _selection(arguments: argparse.Namespace, now: float) -> Selection:
    since = None if arguments.since is None else _time(arguments.since, now, "--since")
    until = None if arguments.until is None else _time(arguments.until, now, "--until")
    if since is not None and until is not None and since >= until:
        raise UsageError("--since must be before --until")
    return Selection(
        since=since,
        until=until,
        executable=label_value(arguments.exe),
        sha256=arguments.sha256,
        domain=storable(arguments.domain),
        address=arguments.address,
        port=arguments.port,
        uid=None if arguments.user is None else _uid(arguments.user),
        container=storable(arguments.container),
    )


def _time(text: str, now: float, flag: str) -> int:
    span = _SPAN.fullmatch(text)
    if span:
        return int(now) - int(span[1]) * _SPAN_SECONDS[span[2]]
    # 8 digits are a date.
    if _UNIX_SECONDS.fullmatch(text):
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{flag}: {text!r} is not a time: try 24h, 7d or 2024-05-31T22:15",
        ) from error


def _uid(text: str) -> int:
    if _NUMBER.fullmatch(text):
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError) as error:
        raise UsageError(f"--user: there is no user {text!r} here: give the number") from error


def _print(result: Result, columns: tuple[str, ...], style: str, output: TextIO) -> None:
    if style == "csv":
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(result.columns)
        writer.writerows([_plain(cell) for cell in row] for row in result.rows)
        return
    rows = (dict(zip(result.columns, row, strict=True)) for row in result.rows)
    if style == "json":
        # One by one, as there may be millions.
        before = "[\n"
        for row in rows:
            output.write(before + json.dumps(row))
            before = ",\n"
        output.write("\n]\n" if before != "[\n" else "[]\n")
        return
    lines = [[_shown(name, row) for name in columns] for row in rows]
    _print_table(columns, lines, output)


def _print_table(columns: tuple[str, ...], lines: list[list[str]], output: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    for line in (list(columns), *lines):
        cells = (
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        )
        output.write("  ".join(cells).rstrip() + "\n")


def _shown(name: str, row: "dict[str, Cell]") -> str:
    """A cell as a table shows it: short, and harmless to the terminal."""
    if name == "peer":
        return _peer(row)
    value = row[name]
    if value is None:
        return ""
    if name in _PERIODS:
        return time.strftime(_PERIODS[name], time.gmtime(float(value)))
    return _SHORT.get(name, clean)(str(value))


def _peer(row: "dict[str, Cell]") -> str:
    address, port = clean(str(row["raddr"])), int(row["rport"] or 0)
    if port < 0:
        return "(ran)"
    try:
        bracketed = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address  # noqa: PLR2004
    except ValueError:
        bracketed = address
    return f"{bracketed}:{port}" if port else bracketed


def _time_text(text: str) -> str:
    seconds = float(text)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
    except (ValueError, OverflowError, OSError):  # of a clock that no calendar has
        return text


def _bytes_text(text: str) -> str:
    amount = float(text)
    unit = 0
    while amount >= _STEP and unit < len(_UNITS) - 1:
        amount /= _STEP
        unit += 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{text} B"


def _user_name(text: str) -> str:
    try:
        return clean(pwd.getpwuid(int(text)).pw_name)
    except (KeyError, OverflowError):
        return text


_SHORT: Final[dict[str, Callable[[str], str]]] = {
    "send": _bytes_text,
    "recv": _bytes_text,
    "contime": _time_text,
    "first_seen": _time_text,
    "last_seen": _time_text,
    "uid": _user_name,
    "user": _user_name,
    "sha256": lambda text: text[:_HASH_CHARACTERS],
}


def _plain(cell: "Cell") -> "Cell":
    return clean(cell) if isinstance(cell, str) else cell


class _Progress:
    """Says on a terminal that a long query is still at work."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._started = time.monotonic()
        self._said = 0

    def __call__(self) -> None:
        seconds = time.monotonic() - self._started
        if seconds >= _PATIENCE_SECONDS and int(seconds) > self._said and self._output.isatty():
            self._said = int(seconds)
            self._output.write(f"\rsearching the log, {self._said} s (Ctrl-C ends it)")
            self._output.flush()

    def finish(self) -> None:
        if self._said:
            self._output.write("\r\x1b[K")
            self._output.flush()
