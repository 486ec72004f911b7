"""From the kernel's maps and ring to whole records, and what was lost on the way."""

import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import FileIdentity, ProcessKey
from picosnitch_exporter.runs import OWNERS, WHO, split_runs
from picosnitch_exporter.sensor.kernel_side import KernelSide
from picosnitch_exporter.sensor.libbpf import Library, program_statistics
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.ring import Ring
from picosnitch_exporter.stream import MAX_RECORD_BYTES, MapUse, ProgramUse
from picosnitch_exporter.wire import (
    Counter,
    ProcessFlag,
    RecordKind,
    decode_process,
)

_KIND = struct.Struct("=H")
_SUBJECT = slice(16, 56)
"""Owner and executable, in flow records and in those of unseen sockets."""
_COUNTER = struct.Struct("=Q")
_SK_STORAGE = 24
"""BPF_MAP_TYPE_SK_STORAGE in include/uapi/linux/bpf.h."""
_SOCKET_STORAGE_BYTES = 256 + 192
"""Of the allocator: struct bpf_local_storage_elem with its value, struct bpf_local_storage."""
EXPIRE_SECONDS = 15.0
"""Between two looks for idle flows: walking the map costs 2 ms even when it is empty."""
CROWDED_SECONDS = 1.0
"""The same while more than half of the map is in use: a flood of peers is forgotten in seconds."""
UNSEEN_SECONDS = 15.0
"""Between two looks for sockets whose bytes no hook can see, among all open files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a record speaks of, as far as the sensor has to know: the rest is the exporter's."""

    key: ProcessKey
    executable: FileIdentity
    # What follows is there where the record is one of a process.
    wants_cmdline: bool = False
    cgroup_id: int = 0
    cgroup1_id: int = 0
    changed_ns: int = 0
    """Change time of the executable at the exec, 0 where it was not seen."""
    names: tuple[bytes, ...] = ()
    """What the executable may be called: its first argument, its short name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Ring data from `start` to `end`, and what the sensor itself has to know of it."""

    start: int
    end: int
    data: bytes
    subjects: tuple[Subject, ...]


def subjects_of(data: bytes) -> tuple[Subject, ...]:
    """Subjects of the records in a piece of the ring, in order, those of flows each once.

    Raises
    ------
    WireError
        if one is shorter than its kind is, or ends beyond the data.
    """
    try:
        return _subjects_of(data)
    except struct.error as error:
        raise WireError(f"record that is shorter than its kind: {error}") from error


def _subjects_of(data: bytes) -> tuple[Subject, ...]:
    subjects: list[Subject] = []
    seen: set[bytes] = set()
    for piece in split_runs(data):
        # Compared as bytes: thousands of records of one owner come at once.
        if isinstance(piece, memoryview):
            found = dict.fromkeys(subject for (subject,) in OWNERS.iter_unpack(piece))
        elif _KIND.unpack_from(piece)[0] in (RecordKind.FLOW, RecordKind.UNSEEN):
            found = {piece[_SUBJECT]: None}
        else:
            if _KIND.unpack_from(piece)[0] == RecordKind.PROCESS:
                subjects.append(_subject_of_process(piece))
            continue
        subjects += [_subject_of_flow(subject) for subject in found if subject not in seen]
        seen.update(found)
    return tuple(subjects)


def _subject_of_flow(subject: bytes) -> Subject:
    start_ns, exec_id, tgid, inode, device, generation = WHO.unpack(subject)
    return Subject(
        key=ProcessKey(start_ns=start_ns, exec_id=exec_id, tgid=tgid),
        executable=FileIdentity(inode=inode, device=device, generation=generation),
    )


def _subject_of_process(record: bytes) -> Subject:
    process = decode_process(record)
    return Subject(
        key=process.key,
        executable=process.executable,
        wants_cmdline=bool(process.flags & ProcessFlag.CMDLINE_MISSING),
        cgroup_id=process.cgroup_id,
        cgroup1_id=process.cgroup1_id,
        changed_ns=process.changed_ns,
        names=(process.cmdline.split(b"\0", 1)[0], process.comm),
    )


def read_batches(ring: Ring, position: int) -> Iterator[Batch]:
    """What a ring holds from `position` on."""
    while data := ring.read(position, MAX_RECORD_BYTES):
        start, position = position, position + len(data)
        yield Batch(start=start, end=position, data=data, subjects=subjects_of(data))


