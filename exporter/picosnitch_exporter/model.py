"""The nouns of this program, as values: what ran, what it moved, and what is exposed.

Nothing here does I/O, reads a clock, or knows how anything is encoded.
"""

from array import array  # noqa: TC003 - the annotations stay readable at run time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, NewType

Sha256 = NewType("Sha256", str)
"""64 hexadecimal digits, or empty where the file could not be read."""

UNHASHED = Sha256("")


class Direction(StrEnum):
    """Who opened a connection; for datagrams, who sent first."""

    UNKNOWN = ""
    OUTBOUND = "outbound"
    INBOUND = "inbound"


class Scope(StrEnum):
    """How far away a peer is."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    MULTICAST = "multicast"
    PUBLIC = "public"
    UNKNOWN = "unknown"


# The next two are named tuples, which are found in dictionaries four times as fast as
# frozen dataclasses are, and that is what they are for.
class FileIdentity(NamedTuple):
    """What an executable is to the kernel; stays through rename, unlink and chmod.

    `device` is the superblock's number as the kernel encodes it (major << 20 | minor).
    """

    device: int
    inode: int
    generation: int

    @property
    def is_file(self) -> bool:
        """Not what the kernel side says of kernel threads. A file server may number one with 0."""
        return bool(self.device or self.inode)


class ProcessKey(NamedTuple):
    """One image of one process; `start_ns` is CLOCK_BOOTTIME."""

    tgid: int
    start_ns: int
    exec_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """What labels a series: the content's hash and the path as the host sees it."""

    sha256: Sha256
    exe: str


OTHER = Executable(sha256=Sha256("other"), exe="other")
"""Where executables beyond `metrics.max_executables` are counted, so that sums add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The pod or container that a process runs in; all empty on the host."""

    namespace: str = ""
    pod: str = ""
    container: str = ""


HOST = Workload()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process as the log names it."""

    exe: str
    name: str
    cmdline: str
    sha256: Sha256


NO_PROGRAM = Program(exe="", name="", cmdline="", sha256=UNHASHED)


# Not frozen: there can be thousands a second, and a frozen one takes three times as long to make.
@dataclass(slots=True, kw_only=True)
class LogRow:
    """The traffic of one connection within one write window, as `connection_log` shows it.

    Values are the real ones: hiding addresses, ports or command lines is up to the log. Nobody
    changes one.
    """

    contime: float
    """Unix seconds, end of the window."""
    send_bytes: int
    receive_bytes: int
    events: int
    """Socket calls that moved data, connects and accepts."""
    program: Program
    parent: Program
    grandparent: Program
    uid: int
    protocol: str
    direction: Direction
    local_port: int
    remote_port: int
    local_address: str
    remote_address: str
    domain: str
    """Reversed notation, empty where unknown."""
    netns: int
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLabels:
    """The labels of one counter; `direction` is UNKNOWN where the metric has no such label."""

    executable: Executable
    workload: Workload
    protocol: str
    scope: Scope
    direction: Direction = Direction.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterColumn:
    """All series of one counter, in columns of equal length.

    `numbers` are unique for the life of the process and never reused, so that what an output
    derives from a series' labels can be cached by it.
    """

    labels: tuple[SeriesLabels, ...]
    numbers: "array[int]"
    values: "array[int]"
    created_seconds: "array[float]"


MAX_ENGINES: Final = 1_000_000
"""Of VirusTotal; a number below it is believed."""
LAST_SECONDS: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: a later time can't be written as RFC 3339 has it."""


class Verdict(StrEnum):
    """What VirusTotal says of a hash."""

    CLEAN = "clean"
    SUSPICIOUS = "suspicious"
    MALICIOUS = "malicious"
    UNKNOWN = "unknown"
    PENDING = "pending"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirusTotalResult:
    """A verdict and, where there has been an analysis, how many engines said what."""

    verdict: Verdict = Verdict.DISABLED
    malicious: int = 0
    suspicious: int = 0
    harmless: int = 0
    undetected: int = 0
    checked_seconds: float = 0.0
    """Unix seconds of the last answer, 0 for none."""


UNJUDGED = VirusTotalResult()
"""Nobody was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableFacts:
    """What is known of an executable that has used the network (or, with every_exe, has run)."""

    number: int
    """Unique for the life of the process, as in `CounterColumn`."""
    executable: Executable
    workload: Workload
    name: str
    parent: Executable
    """The parent when it was first seen."""
    size_bytes: int
    first_seen_seconds: float
    last_seen_seconds: float
    virustotal: VirusTotalResult = UNJUDGED
    is_deleted: bool = False
    """Its file was gone while it ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that the outputs expose, at one instant. Immutable: any thread may read it."""

    time_seconds: float
    transmit_bytes: CounterColumn
    receive_bytes: CounterColumn
    connections: CounterColumn
    connect_failures: CounterColumn
    executables: tuple[ExecutableFacts, ...]


@dataclass(slots=True, kw_only=True)
class AttributedFlow:
    """What moved on one connection since the last report, with everybody's name on it.

    Not frozen, as it is made for each drained record (see `wire.FlowRecord`).
    """

    time_seconds: float
    cookie: int
    owner: ProcessKey
    program: Program
    parent: Program
    grandparent: Program
    uid: int
    protocol: str
    direction: Direction
    local_address: str
    """Empty where there is none."""
    remote_address: str
    local_port: int
    remote_port: int
    netns: int
    container: str
    transmit_bytes: int
    receive_bytes: int
    transmit_calls: int
    receive_calls: int
    connections: int
    connect_failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A content that has been hashed, with the stamps that tell whether the file still has it."""

    identity: FileIdentity
    size_bytes: int
    modified_ns: int
    changed_ns: int
    sha256: Sha256
    path: str = ""
    is_racy: bool = False
    """Changed so shortly before that equal stamps don't prove an equal content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownExecutable:
    """What is remembered of an executable for good."""

    executable: Executable
    workload: Workload
    name: str
    parent: Executable
    size_bytes: int
    first_seen_seconds: float
    last_seen_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVerdict:
    """What VirusTotal last said of a content, and a path under which it ran."""

    sha256: Sha256
    exe: str
    result: VirusTotalResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterTotal:
    """The total of one series, as it is carried over a restart."""

    metric: str
    """transmit_bytes, receive_bytes, connections or connect_failures, as in `Snapshot`."""
    labels: SeriesLabels
    value: int
    created_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What becomes durable in one transaction, or not at all."""

    rows: tuple[LogRow, ...]
    totals: Collection[CounterTotal]
    """Those that have changed since the previous commit."""
    executables: tuple[KnownExecutable, ...]
    files: tuple[KnownFile, ...]
    journal_segment: int
    """Segments of the journal up to this one are contained in the rows and totals."""
    ring_instance: int
    ring_position: int
    verdicts: tuple[KnownVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """What a start finds from the run before."""

    totals: tuple[CounterTotal, ...] = ()
    """Empty after a reboot: counters start at zero then."""
    executables: tuple[KnownExecutable, ...] = ()
    files: tuple[KnownFile, ...] = ()
    journal_segment: int = 0
    ring_instance: int = 0
    ring_position: int = 0
    verdicts: tuple[KnownVerdict, ...] = ()
