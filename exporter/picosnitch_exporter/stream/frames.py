"""The frames between sensor and exporter, as values."""

from dataclasses import dataclass

from picosnitch_exporter.model import FileIdentity, ProcessKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame of the sensor: what it attached to, and which ring its positions mean."""

    wire_version: int
    instance: int
    plan: str
    refused_plans: tuple[tuple[str, str], ...]
    """Better plans that this machine does not take, and why."""
    plan_losses: tuple[str, ...]
    """What the plan does not see here, and a better one would."""
    hooks: tuple[str, ...]
    kernel_release: str
    adopted: bool
    """True where pinned programs were taken over, which have counted in between."""
    idle: bool
    """True where those had stopped counting because nobody had read for the linger time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Bytes of the ring from position `start` to `end` (monotonic, in bytes)."""

    instance: int
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableSeen:
    """An executable and, where it could be opened, its descriptor with the frame.

    The stamps are those of the descriptor when the sensor opened it. `reason` is empty with a
    descriptor, otherwise it says why there is none (a label value: gone, denied, mismatch, ...).
    """

    identity: FileIdentity
    tgid: int
    """Who ran it when it was seen."""
    seen_ns: int
    """CLOCK_BOOTTIME from which on this content may have run."""
    size_bytes: int
    modified_ns: int
    changed_ns: int
    links: int
    """Names that the file has; another file in its place counts as one."""
    path: bytes
    reason: str

    @property
    def is_gone(self) -> bool:
        """Whether the file was read, and has no name any more."""
        return not self.links and not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The command line of a process that was not seen starting, from /proc."""

    key: ProcessKey
    cmdline: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPath:
    """Which cgroup a number in process records means."""

    hierarchy: int
    """0: v2; otherwise the v1 hierarchy of `ProcessRecord.cgroup1_id`."""
    cgroup_id: int
    path: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Introductions:
    """Process records, in the layout of the ring, of what an earlier run was told of."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MapUse:
    """How full a kernel map is."""

    name: str
    entries: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramUse:
    """What a BPF program has cost since it was loaded; 0 where kernel.bpf_stats_enabled is off."""

    name: str
    runs: int
    run_time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStatus:
    """Counters of the kernel side, by index of `wire.Counter`, and sizes."""

    counters: tuple[int, ...]
    maps: tuple[MapUse, ...]
    map_memory_bytes: tuple[tuple[str, int], ...]
    """(map, memory of the kernel that it takes)."""
    programs: tuple[ProgramUse, ...]
    drain_seconds: tuple[float, ...]
    """One for each drain since the previous status."""
    sensor_lost: tuple[tuple[str, str, int], ...]
    """(stage, reason, count) of what the sensor itself could not do, monotonic."""
    idle_seconds: float
    """In which nothing was counted, as nobody had read for the linger time; monotonic."""
    open_descriptors: int
    resident_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The hooks count, and what ran before has been handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Last frame: the exporter commits what it has and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where the exporter's books end; `instance` 0 where it has none."""

    instance: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """Everything before `position` is safe: the ring may forget it."""

    instance: int
    position: int


Frame = (
    Hello
    | Records
    | ExecutableSeen
    | CommandLine
    | Introductions
    | CgroupPath
    | KernelStatus
    | Ready
    | Stopping
    | Resume
    | Acknowledge
)
FROM_SENSOR = (
    Hello,
    Records,
    ExecutableSeen,
    CommandLine,
    Introductions,
    CgroupPath,
    KernelStatus,
    Ready,
    Stopping,
)
FROM_EXPORTER = (Resume, Acknowledge)
