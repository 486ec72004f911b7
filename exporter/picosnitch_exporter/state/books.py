"""Where what is attributed is entered: totals, facts and rows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.identity.addresses import address_text, protocol_name, scope_of
from picosnitch_exporter.identity.versions import Version
from picosnitch_exporter.model import (
    AttributedFlow,
    Executable,
    Program,
    SeriesLabels,
    Sha256,
    Workload,
)
from picosnitch_exporter.state.cardinality import Counts
from picosnitch_exporter.state.held import Held
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.wire import DIRECTIONS, FlowRecord, UnseenRecord

Lineage = tuple[Program, Program, Program]
"""Process, parent and grandparent."""
_CACHED_PARENTS = 1_024
_UNSEEN_KINDS = {17: "packet_ring", 44: "xdp"}
"""By address family: AF_PACKET, AF_XDP."""


class Row(Protocol):
    """The row of a connection: `log.rows.Connection`."""

    send_bytes: int
    receive_bytes: int
    events: int
    is_open: bool
    """False once its window has been closed: it is to be opened before more is added."""
    is_remembered: bool
    """False once nothing more is to be added."""

    def open(self) -> None:
        """Takes part in the window that is open now."""


class RowSink(Protocol):
    """What takes the rows: `log.rows.Windows`."""

    def add(self, flow: AttributedFlow, /) -> Row | None:
        """Takes what moved on a connection; what moves next may be added to the row."""

    def add_execution(
        self,
        program: Program,
        *,
        parent: Program,
        grandparent: Program,
        uid: int,
        container: str,
    ) -> None:
        """Takes that an executable ran ('Every exe')."""


# Not frozen: it is added to with each record.
@dataclass(slots=True, kw_only=True, eq=False)
class Sums:
    """What has moved under the same labels."""

    transmit_bytes: int = 0
    receive_bytes: int = 0
    connections: list[int] = field(default_factory=lambda: [0] * len(DIRECTIONS))
    """By direction."""
    connect_failures: int = 0


class Books:
    """Enters each difference in the totals once, and in the rows once."""

    def __init__(
        self, *, store: Store, rows: RowSink, health: Counts, to_unix: Callable[[int], float]
    ) -> None:
        self._store = store
        self._rows = rows
        self._health = health
        self._to_unix = to_unix

    def count(self, held: Held, executable: Executable, flow: FlowRecord) -> None:
        """Adds one difference to the totals, which may be less than all that is held."""
        labels = SeriesLabels(
            executable=executable,
            workload=held.workload,
            protocol=protocol_name(flow.protocol, family=flow.family),
            scope=scope_of(flow.remote_address),
        )
        sums = Sums(
            transmit_bytes=flow.transmit_bytes,
            receive_bytes=flow.receive_bytes,
            connect_failures=flow.connect_failures,
        )
        sums.connections[DIRECTIONS.index(flow.direction)] = flow.connections
        self.add(labels, sums, time_ns=flow.time_ns)

    def add(self, labels: SeriesLabels, sums: Sums, *, time_ns: int) -> None:
        """Adds to the totals; `labels` without direction, the time is CLOCK_BOOTTIME."""
        time_seconds = self._to_unix(time_ns)
        if sums.transmit_bytes or sums.receive_bytes:
            self._store.add_traffic(
                labels,
                transmit_bytes=sums.transmit_bytes,
                receive_bytes=sums.receive_bytes,
                time_seconds=time_seconds,
            )
        for direction, count in zip(DIRECTIONS, sums.connections, strict=True):
            if count:
                directed = replace(labels, direction=direction)
                self._store.add_connections(directed, count, time_seconds=time_seconds)
        if sums.connect_failures:
            self._store.add_failures(labels, sums.connect_failures, time_seconds=time_seconds)

    def see(
        self,
        executable: Executable,
        workload: Workload,
        lineage: Lineage,
        version: Version | None,
        *,
        time_ns: int,
    ) -> None:
        """Notes that the executable was seen; its name and parent are those of its process."""
        program, parent, _grandparent = lineage
        self._store.see(
            executable,
            workload,
            name=program.name,
            parent=_executable_of(parent.exe, parent.sha256),
            size_bytes=version.size_bytes if version is not None else 0,
            is_deleted=version is not None and version.is_deleted,
            time_seconds=self._to_unix(time_ns),
        )

    def count_unseen(self, held: Held, executable: Executable, unseen: UnseenRecord) -> None:
        """Says that there is a socket whose bytes no hook can see."""
        kind = _UNSEEN_KINDS.get(unseen.family, f"af-{unseen.family}")
        workload = held.workload
        self._health.count(
            catalog.UNSEEN_SOCKETS,
            (
                executable.sha256,
                executable.exe,
                workload.namespace,
                workload.pod,
                workload.container,
                kind,
            ),
        )

    def log(self, held: Held, executable: Executable, lineage: Lineage) -> None:
        """Hands all that is held to the rows, and notes that the executable was seen."""
        program, parent, grandparent = lineage
        if (program.exe, program.sha256) != (executable.exe, executable.sha256):
            # The label stands since it was counted, whatever has become known since.
            program = Program(
                exe=executable.exe,
                name=program.name,
                cmdline=program.cmdline,
                sha256=executable.sha256,
            )
        self.see(executable, held.workload, lineage, held.version, time_ns=held.time_ns)
        if held.flow is not None:
            self._rows.add(self._attributed(held, held.flow, (program, parent, grandparent)))
        else:
            self._rows.add_execution(
                program,
                parent=parent,
                grandparent=grandparent,
                uid=held.uid,
                container=held.container,
            )

    def _attributed(self, held: Held, flow: FlowRecord, lineage: Lineage) -> AttributedFlow:
        return AttributedFlow(
            time_seconds=self._to_unix(flow.time_ns),
            cookie=flow.cookie,
            owner=flow.owner,
            program=lineage[0],
            parent=lineage[1],
            grandparent=lineage[2],
            uid=flow.uid,
            protocol=protocol_name(flow.protocol, family=flow.family),
            direction=flow.direction,
            local_address=address_text(flow.local_address),
            remote_address=address_text(flow.remote_address),
            local_port=flow.local_port,
            remote_port=flow.remote_port,
            netns=flow.netns,
            container=held.container,
            transmit_bytes=flow.transmit_bytes,
            receive_bytes=flow.receive_bytes,
            transmit_calls=flow.transmit_calls,
            receive_calls=flow.receive_calls,
            connections=flow.connections,
            connect_failures=flow.connect_failures,
        )


@lru_cache(maxsize=_CACHED_PARENTS)
def _executable_of(exe: str, sha256: Sha256) -> Executable:
    """What a parent is in labels; the same value for all of its children. Empty where none is."""
    return Executable(sha256=sha256, exe=exe)
