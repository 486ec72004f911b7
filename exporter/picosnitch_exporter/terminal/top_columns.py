"""The columns of `top`: executables, and the connections of one."""

import functools
import pwd
from collections.abc import Callable
from typing import Final

from picosnitch_exporter.log.text import clean
from picosnitch_exporter.terminal.layout import Column, Cut, Style, amount
from picosnitch_exporter.terminal.live_tables import ConnectionLine, ExecutableLine

_VERDICTS: Final = {"malicious": Style.BAD, "suspicious": Style.WARNING}
_HASH_CHARACTERS: Final = 12
_BYTES_WIDTH: Final = 6

_Moving = ExecutableLine | ConnectionLine


def moved(line: _Moving) -> tuple[float, float]:
    """Bytes a second and bytes, both ways: what lines are sorted by at first."""
    return line.sent_rate + line.received_rate, line.sent + line.received


def _bytes(title: str, rank: int, of: Callable[[_Moving], float]) -> Column[_Moving]:
    return Column(
        title=title,
        width=_BYTES_WIDTH,
        rank=rank,
        text=lambda line: amount(of(line)),
        order=lambda line: (of(line), ""),
        is_right=True,
    )


def _rate(title: str, rank: int, of: Callable[[_Moving], float]) -> Column[_Moving]:
    return Column(
        title=title,
        width=_BYTES_WIDTH,
        rank=rank,
        text=lambda line: amount(of(line)),
        order=lambda line: (of(line), ""),
        is_right=True,
        style=lambda _line: Style.MOVING,
    )


def _count(
    title: str, rank: int, of: Callable[[ExecutableLine], int], style: Style = Style.NORMAL
) -> Column[ExecutableLine]:
    return Column(
        title=title,
        width=max(_BYTES_WIDTH, len(title)),
        rank=rank,
        text=lambda line: str(of(line) or ""),
        order=lambda line: (of(line), ""),
        is_right=True,
        style=lambda _line: style,
    )


def _name(of: ExecutableLine) -> str:
    return of.exe or "(unknown)"


@functools.lru_cache(maxsize=1024)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


EXECUTABLES: Final[tuple[Column[ExecutableLine], ...]] = (
    Column(
        title="EXECUTABLE",
        width=16,
        rank=0,
        text=lambda line: clean(_name(line)),
        order=lambda line: (0.0, _name(line)),
        grows=3,
        cut=Cut.START,
        falls=False,
    ),
    Column(
        title="CONTAINER",
        width=14,
        rank=9,
        text=lambda line: clean(line.workload),
        order=lambda line: (0.0, line.workload),
        grows=1,
        is_optional=True,
        falls=False,
    ),
    _rate("OUT/s", 1, lambda line: line.sent_rate),
    _rate("IN/s", 2, lambda line: line.received_rate),
    _bytes("OUT", 3, lambda line: line.sent),
    _bytes("IN", 4, lambda line: line.received),
    _count("ACTIVE", 5, lambda line: line.active),
    _count("CONNS", 7, lambda line: line.connections),
    _count("FAILED", 8, lambda line: line.failures, Style.WARNING),
    _count("NAMES", 10, lambda line: line.domains),
    Column(
        title="VERDICT",
        width=10,
        rank=6,
        text=lambda line: line.verdict,
        order=lambda line: (0.0, line.verdict),
        style=lambda line: _VERDICTS.get(line.verdict, Style.DIM),
        falls=False,
    ),
    Column(
        title="STARTED BY",
        width=14,
        rank=11,
        text=lambda line: clean(line.parent),
        order=lambda line: (0.0, line.parent),
        grows=1,
        cut=Cut.START,
        falls=False,
    ),
    Column(
        title="SHA-256",
        width=_HASH_CHARACTERS,
        rank=12,
        text=lambda line: line.sha256[:_HASH_CHARACTERS],
        order=lambda line: (0.0, line.sha256),
        style=lambda _line: Style.DIM,
        falls=False,
    ),
)

CONNECTIONS: Final[tuple[Column[ConnectionLine], ...]] = (
    Column(
        title="PEER",
        width=16,
        rank=0,
        text=lambda line: clean(line.peer),
        order=lambda line: (0.0, line.peer),
        grows=1,
        falls=False,
    ),
    Column(
        title="DOMAIN",
        width=16,
        rank=3,
        text=lambda line: clean(line.domain),
        order=lambda line: (0.0, line.domain),
        grows=2,
        cut=Cut.START,
        falls=False,
    ),
    _rate("OUT/s", 1, lambda line: line.sent_rate),
    _rate("IN/s", 2, lambda line: line.received_rate),
    _bytes("OUT", 4, lambda line: line.sent),
    _bytes("IN", 5, lambda line: line.received),
    Column(
        title="PROTO",
        width=6,
        rank=6,
        text=lambda line: clean(line.protocol),
        order=lambda line: (0.0, line.protocol),
        falls=False,
    ),
    Column(
        title="DIR",
        width=3,
        rank=7,
        text=lambda line: {"outbound": "out", "inbound": "in"}.get(line.direction, ""),
        order=lambda line: (0.0, line.direction),
        falls=False,
    ),
    Column(
        title="PID",
        width=7,
        rank=8,
        text=lambda line: str(line.pid),
        order=lambda line: (line.pid, ""),
        is_right=True,
    ),
    Column(
        title="USER",
        width=10,
        rank=9,
        text=lambda line: clean(_user(line.uid)),
        order=lambda line: (0.0, _user(line.uid)),
        falls=False,
    ),
    Column(
        title="STARTED BY",
        width=14,
        rank=10,
        text=lambda line: clean(line.parent),
        order=lambda line: (0.0, line.parent),
        grows=1,
        cut=Cut.START,
        falls=False,
    ),
    Column(
        title="COMMAND",
        width=20,
        rank=11,
        text=lambda line: clean(line.command),
        order=lambda line: (0.0, line.command),
        grows=2,
        falls=False,
    ),
)
