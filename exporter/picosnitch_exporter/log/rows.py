"""Write windows: the traffic of one connection within one of them becomes one row."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

from picosnitch_exporter.log.ignore import IgnoreRules
from picosnitch_exporter.model import (
    NO_PROGRAM,
    AttributedFlow,
    Direction,
    Executable,
    LogRow,
    ProcessKey,
    Program,
    Sha256,
)
from picosnitch_exporter.settings import LogSettings

EXECUTION_PORT = -1
"""Both ports of a row that stands for an executable that ran (`Every exe`)."""
MAX_ROWS = 200_000
"""Of one window, some 200 MB: beyond that the caller has to close it early."""

MAX_REMEMBERED = 20_000
"""Connections of the last window that stay in sight, some 20 MB."""

_MASK = (1 << 64) - 1

_Key = tuple[int, ProcessKey, str, int, str, Sha256]
_ExecutionKey = tuple[Program, Program, Program, int, str]


class Domains(Protocol):
    """What is known of the names of peers."""

    def domain_of(self, flow: AttributedFlow, /) -> str:
        """The peer's domain in reversed notation, empty where unknown."""


class NoDomains:
    """Knows no name."""

    def domain_of(self, _flow: AttributedFlow, /) -> str:
        """Empty."""
        return ""


# Not frozen: what moves is added to it. Compared by identity.
@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """What has moved on a connection, in the open window and in the last one."""

    flow: AttributedFlow
    """Its latest names and addresses."""
    domain: str
    send_bytes: int = 0
    receive_bytes: int = 0
    events: int = 0
    last_send_bytes: int = 0
    last_receive_bytes: int = 0
    is_open: bool = False
    """It has a row in the open window."""
    is_remembered: bool = True
    """The windows find it again."""
    opened: "list[Connection]"
    """All that have a row in the open window."""

    def open(self) -> None:
        """Gives it a row in the open window, if it has none yet."""
        if not self.is_open:
            self.is_open = True
            self.opened.append(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentConnection:
    """A connection of the open window, of the last one, or of both."""

    id: str
    """The same for as long as the connection lasts; says nothing of it."""
    pid: int
    row: LogRow
    """Its latest names and addresses; its numbers are those of both windows."""
    last_bytes: tuple[int, int]
    """Sent and received in the last window."""
    open_bytes: tuple[int, int]
    """Sent and received so far in the open one."""


class Windows:
    """Collects flows, and gives them as rows when the window is closed."""

    def __init__(
        self,
        *,
        ignore: IgnoreRules | None = None,
        domains: Domains | None = None,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._ignore = ignore or IgnoreRules(())
        self._domains = domains or NoDomains()
        self._max_rows = max_rows
        # Between two looks of the caller more come in; and a log that takes none must not take all
        # the memory.
        self._bound = max_rows + max_rows // 4
        self._remembered: dict[_Key, Connection] = {}
        """Those of the open window and of the last one."""
        self._open: list[Connection] = []
        self._executions: dict[_ExecutionKey, int] = {}
        self.closed = 0
        """Windows that were closed since the start."""
        self.dropped_rows = 0
        """New connections, and executables that ran, that found no room since the start."""
        self.ignored_rows = 0
        """Left out by `Log ignore` since the start."""

    def __len__(self) -> int:
        return len(self._open) + len(self._executions)

    @property
    def is_full(self) -> bool:
        """Whether the window should be closed now, for the memory it takes."""
        return len(self) >= self._max_rows

    def add(self, flow: AttributedFlow) -> Connection | None:
        """Adds what moved to the row of its connection; None where it has none.

        Until the window is closed, and beyond that while the connection `is_remembered`, the caller
        may add to its row what moves next, once it has opened it.
        """
        events = flow.transmit_calls + flow.receive_calls + flow.connections + flow.connect_failures
        if not (events or flow.transmit_bytes or flow.receive_bytes):
            return None
        key = (
            flow.cookie,
            flow.owner,
            flow.remote_address,
            flow.remote_port,
            flow.protocol,
            flow.program.sha256,
        )
        connection = self._remembered.get(key)
        if connection is None:
            if len(self) >= self._bound:
                self.dropped_rows += 1
                return None
            domain = self._domains.domain_of(flow)
            connection = Connection(flow=flow, domain=domain, opened=self._open)
            self._remembered[key] = connection
        # A socket is bound, and a command line read, after the first bytes at the latest.
        elif flow.local_address or not connection.flow.local_address:
            connection.flow = flow
        connection.open()
        connection.send_bytes += flow.transmit_bytes
        connection.receive_bytes += flow.receive_bytes
        connection.events += events
        return connection

    def add_execution(
        self,
        program: Program,
        *,
        parent: Program = NO_PROGRAM,
        grandparent: Program = NO_PROGRAM,
        uid: int,
        container: str = "",
    ) -> None:
        """Adds that an executable ran; the same one with the same lineage is one row."""
        key = (program, parent, grandparent, uid, container)
        count = self._executions.get(key, 0)
        if not count and len(self) >= self._bound:
            self.dropped_rows += 1
            return
        self._executions[key] = count + 1

    def close(self, now: float) -> tuple[LogRow, ...]:
        """The rows of the window that ends now (Unix seconds), and begins the next one."""
        opened = self._open.copy()
        self._open.clear()
        executions, self._executions = self._executions, {}
        self.closed += 1
        rows = [self._connection_row(connection, now) for connection in opened]
        rows += [_execution_row(key, count, now) for key, count in executions.items()]
        self._forget_idle(remembers=len(opened) <= MAX_REMEMBERED)
        for connection in opened:
            connection.last_send_bytes = connection.send_bytes
            connection.last_receive_bytes = connection.receive_bytes
            connection.send_bytes = connection.receive_bytes = connection.events = 0
            connection.is_open = False
        if self._ignore.is_empty:
            return tuple(rows)
        kept = tuple(row for row in rows if not self._ignore.matches(row))
        self.ignored_rows += len(rows) - len(kept)
        return kept

    def _forget_idle(self, *, remembers: bool) -> None:
        """Forgets what has no row in the window that ends, or all."""
        before, self._remembered = self._remembered, {}
        for key, connection in before.items():
            connection.is_remembered = remembers and connection.is_open
            if connection.is_remembered:
                self._remembered[key] = connection

    def recent(self, executable: Executable, now: float) -> Iterator[RecentConnection]:
        """Its connections of the open window and the last one, without those that are ignored."""
        for key, connection in self._remembered.items():
            flow = connection.flow
            if (flow.program.sha256, flow.program.exe) != (executable.sha256, executable.exe):
                continue
            last_bytes = (connection.last_send_bytes, connection.last_receive_bytes)
            open_bytes = (connection.send_bytes, connection.receive_bytes)
            row = replace(
                self._connection_row(connection, now),
                send_bytes=last_bytes[0] + open_bytes[0],
                receive_bytes=last_bytes[1] + open_bytes[1],
            )
            if not self._ignore.matches(row):
                yield RecentConnection(
                    id=f"{hash(key) & _MASK:016x}",
                    pid=flow.owner.tgid,
                    row=row,
                    last_bytes=last_bytes,
                    open_bytes=open_bytes,
                )

    def count_recent(self) -> dict[Executable, tuple[int, int]]:
        """Connections and domains of each executable, in the open window and the last one."""
        found: dict[Executable, tuple[int, set[str]]] = {}
        for connection in self._remembered.values():
            program = connection.flow.program
            executable = Executable(sha256=program.sha256, exe=program.exe)
            count, domains = found.get(executable, (0, set()))
            if connection.domain:
                domains.add(connection.domain)
            found[executable] = (count + 1, domains)
        return {executable: (count, len(domains)) for executable, (count, domains) in found.items()}

    def _connection_row(self, connection: Connection, now: float) -> LogRow:
        flow = connection.flow
        return LogRow(
            contime=now,
            send_bytes=connection.send_bytes,
            receive_bytes=connection.receive_bytes,
            events=connection.events,
            program=flow.program,
            parent=flow.parent,
            grandparent=flow.grandparent,
            uid=flow.uid,
            protocol=flow.protocol,
            direction=flow.direction,
            local_port=flow.local_port,
            remote_port=flow.remote_port,
            local_address=flow.local_address,
            remote_address=flow.remote_address,
            # An answer, or who asked for it, may have been on its way while the first bytes were.
            domain=self._domains.domain_of(flow) or connection.domain,
            netns=flow.netns,
            container=flow.container,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hiding:
    """What `Log addresses`, `Log commands` and `Log ports` leave out of every log."""

    addresses: bool = False
    commands: bool = False
    ports: bool = False

    @classmethod
    def of(cls, settings: LogSettings) -> Self:
        """What the settings say."""
        return cls(
            addresses=not settings.addresses,
            commands=not settings.commands,
            ports=not settings.ports,
        )

    def apply(self, rows: tuple[LogRow, ...]) -> tuple[LogRow, ...]:
        """The rows with these values empty (ports: 0). A domain is an address by its name."""
        if not (self.addresses or self.commands or self.ports):
            return rows
        return tuple(self._hide(row) for row in rows)

    def _hide(self, row: LogRow) -> LogRow:
        if self.addresses:
            row = replace(row, local_address="", remote_address="", domain="")
        if self.commands:
            row = replace(
                row,
                program=replace(row.program, cmdline=""),
                parent=replace(row.parent, cmdline=""),
                grandparent=replace(row.grandparent, cmdline=""),
            )
        # -1 is no port: it says what kind of row this is.
        if self.ports and row.local_port != EXECUTION_PORT:
            row = replace(row, local_port=0, remote_port=0)
        return row


def _execution_row(key: _ExecutionKey, count: int, now: float) -> LogRow:
    program, parent, grandparent, uid, container = key
    return LogRow(
        contime=now,
        send_bytes=0,
        receive_bytes=0,
        events=count,
        program=program,
        parent=parent,
        grandparent=grandparent,
        uid=uid,
        protocol="",
        direction=Direction.UNKNOWN,
        local_port=EXECUTION_PORT,
        remote_port=EXECUTION_PORT,
        local_address="",
        remote_address="",
        domain="",
        netns=0,
        container=container,
    )
