"""Connections of owners that have all their names: what moves on them is only added up.

Most records are of sockets that have been seen before, and there can be 10,000 a second. Such a
record is found by its bytes, all but its flags, time and sums, and is never decoded.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from picosnitch_exporter.identity.addresses import (
    DNS_PORT,
    address_text,
    protocol_name,
    scope_of,
)
from picosnitch_exporter.identity.versions import Version
from picosnitch_exporter.model import (
    AttributedFlow,
    Executable,
    FileIdentity,
    ProcessKey,
    Scope,
    SeriesLabels,
    Workload,
)
from picosnitch_exporter.runs import COOKIE, PARTS, PLACE, STEP_BYTES, WHO
from picosnitch_exporter.state.books import Books, Lineage, Row, RowSink, Sums
from picosnitch_exporter.wire import DIRECTIONS, RING_HEADER, FlowFlag

MAX_OWNERS = 1_024
"""Some 1 MB, if so many move something within one window."""
MAX_LINES = 20_000
"""Some 7 MB. Beyond it, records are found by their owners alone."""

_FINAL = int(FlowFlag.FINAL)
_KERNEL = int(FlowFlag.KERNEL)
_UNUSUAL = _FINAL | _KERNEL

_Parts = tuple[int, int, bytes, int, int, int, int, int, int, bytes]
"""Of `runs.PARTS`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Tally(Sums):
    """What has moved since it was last posted. Compared by identity."""

    owner: "Owner"
    labels: SeriesLabels
    time_ns: int = 0
    """Of the latest record; 0 where there is nothing to post."""

    def clear(self) -> None:
        """Nothing is left to post."""
        self.time_ns = 0
        self.transmit_bytes = self.receive_bytes = self.connect_failures = 0
        for number in range(len(self.connections)):
            self.connections[number] = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Owner:
    """A process with its executable, of which all names are known."""

    key: ProcessKey
    executable: Executable
    workload: Workload
    container: str
    lineage: Lineage
    version: Version
    is_in_use: bool = True
    """Something has moved since the last window ended."""
    tallies: dict[tuple[int, int, Scope], Tally] = field(default_factory=dict)
    """By protocol, address family and scope."""

    def tally(self, protocol: int, family: int, scope: Scope) -> Tally:
        """The one of these, made where there is none yet."""
        tally = self.tallies.get((protocol, family, scope))
        if tally is None:
            labels = SeriesLabels(
                executable=self.executable,
                workload=self.workload,
                protocol=protocol_name(protocol, family=family),
                scope=scope,
            )
            tally = self.tallies[protocol, family, scope] = Tally(owner=self, labels=labels)
        return tally


