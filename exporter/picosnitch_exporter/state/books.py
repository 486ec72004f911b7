"""Where what is attributed is entered: totals, facts and rows."""

from collections.abc import Callable
from typing import Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.identity.addresses import address_text, protocol_name, scope_of
from picosnitch_exporter.model import (
    UNHASHED,
    AttributedFlow,
    Executable,
    Program,
    SeriesLabels,
)
from picosnitch_exporter.state.cardinality import Counts
from picosnitch_exporter.state.held import Held
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.wire import FlowRecord, UnseenRecord

Lineage = tuple[Program, Program, Program]
"""Process, parent and grandparent."""
_NOBODY = Executable(sha256=UNHASHED, exe="")
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
        time_seconds = self._to_unix(flow.time_ns)
        labels = SeriesLabels(
            executable=executable,
            workload=held.workload,
            protocol=protocol_name(flow.protocol, family=flow.family),
            scope=scope_of(flow.remote_address),
        )
        if flow.transmit_bytes or flow.receive_bytes:
            self._store.add_traffic(
                labels,
                transmit_bytes=flow.transmit_bytes,
                receive_bytes=flow.receive_bytes,
                time_seconds=time_seconds,
            )
        if flow.connections:
            directed = SeriesLabels(
                executable=labels.executable,
                workload=labels.workload,
                protocol=labels.protocol,
                scope=labels.scope,
                direction=flow.direction,
            )
            self._store.add_connections(directed, flow.connections, time_seconds=time_seconds)
        if flow.connect_failures:
            self._store.add_failures(labels, flow.connect_failures, time_seconds=time_seconds)

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
        self._store.see(
            executable,
            held.workload,
            name=program.name,
            parent=as_executable(parent),
            size_bytes=held.version.size_bytes if held.version is not None else 0,
            is_deleted=held.version is not None and held.version.is_deleted,
            time_seconds=self._to_unix(held.time_ns),
        )
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


def as_executable(program: Program) -> Executable:
    """What a parent is in labels; empty where there is none."""
    return Executable(sha256=program.sha256, exe=program.exe) if program.exe else _NOBODY