class Drain:
    """Reads the kernel side; `position` is how far, independent of what was given back to it."""

    def __init__(self, side: KernelSide, library: Library, *, position: int) -> None:
        self._side = side
        self._library = library
        self.position = position
        self.durations: list[float] = []
        self._expired_at = 0.0
        self._next_look = time.monotonic() + UNSEEN_SECONDS  # the loader has just looked
        self._capacity = {
            name: side.maps[name].info().max_entries for name in ("flows", "fallback")
        }
        self._storages = {name for name, one in side.maps.items() if one.info().type == _SK_STORAGE}
        self._order = deque(("fallback", "sockets", "flows"))
        self._entries: dict[str, int] = {}
        self._met: dict[str, int] = {}

    def collect(self) -> bool:
        """Has the kernel put what is pending into the ring; True if not all of it found room."""
        side = self._side
        side.control.beat()
        sockets, flows, fallback = side.control.take_dirty()
        started = time.monotonic()
        flow_count = side.control.flow_count
        is_crowded = flow_count > self._capacity["flows"] // 2
        period = CROWDED_SECONDS if is_crowded else EXPIRE_SECONDS
        is_expiring = flow_count > 0 and started >= self._expired_at + period
        side.control.set_expiring(is_expiring=is_expiring)
        if started >= self._next_look:
            side.iterators["find_unseen"].run()
            self._next_look = started + UNSEEN_SECONDS
        if is_expiring:
            flows = True
            self._expired_at = started
        if not (sockets or flows or fallback):
            return False
        dirty = {"fallback": fallback, "sockets": sockets, "flows": flows}
        # In turn, so that none of them fills the ring each time before the others come.
        self._order.rotate(1)
        is_behind = False
        for name in self._order:
            if dirty[name]:
                is_behind |= self._run(name)
        self.durations.append(time.monotonic() - started)
        return is_behind

    def _run(self, name: str) -> bool:
        """Drains one map; True if it was stopped by a full ring."""
        control = self._side.control
        link = self._side.iterators[f"drain_{name}"]
        is_resumed = link.is_stopped
        link.run()
        met = control.take_entries()[name]
        self._met[name] = met + (self._met.get(name, 0) if is_resumed else 0)
        is_stopped = link.is_stopped
        if not is_stopped:
            # What the fallback map held has been moved.
            self._entries[name] = 0 if name == "fallback" else self._met[name]
        if name == "fallback":
            # What it has moved is gone, so it is always the first elements that wait.
            link.begin_anew()
        elif is_resumed and not is_stopped:
            # Elements that were removed meanwhile may have had others skipped: once more.
            control.raise_dirty()
        return is_stopped

    def batches(self) -> Iterator[Batch]:
        """What is in the ring beyond `position`, which the caller moves."""
        return read_batches(self._side.ring, self.position)

    def late_introductions(self) -> bytes:
        """Process records of those that found the ring full, in a row."""
        control = self._side.control
        if not control.take_late_processes():
            return b""
        return self._introductions(is_late=True)

    def introductions(self) -> bytes:
        """Process records, in a row, of all that anybody was ever told of."""
        return self._introductions(is_late=False)

    def _introductions(self, *, is_late: bool) -> bytes:
        self._side.control.set_introducing_late(is_late=is_late)
        return self._side.iterators["introduce_again"].run()

    def counters(self) -> tuple[int, ...]:
        """The kernel's counters, summed over the CPUs."""
        cpus = self._library.cpus
        values = []
        for index in Counter:
            raw = self._side.maps["counters"].lookup(
                int(index).to_bytes(4, "little"), _COUNTER.size * cpus
            )
            values.append(sum(word for (word,) in _COUNTER.iter_unpack(raw or b"")))
        return tuple(values)

    def maps(self) -> tuple[MapUse, ...]:
        """How full the maps are, as of the drains so far, and the ring right now."""
        ring = self._side.ring
        used = ring.producer_position - ring.consumer_position
        uses = [MapUse(name="records", entries=used, capacity=ring.size)]
        counts = self._entries | {"flows": self._side.control.flow_count}
        for name in ("sockets", "flows", "fallback"):
            entries = counts.get(name, 0)
            uses.append(MapUse(name=name, entries=entries, capacity=self._capacity.get(name, 0)))
        return tuple(uses)

    def map_memory(self, procfs: Procfs) -> tuple[tuple[str, int], ...]:
        """Each map's name, and the bytes of the kernel's memory that it takes."""
        return tuple(
            (name, procfs.map_memory_bytes(one.descriptor) + self._storage_bytes(name))
            for name, one in self._side.maps.items()
        )

    def _storage_bytes(self, name: str) -> int:
        """What the kernel does not count with a map: the storage that lies at the sockets."""
        return self._entries.get(name, 0) * _SOCKET_STORAGE_BYTES if name in self._storages else 0

    def programs(self) -> tuple[ProgramUse, ...]:
        """Runs and run time of each program."""
        uses = []
        for name, descriptor in self._side.programs.items():
            runs, run_time_ns = program_statistics(self._library, descriptor)
            uses.append(ProgramUse(name=name, runs=runs, run_time_ns=run_time_ns))
        return tuple(uses)

    def take_durations(self) -> tuple[float, ...]:
        """Seconds of each drain since the last call."""
        taken = tuple(self.durations)
        self.durations.clear()
        return taken
