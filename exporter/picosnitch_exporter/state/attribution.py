"""From what the kernel side reports to totals and rows with everybody's name on them."""

from collections.abc import Callable, Iterator
from typing import Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.identity.processes import (
    GRACE_NS,
    CommandLineSource,
    Process,
    ProcessTable,
)
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.identity.versions import Version
from picosnitch_exporter.model import (
    NO_PROGRAM,
    Executable,
    ProcessKey,
    Program,
)
from picosnitch_exporter.runs import who_of
from picosnitch_exporter.state.books import Books, Lineage, RowSink
from picosnitch_exporter.state.cardinality import Counts
from picosnitch_exporter.state.held import (
    GENERATIONS,
    Event,
    Held,
    Waiting,
    merge,
    settled_versions,
)
from picosnitch_exporter.state.known import Known, Owner
from picosnitch_exporter.state.naming import (
    HostOnly,
    Workloads,
    label,
    program_of,
    version_of,
)
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import CommandLine, ExecutableSeen
from picosnitch_exporter.wire import (
    FlowFlag,
    FlowRecord,
    ProcessFlag,
    ProcessRecord,
    UnseenRecord,
)

MAX_HELD = 65_536
"""Connections that wait for a hash or a name: 60 MB if there were so many."""
# Plain numbers: the operators of IntFlag take 0.6 us each.
_FINAL = int(FlowFlag.FINAL)
_KERNEL = int(FlowFlag.KERNEL)


class Measures(Counts, Protocol):
    """What attribution needs of `Health`."""

    def observe(self, metric: catalog.Metric, labels: tuple[str, ...], seconds: float) -> None:
        """Adds to a histogram."""


