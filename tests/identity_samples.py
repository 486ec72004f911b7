"""Records, frames and fakes from which the tests of identity and state build their input."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.identity.hashing import HashOutcome
from picosnitch_exporter.model import UNHASHED, Direction, FileIdentity, ProcessKey, Sha256
from picosnitch_exporter.stream import ExecutableSeen
from picosnitch_exporter.wire import FlowFlag, FlowRecord, ProcessFlag, ProcessRecord

SECOND_NS = 1_000_000_000
OLD_NS = 1_600_000_000 * SECOND_NS
"""A stamp that is not racy."""
NOW_NS = 1_700_000_000 * SECOND_NS
NOBODY = ProcessKey(tgid=0, start_ns=0, exec_id=0)
PEER = bytes(10) + b"\xff\xff" + bytes((8, 8, 8, 8))
LOCAL = bytes(10) + b"\xff\xff" + bytes((192, 168, 0, 2))


@dataclass
class FakeClock:
    now_ns: int = SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)


@dataclass
class FakeHasher:
    """Keeps what is submitted until the test says what becomes of it."""

    jobs: dict[int, int] = field(default_factory=dict)
    urgencies: dict[int, int] = field(default_factory=dict)
    outcomes: list[HashOutcome] = field(default_factory=list)
    is_crowded: bool = False

    def submit(
        self, descriptor: int, *, ticket: int, size_bytes: int, modified_ns: int, urgency: int
    ) -> None:
        del size_bytes, modified_ns
        self.jobs[ticket] = descriptor
        self.urgencies[ticket] = urgency

    def hurry(self, ticket: int, *, urgency: int) -> None:
        self.urgencies[ticket] = urgency

    def cancel(self, ticket: int) -> None:
        os.close(self.jobs.pop(ticket))

    def completed(self) -> list[HashOutcome]:
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def finish(self, ticket: int, sha256: str = "", reason: str = "") -> None:
        os.close(self.jobs.pop(ticket))
        self.outcomes.append(
            HashOutcome(
                ticket=ticket,
                sha256=Sha256(sha256),
                reason=reason,
                changed_ns=OLD_NS if sha256 else 0,
                seconds=0.001,
            ),
        )

    def close(self) -> None:
        for descriptor in self.jobs.values():
            os.close(descriptor)
        self.jobs.clear()


class FakeHealth:
    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.observed: list[str] = []

    def count(self, metric: Metric, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        key = (metric.name, *labels)
        self.counts[key] = self.counts.get(key, 0) + amount

    def observe(self, metric: Metric, labels: tuple[str, ...], seconds: float) -> None:
        del labels, seconds
        self.observed.append(metric.name)

    def total(self, metric: Metric) -> float:
        return sum(amount for key, amount in self.counts.items() if key[0] == metric.name)


def file(inode: int = 7) -> FileIdentity:
    return FileIdentity(device=1 << 20 if inode else 0, inode=inode, generation=3)


def key(tgid: int = 100, exec_id: int = 1) -> ProcessKey:
    return ProcessKey(tgid=tgid, start_ns=tgid * 1000, exec_id=exec_id)


def flow(  # noqa: PLR0913
    owner: ProcessKey | None = None,
    *,
    executable: FileIdentity | None = None,
    cookie: int = 1,
    transmit_bytes: int = 0,
    receive_bytes: int = 0,
    connections: int = 0,
    connect_failures: int = 0,
    flags: int = 0,
    remote_address: bytes = PEER,
    remote_port: int = 443,
    protocol: int = 6,
    time_ns: int = 50 * SECOND_NS,
) -> FlowRecord:
    return FlowRecord(
        flags=FlowFlag(flags),
        time_ns=time_ns,
        owner=owner or key(),
        executable=executable or file(),
        cookie=cookie,
        transmit_bytes=transmit_bytes,
        receive_bytes=receive_bytes,
        transmit_calls=int(transmit_bytes > 0),
        receive_calls=int(receive_bytes > 0),
        connections=connections,
        connect_failures=connect_failures,
        local_address=LOCAL,
        remote_address=remote_address,
        local_port=40_000,
        remote_port=remote_port,
        protocol=protocol,
        family=2,
        direction=Direction.OUTBOUND,
        netns=1,
        uid=1000,
    )


def process(  # noqa: PLR0913
    process_key: ProcessKey | None = None,
    *,
    parent: ProcessKey = NOBODY,
    executable: FileIdentity | None = None,
    exec_ns: int = 10 * SECOND_NS,
    flags: int = 0,
    generation: int = 0,
    comm: bytes = b"curl",
    cmdline: bytes = b"curl\0-v\0",
    uid: int = 1000,
) -> ProcessRecord:
    return ProcessRecord(
        flags=ProcessFlag(flags),
        time_ns=50 * SECOND_NS,
        key=process_key or key(),
        parent=parent,
        executable=executable or file(),
        exec_ns=exec_ns,
        changed_ns=0,
        cgroup_id=1,
        uid=uid,
        generation=generation,
        comm=comm,
        cmdline=cmdline,
    )


def seen(  # noqa: PLR0913
    executable: FileIdentity | None = None,
    *,
    seen_ns: int = 0,
    size_bytes: int = 4,
    modified_ns: int = OLD_NS,
    changed_ns: int = OLD_NS,
    path: bytes = b"/usr/bin/curl",
    reason: str = "",
    links: int = 1,
) -> ExecutableSeen:
    return ExecutableSeen(
        identity=executable or file(),
        tgid=100,
        seen_ns=seen_ns,
        size_bytes=0 if reason else size_bytes,
        modified_ns=0 if reason else modified_ns,
        changed_ns=0 if reason else changed_ns,
        links=links,
        path=path,
        reason=reason,
    )


def descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def digest(text: str) -> Sha256:
    return Sha256(text.encode().hex().ljust(64, "0")[:64]) if text else UNHASHED


def total(values: Iterable[int]) -> int:
    return sum(values)
