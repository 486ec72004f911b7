"""Processes as the kernel side has introduced them, and their ancestors."""

import os
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from picosnitch_exporter.identity.versions import Version
from picosnitch_exporter.model import FileIdentity, ProcessKey, Program, Workload
from picosnitch_exporter.stream import CommandLine
from picosnitch_exporter.wire import ProcessFlag, ProcessRecord

MAX_PROCESSES = 65_536
"""Images that are remembered: 85 MB if all of them were in use."""
MAX_CMDLINE_BYTES = 64 << 20
"""Of their command lines, each of which can take 256 KB; beyond that, new ones are cut:"""
SHORT_CMDLINE = 512
"""Characters that always stay, as many as the kernel side reads."""
IDLE_NS = 3600 * 1_000_000_000
"""A process that has ended and was not used for so long is forgotten."""
MANY_PROCESSES = 8_192
"""Beyond so many, some 10 MB, it is forgotten sooner, after `MANY_IDLE_NS`."""
MANY_IDLE_NS = 60 * 1_000_000_000
GRACE_NS = 1_000_000_000
"""How long the introduction of a process, or its command line, may take."""
_REFRESH_NS = 1_000_000_000
_PROBED = 64
"""Processes that one tick asks about."""
_MAX_EARLY = 4096
"""Command lines that may be ahead of their process."""


class CommandLineSource(IntEnum):
    """Where a command line comes from; the higher, the harder to forge."""

    NONE = 0
    PROC = 1
    """Read from /proc after the fact."""
    SOCKET = 2
    """Read by the kernel side at the first socket."""
    EXEC = 3
    """Read by the kernel side at exec."""


# Not frozen: what is known of a process grows. Compared by identity.
@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """One image of one process. Only its table changes it, but for the caches."""

    key: ProcessKey
    parent: ProcessKey
    executable: FileIdentity
    exec_ns: int
    changed_ns: int
    """Change time of the executable at its exec, 0 where unknown."""
    cgroup_id: int
    cgroup1_id: int = 0
    uid: int
    name: str
    cmdline: str
    source: CommandLineSource
    is_kernel: bool
    known_ns: int
    """When it was introduced, on the table's clock."""
    used_ns: int
    ancestor: "Process | None" = None
    """Its parent, once somebody has asked and it was known."""
    version: Version | None = None
    """What it runs, once somebody has asked; dropped where that can have changed."""
    program: Program | None = None
    """How the log names it, once its version is settled."""
    workload: tuple[Workload, str] | None = None
    """What it runs in and the container's id, once somebody has asked; for good."""
    was_executed: bool = False
    """A record of its exec has been taken in."""
    has_moved: bool = False
    """A record of what it moved has been taken in."""


def render_cmdline(arguments: bytes) -> str:
    """Arguments, NUL separated, as one line: joined by spaces, as picosnitch does."""
    return os.fsdecode(arguments.rstrip(b"\0").replace(b"\0", b" "))