class Attributor:
    """Gives each difference that moved to its executable, exactly once.

    What moved is added to the totals once the hash of its executable is known, or known to be
    impossible, and to the rows once that holds for its parents as well. Frames may come in any
    order: what names a process or a file that was not introduced yet waits for a short grace.
    `clock` is monotonic, in nanoseconds; `to_unix` makes Unix seconds of CLOCK_BOOTTIME
    nanoseconds. One thread.
    """

    def __init__(  # noqa: PLR0913  (it brings all the others together)
        self,
        *,
        registry: Registry,
        processes: ProcessTable,
        store: Store,
        rows: RowSink,
        health: Measures,
        clock: Callable[[], int],
        to_unix: Callable[[int], float],
        workloads: Workloads | None = None,
        max_held: int = MAX_HELD,
        grace_ns: int = GRACE_NS,
    ) -> None:
        self._registry = registry
        self._processes = processes
        self._books = Books(store=store, rows=rows, health=health, to_unix=to_unix)
        self._known = Known(books=self._books, rows=rows, to_unix=to_unix)
        self._changes = 0
        self._health = health
        self._clock = clock
        self._workloads = workloads or HostOnly()
        self._max_held = max_held
        self._grace_ns = grace_ns
        self._waiting = Waiting()
        self._unnamed: dict[ProcessKey, None] = {}
        """Processes whose pod is not known yet: looked at in each tick."""

    @property
    def held(self) -> int:
        """Connections and executions that wait for a hash or a name."""
        return len(self._waiting)

    def flow(self, record: FlowRecord) -> None:
        """Takes in what moved on a socket."""
        held = self._waiting.find(record)
        if held is None or held.flow is None:
            self._begin(record.owner, record)
            return
        held.flow = merge(held.flow, record)
        held.time_ns = held.flow.time_ns
        if held.executable is not None:
            self._books.count(held, held.executable, record)

    def flows(self, run: memoryview) -> Iterator[bytes]:
        """Takes in flow records (see `runs.split_runs`); yields those that `flow` has to take."""
        if self._changes != self._processes.changes:
            self._changes = self._processes.changes
            self._known.forget()
        yield from self._known.take(run)
        now_ns = self._clock()
        for owner in self._known.post():
            self._processes.get(owner, now_ns=now_ns)  # it is in use

    def window_closed(self) -> None:
        """Forgets connections that the rows have forgotten."""
        self._known.forget_idle()

    def process(self, record: ProcessRecord) -> None:
        """Takes in who somebody is."""
        process = self._processes.add(record, now_ns=self._clock())
        self._resume(record.key)
        if record.flags & ProcessFlag.EXEC and not record.generation and not process.was_executed:
            process.was_executed = True
            self._begin(record.key, record)

    def executable(self, frame: ExecutableSeen, descriptor: int | None) -> None:
        """Takes in that a file is executed; the descriptor is taken over."""
        self._known.shown(self._registry.seen(frame, descriptor))
        self._take_settled()

    def command_line(self, frame: CommandLine) -> None:
        """Takes in what /proc says about a process."""
        if self._processes.add_command_line(frame, now_ns=self._clock()) is not None:
            self._resume(frame.key)

    def unseen(self, record: UnseenRecord) -> None:
        """Takes in that there is a socket whose bytes no hook can see."""
        self._begin(record.owner, record)

    def settled(self) -> None:
        """Takes in what has been hashed; to be called when the hasher's descriptor is readable.

        Raises
        ------
        HashingError
            if a hashing thread has died.
        """
        for outcome in self._registry.poll():
            if outcome.sha256:
                self._health.observe(catalog.HASH_DURATION, (), outcome.seconds)
        self._take_settled()

    def tick(self) -> None:
        """Gives up on what has not come in time; to be called some times a second.

        Once in some seconds is enough while nothing is held.

        Raises
        ------
        HashingError
            if a hashing thread has died.
        """
        self.settled()
        self._registry.tick()
        self._take_settled()
        unnamed, self._unnamed = self._unnamed, {}
        for key in unnamed:
            self._resume(key)
        now_ns = self._clock()
        self._processes.expire(now_ns=now_ns)
        for held in self._waiting.overdue(now_ns):
            held.is_impatient = True
            if isinstance(held.waits_for, ProcessKey):
                self._waiting.remove(held, held.waits_for)
                self._advance(held)

    def flush(self) -> None:
        """Attributes all that is held by what is known now, as nothing more will come."""
        self._known.forget()
        for held, event in self._waiting.all():
            self._force(held, event)

    def finish_counted(self) -> None:
        """Hands over the rows of what is counted, though a parent's hash is still awaited.

        Before a commit: totals and rows of a flow then stand in the same one.
        """
        for held, event in self._waiting.all():
            if held.executable is not None:
                self._force(held, event)

    def uncounted(self) -> Iterator[FlowRecord]:
        """Flows that wait and are in no total or row yet."""
        for held, _event in self._waiting.all():
            if held.executable is None and held.flow is not None:
                yield held.flow

    def _force(self, held: Held, event: Event) -> None:
        held.is_forced = True
        self._waiting.remove(held, event)
        self._advance(held)

    def _begin(self, owner: ProcessKey, record: FlowRecord | ProcessRecord | UnseenRecord) -> None:
        flow = record if isinstance(record, FlowRecord) else None
        held = Held(
            owner=owner,
            identity=record.executable,
            time_ns=record.time_ns,
            grace_ends_ns=self._clock() + self._grace_ns,
            flow=flow,
            is_kernel=not record.executable.is_file
            or (flow is not None and int(flow.flags) & _KERNEL > 0),
            unseen=record if isinstance(record, UnseenRecord) else None,
            uid=record.uid if isinstance(record, ProcessRecord) else 0,
        )
        if len(self._waiting) >= self._max_held:
            held.is_forced = True
        self._advance(held)

    def _resume(self, event: Event) -> None:
        for held in self._waiting.take(event):
            self._advance(held)

    def _take_settled(self) -> None:
        for version in self._registry.take_settled():
            if version.reason:
                self._health.count(catalog.UNHASHED_EXECUTABLES, (version.reason,))
            self._known.shown(version)
            self._resume(version)

    def _advance(self, held: Held) -> None:
        """Goes as far as what is known allows, and waits for what is not."""
        if held.process is None:
            held.process = self._processes.get(held.owner, now_ns=self._clock())
        if held.process is None and not held.is_kernel and self._waits_for_process(held):
            self._waiting.put(held, held.owner)
            return
        if held.executable is None:
            version = held.version = self._version(held)
            if not version.is_settled and not held.is_forced:
                self._waiting.put(held, version)
                return
            if self._waits_for_workload(held):
                return
            held.executable = self._name(held, version)
        if held.unseen is not None:
            self._books.count_unseen(held, held.executable, held.unseen)
            return
        lineage = self._lineage(held)
        if lineage is not None:
            self._books.log(held, held.executable, lineage)
            self._learn(held, held.executable, lineage)

    def _waits_for_process(self, held: Held) -> bool:
        return not held.is_forced and not held.is_impatient and self._clock() < held.grace_ends_ns

    def _waits_for_workload(self, held: Held) -> bool:
        process = held.process
        if process is None or held.is_forced or not self._workloads.is_pending(process):
            return False
        self._waiting.put(held, process.key)
        self._unnamed[process.key] = None
        return True

    def _version(self, held: Held) -> Version:
        if held.version is not None:
            return held.version
        process = held.process
        if held.is_kernel:
            return self._registry.kernel
        if process is None:
            # While a file runs nobody can write to it: what it is now is what was executed.
            return self._registry.version_of(held.identity, exec_ns=held.time_ns)
        if process.executable == held.identity:
            return version_of(process, self._registry)
        return self._registry.version_of(held.identity, exec_ns=process.exec_ns)

    def _name(self, held: Held, version: Version) -> Executable:
        """Fixes the labels, and enters what moved under them."""
        process = held.process
        if process is not None:
            held.workload, held.container = self._workloads.workload_of(process)
        if not version.is_settled:
            self._health.count(catalog.UNHASHED_EXECUTABLES, ("not_awaited",))
        executable = label(version, name=process.name if process is not None else "")
        if held.flow is not None:
            self._books.count(held, executable, held.flow)
        return executable

    def _lineage(self, held: Held) -> Lineage | None:
        """Process, parent and grandparent; None where one of them has to be waited for."""
        programs: list[Program] = []
        process = held.process
        while process is not None and len(programs) < GENERATIONS:
            if self._lacks_command_line(process) and self._waits_for_process(held):
                self._waiting.put(held, process.key)
                return None
            version = version_of(process, self._registry)
            if not version.is_settled and not held.is_forced:
                self._waiting.put(held, version)
                return None
            programs.append(program_of(process, version))
            child = process
            process = None
            if child.parent.tgid and len(programs) < GENERATIONS:
                process = self._processes.parent_of(child, now_ns=self._clock())
                if process is None and self._waits_for_process(held):
                    self._waiting.put(held, child.parent)
                    return None
        programs += [NO_PROGRAM] * (GENERATIONS - len(programs))
        return programs[0], programs[1], programs[2]

    def _learn(self, held: Held, executable: Executable, lineage: Lineage) -> None:
        """Has what the same owner moves from now on only added up, where no name is missing."""
        version, flow, program, process = held.version, held.flow, lineage[0], held.process
        versions = settled_versions(held)
        if flow is None or version is None or process is None or not versions:
            return
        if int(flow.flags) & _FINAL and not process.has_moved:
            process.has_moved = True  # most that begin like this have also ended with it
            return
        who = who_of(flow)
        label_has_changed = (program.exe, program.sha256) != (executable.exe, executable.sha256)
        if self._known.knows(who) or label_has_changed:
            return
        self._known.learn(
            who,
            Owner(
                key=held.owner,
                executable=executable,
                workload=held.workload,
                container=held.container,
                lineage=lineage,
                version=version,
            ),
            versions,
        )

    def _lacks_command_line(self, process: Process) -> bool:
        return (
            process.source is CommandLineSource.NONE
            and not process.is_kernel
            and self._clock() < process.known_ns + self._grace_ns
        )
