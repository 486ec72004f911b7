"""What can't be attributed yet: it waits for a process, a command line or a hash."""

from collections import deque
from dataclasses import dataclass, replace

from picosnitch_exporter.identity.processes import Process
from picosnitch_exporter.identity.versions import Version
from picosnitch_exporter.model import HOST, Executable, FileIdentity, ProcessKey, Workload
from picosnitch_exporter.wire import FlowFlag, FlowRecord, UnseenRecord

GENERATIONS = 3
"""That are logged: the process, its parent and its grandparent."""
Event = ProcessKey | Version
"""What is waited for: the process, or what is still missing of it, or that it is settled."""


# Not frozen, and compared by identity: it goes through stages.
@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """What moved on one connection, an unseen socket, or (with neither) that something ran."""

    owner: ProcessKey
    identity: FileIdentity
    time_ns: int
    grace_ends_ns: int
    flow: FlowRecord | None = None
    unseen: UnseenRecord | None = None
    process: Process | None = None
    version: Version | None = None
    executable: Executable | None = None
    """Its label, from the moment on in which it is counted."""
    workload: Workload = HOST
    container: str = ""
    is_kernel: bool = False
    """Of a kernel thread: there is no file, and often no introduction."""
    uid: int = 0
    """Of what ran; a flow has its own."""
    is_impatient: bool = False
    """Waits for no process any more."""
    is_forced: bool = False
    """Waits for nothing any more."""
    waits_for: Event | None = None
    has_waited: bool = False


class Waiting:
    """All that is held: by what it waits for, by connection, and by the end of its grace."""

    def __init__(self) -> None:
        self._by_event: dict[Event, dict[Held, None]] = {}
        self._flows: dict[object, Held] = {}
        # In order, as all have the same grace and come here when they begin.
        self._graces: deque[Held] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def all(self) -> list[tuple[Held, Event]]:
        """Everything, and what each waits for."""
        return [(held, event) for event, waiting in self._by_event.items() for held in waiting]

    def put(self, held: Held, event: Event) -> None:
        """Keeps it until the event."""
        held.waits_for = event
        self._by_event.setdefault(event, {})[held] = None
        self._count += 1
        if not held.has_waited:
            held.has_waited = True
            self._graces.append(held)
        if held.flow is not None:
            self._flows[_connection(held.flow)] = held

    def take(self, event: Event) -> list[Held]:
        """What has waited for the event."""
        taken = list(self._by_event.pop(event, ()))
        for held in taken:
            self._forget(held)
        return taken

    def remove(self, held: Held, event: Event) -> None:
        """Takes out one that is not to wait for the event any longer."""
        waiting = self._by_event[event]
        del waiting[held]
        if not waiting:
            del self._by_event[event]
        self._forget(held)

    def find(self, record: FlowRecord) -> Held | None:
        """What is held of the same connection and owner."""
        return self._flows.get(_connection(record)) if self._flows else None

    def overdue(self, now_ns: int) -> list[Held]:
        """Those whose grace is over."""
        overdue = []
        while self._graces and self._graces[0].grace_ends_ns <= now_ns:
            overdue.append(self._graces.popleft())
        return overdue

    def _forget(self, held: Held) -> None:
        self._count -= 1
        held.waits_for = None
        if held.flow is not None:
            self._flows.pop(_connection(held.flow), None)


def merge(flow: FlowRecord, later: FlowRecord) -> FlowRecord:
    """The sum of two differences of the same connection and owner."""
    return replace(
        later,
        flags=flow.flags | later.flags,
        time_ns=max(flow.time_ns, later.time_ns),
        transmit_bytes=flow.transmit_bytes + later.transmit_bytes,
        receive_bytes=flow.receive_bytes + later.receive_bytes,
        transmit_calls=flow.transmit_calls + later.transmit_calls,
        receive_calls=flow.receive_calls + later.receive_calls,
        connections=flow.connections + later.connections,
        connect_failures=flow.connect_failures + later.connect_failures,
    )


def settled_versions(held: Held) -> tuple[Version, ...]:
    """What the owner, its parent and its grandparent run; empty if any of it is not known yet.

    Where it is, what was found out holds for all that the owner moves, until more becomes known of
    a process, or of a file that could not be hashed.
    """
    process = held.process
    if held.is_kernel or held.is_forced or held.is_impatient or process is None:
        return ()
    if process.executable != held.identity or process.version is not held.version:
        return ()
    versions = [process.version]
    while process.parent.tgid and len(versions) < GENERATIONS:
        if process.ancestor is None:
            return ()
        process = process.ancestor
        versions.append(process.version)
    settled = tuple(one for one in versions if one is not None and one.is_settled)
    return settled if len(settled) == len(versions) else ()


def _connection(flow: FlowRecord) -> tuple[object, ...]:
    """All of a record that is no sum: only what agrees in it can be added up."""
    return (
        flow.cookie,
        flow.owner,
        flow.executable,
        flow.local_address,
        flow.local_port,
        flow.remote_address,
        flow.remote_port,
        flow.protocol,
        flow.family,
        flow.direction,
        flow.netns,
        flow.uid,
        flow.flags & FlowFlag.KERNEL,
    )