def exists(tgid: int) -> bool:
    """Whether a process of this id runs (and this process may know of it)."""
    try:
        os.kill(tgid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


class ProcessTable:
    """Processes by key. Times are nanoseconds of whatever monotonic clock the caller uses.

    Bounded: beyond `max_processes`, the one that was used least recently goes, whatever has ended
    before what still runs, as far as a short look tells. What has ended and was not used for an
    hour goes as well, or for a minute while there are more than `many_processes`: a machine that
    starts 40 programs a second would otherwise hold the 65,536 of half an hour. The parent of one
    that is remembered stays, as it is introduced only once. `is_running` tells whether a process id
    is in use.
    """

    def __init__(
        self,
        *,
        is_running: Callable[[int], bool] = exists,
        max_processes: int = MAX_PROCESSES,
        many_processes: int = MANY_PROCESSES,
        max_cmdline_bytes: int = MAX_CMDLINE_BYTES,
    ) -> None:
        self._is_running = is_running
        self._max_processes = max_processes
        self._many_processes = many_processes
        self._max_cmdline_bytes = max_cmdline_bytes
        self._cmdline_bytes = 0
        self._processes: OrderedDict[ProcessKey, Process] = OrderedDict()
        self._children: Counter[ProcessKey] = Counter()
        """Of those that are remembered, by parent."""
        self._early: OrderedDict[ProcessKey, str] = OrderedDict()
        self.changes = 0
        """How often more has become known of a process that had been introduced."""

    def __len__(self) -> int:
        return len(self._processes)

    def get(self, key: ProcessKey, *, now_ns: int) -> Process | None:
        """The process, if it has been introduced."""
        process = self._processes.get(key)
        # Moving it takes as long as finding it, and a second more or less makes no difference.
        if process is not None and now_ns - process.used_ns >= _REFRESH_NS:
            process.used_ns = now_ns
            self._processes.move_to_end(key)
        return process

    def parent_of(self, process: Process, *, now_ns: int) -> Process | None:
        """The parent, if it has been introduced; known for good from then on."""
        if process.ancestor is None:
            process.ancestor = self.get(process.parent, now_ns=now_ns)
        return process.ancestor

    def add(self, record: ProcessRecord, *, now_ns: int) -> Process:
        """Takes in an introduction; what is known better already stays."""
        source = _source(record)
        process = self.get(record.key, now_ns=now_ns)
        if process is None:
            parent = self._processes.get(record.parent)
            process = Process(
                key=record.key,
                # One value for all of its children: it takes 150 bytes.
                parent=parent.key if parent is not None else record.parent,
                executable=record.executable,
                exec_ns=record.exec_ns,
                changed_ns=record.changed_ns,
                cgroup_id=record.cgroup_id,
                cgroup1_id=record.cgroup1_id,
                uid=record.uid,
                name=os.fsdecode(record.comm),
                cmdline=self._take_cmdline(render_cmdline(record.cmdline)),
                source=source,
                is_kernel=bool(record.flags & ProcessFlag.KERNEL),
                known_ns=now_ns,
                used_ns=now_ns,
            )
            self._make_room()
            self._processes[record.key] = process
            self._children[process.parent] += 1
            early = self._early.pop(record.key, None)
            if early is not None:
                self._cmdline_bytes -= sys.getsizeof(early)
                self._improve(process, early)
            return process
        if source >= process.source:
            before = (process.name, process.cmdline, process.uid)
            process.source = source
            self._set_cmdline(process, render_cmdline(record.cmdline) or process.cmdline)
            process.name = os.fsdecode(record.comm)
            process.uid = record.uid
            process.cgroup_id = record.cgroup_id
            process.cgroup1_id = record.cgroup1_id
            if before != (process.name, process.cmdline, process.uid):
                self._note_change(process)
        if record.exec_ns and record.exec_ns != process.exec_ns:
            process.exec_ns = record.exec_ns
            process.changed_ns = record.changed_ns
            process.version = None
            self._note_change(process)
        return process

    def add_command_line(self, frame: CommandLine, *, now_ns: int) -> Process | None:
        """Takes in what /proc says; None where the process is unknown."""
        process = self.get(frame.key, now_ns=now_ns)
        cmdline = render_cmdline(frame.cmdline)
        if process is None:
            before = self._early.pop(frame.key, None)
            if before is not None:
                self._cmdline_bytes -= sys.getsizeof(before)
            self._early[frame.key] = self._take_cmdline(cmdline)
            if len(self._early) > _MAX_EARLY:
                _key, gone = self._early.popitem(last=False)
                self._cmdline_bytes -= sys.getsizeof(gone)
            return None
        self._improve(process, cmdline)
        return process

    def expire(self, *, now_ns: int) -> None:
        """Forgets what has ended and was not used for long."""
        for _ in range(_PROBED):
            if not self._processes:
                return
            key, process = next(iter(self._processes.items()))
            are_many = len(self._processes) > self._many_processes
            if now_ns - process.used_ns < (MANY_IDLE_NS if are_many else IDLE_NS):
                return
            if self._is_running(key.tgid) or key in self._children:
                # A process is introduced once only: a daemon that talks once a day keeps its name.
                process.used_ns = now_ns
                self._processes.move_to_end(key)
            else:
                self._forget(key)

    def _improve(self, process: Process, cmdline: str) -> None:
        # The kernel side cuts at 512 bytes: a longer one that begins the same is the whole of it.
        is_whole = bool(process.cmdline) and cmdline.startswith(process.cmdline)
        if process.source <= CommandLineSource.PROC or is_whole:
            self._set_cmdline(process, cmdline)
            process.source = max(process.source, CommandLineSource.PROC)
            self._note_change(process)

    def _note_change(self, process: Process) -> None:
        process.program = None
        self.changes += 1

    def _set_cmdline(self, process: Process, cmdline: str) -> None:
        self._cmdline_bytes -= sys.getsizeof(process.cmdline)
        process.cmdline = self._take_cmdline(cmdline)

    def _take_cmdline(self, cmdline: str) -> str:
        """As much of it as there is room for; from then on it takes that room."""
        if self._cmdline_bytes >= self._max_cmdline_bytes:
            cmdline = cmdline[:SHORT_CMDLINE]
        self._cmdline_bytes += sys.getsizeof(cmdline)
        return cmdline

    def _make_room(self) -> None:
        if len(self._processes) < self._max_processes:
            return
        for _ in range(_PROBED):
            key = next(iter(self._processes))
            if not self._is_running(key.tgid):
                break
            self._processes.move_to_end(key)
        self._forget(next(iter(self._processes)))

    def _forget(self, key: ProcessKey) -> None:
        process = self._processes.pop(key)
        self._cmdline_bytes -= sys.getsizeof(process.cmdline)
        parent = process.parent
        self._children[parent] -= 1
        if not self._children[parent]:
            del self._children[parent]


def _source(record: ProcessRecord) -> CommandLineSource:
    if record.flags & ProcessFlag.CMDLINE_MISSING:
        return CommandLineSource.NONE
    if record.flags & ProcessFlag.CMDLINE_LATE:
        return CommandLineSource.SOCKET
    return CommandLineSource.EXEC
