"""Answers of the running exporter as lines of a table, with rates. Pure: time comes with them."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.terminal.live_client import Answer

_SAMPLES: Final = 4
"""A rate is over so many answers: the kernel is asked about once a second, not in step."""

Amount = tuple[int, int]
"""Bytes sent and received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableLine:
    """An executable in one workload, or on the host."""

    exe: str
    sha256: str
    workload: str
    sent: int
    received: int
    sent_rate: float
    received_rate: float
    connections: int
    failures: int
    active: int
    domains: int
    parent: str
    verdict: str
    last_seen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLine:
    """A connection of the executable that was chosen."""

    peer: str
    domain: str
    protocol: str
    direction: str
    local_port: int
    sent: int
    received: int
    sent_rate: float
    received_rate: float
    pid: int
    uid: int
    parent: str
    command: str


class Rates:
    """Bytes a second of each key, from its totals in the latest answers."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Hashable, Amount]]] = deque(maxlen=_SAMPLES)

    def add(self, now: float, totals: Mapping[Hashable, Amount]) -> None:
        """Notes the totals at this monotonic time."""
        self._samples.append((now, totals))

    def of(self, key: Hashable) -> tuple[float, float]:
        """Sent and received, over the samples that know the key."""
        known = [(time, totals[key]) for time, totals in self._samples if key in totals]
        if len(known) < 2 or known[-1][0] <= known[0][0]:  # noqa: PLR2004  (two make a rate)
            return (0.0, 0.0)
        (since, before), (until, after) = known[0], known[-1]
        seconds = until - since
        # A counter that was dropped and began anew is no negative rate.
        return (
            max(0, after[0] - before[0]) / seconds,
            max(0, after[1] - before[1]) / seconds,
        )


class ExecutableTable:
    """The lines of all executables."""

    def __init__(self) -> None:
        self._rates = Rates()

    def lines(self, answer: Answer, now: float) -> list[ExecutableLine]:
        """The lines of this answer; raises PicosnitchError."""
        entries = list(_entries(answer, "executables"))
        self._rates.add(
            now, {_subject(one): (one.number("sent"), one.number("received")) for one in entries}
        )
        return [self._line(one) for one in entries]

    def _line(self, one: "_Entry") -> ExecutableLine:
        sent_rate, received_rate = self._rates.of(_subject(one))
        return ExecutableLine(
            exe=one.text("exe"),
            sha256=one.text("sha256"),
            workload=one.text("workload"),
            sent=one.number("sent"),
            received=one.number("received"),
            sent_rate=sent_rate,
            received_rate=received_rate,
            connections=one.number("connections"),
            failures=one.number("failures"),
            active=one.number("active"),
            domains=one.number("domains"),
            parent=one.text("parent"),
            verdict=one.text("verdict"),
            last_seen=one.real("last_seen"),
        )


class ConnectionTable:
    """The lines of the connections of one executable, and what each moved while it was watched.

    The exporter knows what moved in its open write window and the one before it: sums over more
    are made here.
    """

    def __init__(self) -> None:
        self._rates = Rates()
        self._seen: dict[str, tuple[int, Amount, Amount]] = {}

    def lines(self, answer: Answer, now: float) -> list[ConnectionLine]:
        """The lines of this answer; raises PicosnitchError."""
        window = _Entry(answer).number("window")
        entries = {one.text("id"): one for one in _entries(answer, "connections")}
        # What has been silent for two windows is forgotten.
        self._seen = {key: self._moved(key, window, one) for key, one in entries.items()}
        self._rates.add(now, {key: total for key, (_w, _open, total) in self._seen.items()})
        return [self._line(key, one) for key, one in entries.items()]

    def _moved(self, key: str, window: int, one: "_Entry") -> tuple[int, Amount, Amount]:
        last, current = one.amount("last"), one.amount("open")
        before = self._seen.get(key)
        if before is None or window - before[0] > 1:
            more = (last[0] + current[0], last[1] + current[1])
        elif window == before[0]:
            more = (current[0] - before[1][0], current[1] - before[1][1])
        else:
            more = (
                last[0] - before[1][0] + current[0],
                last[1] - before[1][1] + current[1],
            )
        total = (0, 0) if before is None else before[2]
        return window, current, (total[0] + max(0, more[0]), total[1] + max(0, more[1]))

    def _line(self, key: str, one: "_Entry") -> ConnectionLine:
        sent_rate, received_rate = self._rates.of(key)
        address, port = one.text("address"), one.number("port")
        bracketed = f"[{address}]" if ":" in address else address
        total = self._seen[key][2]
        return ConnectionLine(
            peer=f"{bracketed}:{port}" if port else bracketed,
            domain=".".join(reversed(one.text("domain").split("."))),
            protocol=one.text("protocol"),
            direction=one.text("direction"),
            local_port=one.number("local_port"),
            sent=total[0],
            received=total[1],
            sent_rate=sent_rate,
            received_rate=received_rate,
            pid=one.number("pid"),
            uid=one.number("uid"),
            parent=one.text("parent"),
            command=one.text("command"),
        )


class _Entry:
    """One object of an answer, whose members are of the types that they should be."""

    def __init__(self, members: Mapping[str, object]) -> None:
        self._members = members

    def text(self, name: str) -> str:
        value = self._members.get(name)
        if not isinstance(value, str):
            raise _other_version(name)
        return value

    def number(self, name: str) -> int:
        value = self._members.get(name)
        if not isinstance(value, int):
            raise _other_version(name)
        return value

    def real(self, name: str) -> float:
        value = self._members.get(name)
        if not isinstance(value, int | float):
            raise _other_version(name)
        return value

    def amount(self, name: str) -> Amount:
        match self._members.get(name):
            case [int(sent), int(received)]:
                return sent, received
            case _:
                raise _other_version(name)


def _subject(one: _Entry) -> Hashable:
    return one.text("sha256"), one.text("exe"), one.text("workload")


def _entries(answer: Answer, name: str) -> Iterator[_Entry]:
    entries = answer.get(name)
    if not isinstance(entries, list):
        raise _other_version(name)
    for one in entries:
        if not isinstance(one, dict):
            raise _other_version(name)
        yield _Entry(one)


def _other_version(name: str) -> PicosnitchError:
    return PicosnitchError(
        f"the running exporter says nothing of {name!r}: restart it, it is of another version"
    )