class Known:
    """Owners by what a record says of them, and lines: connections by all that stays the same.

    What is added up is in the rows at once, and in the totals with the next `post`. `to_unix` makes
    Unix seconds of CLOCK_BOOTTIME nanoseconds. Part of `Attributor`.
    """

    def __init__(
        self,
        *,
        books: Books,
        rows: RowSink,
        to_unix: Callable[[int], float],
        max_owners: int = MAX_OWNERS,
        max_lines: int = MAX_LINES,
    ) -> None:
        self._books = books
        self._rows = rows
        self._to_unix = to_unix
        self._max_owners = max_owners
        self._max_lines = max_lines
        self._owners: dict[bytes, Owner] = {}
        self._lines: dict[bytes, tuple[Row, Tally]] = {}
        self._unhashed: dict[FileIdentity, Version] = {}
        """What owners, their parents or grandparents run of which there is no hash."""
        self._touched: list[Tally] = []

    def learn(self, who: bytes, owner: Owner, versions: Iterable[Version] = ()) -> None:
        """From now on, takes in what belongs to this owner; `who` is as in `runs.WHO`.

        `versions` are what it and its ancestors run.
        """
        if len(self._unhashed) >= self._max_owners:
            self.forget()  # lines outlive their owner here, and may need any of these
        if len(self._owners) >= self._max_owners:
            self._owners.clear()
        self._owners[who] = owner
        for version in versions:
            if not version.sha256:
                self._unhashed[version.identity] = version

    def shown(self, version: Version) -> None:
        """Looks at everybody again if this may be the version of a file that had no hash."""
        unhashed = self._unhashed.get(version.identity)
        # What is shown, and can't be read, as it was before tells nothing new.
        if unhashed is not None and (version is not unhashed or version.sha256):
            self.forget()

    def knows(self, who: bytes) -> bool:
        """Whether what belongs to this owner is taken in."""
        return who in self._owners

    def forget(self) -> None:
        """Some name may have changed: everybody is to be looked at again."""
        self._owners.clear()
        self._lines.clear()
        self._unhashed.clear()

    def forget_idle(self) -> None:
        """For when a window has ended: forgets connections as the rows do, and silent owners."""
        self._lines = {key: line for key, line in self._lines.items() if line[0].is_remembered}
        self._owners = {who: owner for who, owner in self._owners.items() if owner.is_in_use}
        for owner in self._owners.values():
            owner.is_in_use = False

    def take(self, run: memoryview) -> Iterator[bytes]:
        """Takes in flow records (see `runs.split_runs`); yields those that need a closer look."""
        lines, touched = self._lines, self._touched
        for at, record in enumerate(PARTS.iter_unpack(run)):
            flags, time_ns, front, sent, received, sends, receives, opened, failed, back = record
            line = lines.get(front + back)
            if line is None or opened or failed or flags & _UNUSUAL:
                if flags & _KERNEL or not self._begin(record):
                    start = at * STEP_BYTES
                    yield bytes(run[start + RING_HEADER.size : start + STEP_BYTES])
                continue
            row, tally = line
            if not row.is_open:
                row.open()
            row.send_bytes += sent
            row.receive_bytes += received
            row.events += sends + receives
            if not tally.time_ns:
                touched.append(tally)
            tally.time_ns = time_ns
            tally.transmit_bytes += sent
            tally.receive_bytes += received

    def post(self) -> list[ProcessKey]:
        """Adds to the totals what has been taken in; returns whom it belongs to."""
        touched = self._touched.copy()
        self._touched.clear()
        for tally in touched:
            owner = tally.owner
            owner.is_in_use = True
            self._books.add(tally.labels, tally, time_ns=tally.time_ns)
            self._books.see(
                owner.executable,
                owner.workload,
                owner.lineage,
                owner.version,
                time_ns=tally.time_ns,
            )
            tally.clear()
        return [tally.owner.key for tally in touched]

    def _begin(self, record: _Parts) -> bool:
        """Takes in a record of a connection that is new, ends or counts as one; False: can't."""
        flags, time_ns, front, sent, received, sends, receives, opened, failed, back = record
        owner = self._owners.get(front[: WHO.size])
        if owner is None:
            return False
        place = PLACE.unpack(back)
        local, remote, local_port, remote_port, protocol, family, direction, netns, uid = place
        # The table of domains wants to see who asks.
        if remote_port == DNS_PORT or direction >= len(DIRECTIONS):
            return False
        program, parent, grandparent = owner.lineage
        tally = owner.tally(protocol, family, scope_of(remote))
        row = self._rows.add(
            AttributedFlow(
                time_seconds=self._to_unix(time_ns),
                cookie=COOKIE.unpack(front)[0],
                owner=owner.key,
                program=program,
                parent=parent,
                grandparent=grandparent,
                uid=uid,
                protocol=tally.labels.protocol,
                direction=DIRECTIONS[direction],
                local_address=address_text(local),
                remote_address=address_text(remote),
                local_port=local_port,
                remote_port=remote_port,
                netns=netns,
                container=owner.container,
                transmit_bytes=sent,
                receive_bytes=received,
                transmit_calls=sends,
                receive_calls=receives,
                connections=opened,
                connect_failures=failed,
            )
        )
        if not tally.time_ns:
            self._touched.append(tally)
        tally.time_ns = time_ns
        tally.transmit_bytes += sent
        tally.receive_bytes += received
        tally.connections[direction] += opened
        tally.connect_failures += failed
        if flags & _FINAL:
            self._lines.pop(front + back, None)
        elif row is not None and len(self._lines) < self._max_lines:
            self._lines[front + back] = (row, tally)
        return True
