"""An attributor, with what surrounds it replaced by what can be looked at."""

from collections import Counter
from dataclasses import dataclass, field

from picosnitch_exporter.identity.processes import Process, ProcessTable
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.model import (
    AttributedFlow,
    Executable,
    FileIdentity,
    Program,
    Workload,
)
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import ExecutableSeen
from picosnitch_exporter.wire import (
    FlowRecord,
    ProcessFlag,
    decode,
    encode_flow,
)
from tests.identity_samples import (
    NOW_NS,
    SECOND_NS,
    FakeClock,
    FakeHasher,
    FakeHealth,
    descriptor,
    digest,
    file,
    key,
    process,
    seen,
)

INIT, SHELL, CURL = key(1), key(10), key(100)
EXEC = int(ProcessFlag.EXEC)
MISSING = int(ProcessFlag.CMDLINE_MISSING)


@dataclass
class Execution:
    program: Program
    parent: Program
    grandparent: Program
    uid: int
    container: str


@dataclass
class FakeRow:
    """What is added to it later is added to the flow that it began with."""

    flow: AttributedFlow
    events: int = 0
    is_open: bool = True
    is_remembered: bool = True

    @property
    def send_bytes(self) -> int:
        return self.flow.transmit_bytes

    @send_bytes.setter
    def send_bytes(self, value: int) -> None:
        assert self.is_open
        self.flow.transmit_bytes = value

    @property
    def receive_bytes(self) -> int:
        return self.flow.receive_bytes

    @receive_bytes.setter
    def receive_bytes(self, value: int) -> None:
        assert self.is_open
        self.flow.receive_bytes = value

    def open(self) -> None:
        assert not self.is_open
        self.is_open = True


@dataclass
class FakeRows:
    flows: list[AttributedFlow] = field(default_factory=list)
    rows: list[FakeRow] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)

    def add(self, flow: AttributedFlow, /) -> FakeRow:
        self.flows.append(flow)
        self.rows.append(FakeRow(flow))
        return self.rows[-1]

    def close(self, *, remembers: bool = True) -> None:
        for row in self.rows:
            row.is_remembered = remembers and row.is_open
            row.is_open = False

    def add_execution(
        self,
        program: Program,
        *,
        parent: Program,
        grandparent: Program,
        uid: int,
        container: str,
    ) -> None:
        self.executions.append(Execution(program, parent, grandparent, uid, container))


class Pods:
    """Every process is in a pod."""

    is_late = False

    def workload_of(self, _process: Process, /) -> tuple[Workload, str]:
        return Workload(namespace="shop", pod="cart", container="web"), "c0ffee"

    def is_pending(self, _process: Process, /) -> bool:
        return self.is_late


class Bench:
    def __init__(self, *, max_held: int = 1000, pods: Pods | None = None) -> None:
        self.clock = FakeClock()
        self.hasher = FakeHasher()
        self.health = FakeHealth()
        self.rows = FakeRows()
        self.registry = Registry(self.hasher, clock=self.clock, wall_clock=lambda: NOW_NS)
        self.store = Store(health=self.health, max_executables=100, stale_after_seconds=1e9)
        self.attributor = Attributor(
            registry=self.registry,
            processes=ProcessTable(is_running=lambda _tgid: True),
            store=self.store,
            rows=self.rows,
            health=self.health,
            clock=self.clock,
            to_unix=lambda boot_ns: boot_ns / SECOND_NS,
            workloads=pods,
            max_held=max_held,
        )

    def show(self, frame: ExecutableSeen) -> None:
        self.attributor.executable(frame, None if frame.reason else descriptor())

    def hash_all(self, reason: str = "") -> None:
        for ticket in list(self.hasher.jobs):
            inode = self.registry._tickets[ticket].identity.inode
            self.hasher.finish(ticket, "" if reason else digest(str(inode)), reason)
        self.attributor.settled()

    def show_hashed(self, executable: FileIdentity | None = None, path: bytes = b"/bin/x") -> None:
        self.show(seen(executable, path=path))
        self.hash_all()

    def introduce_all(self) -> None:
        """Init, a shell and a curl, files 1, 10 and 7."""
        self.attributor.process(process(CURL, parent=SHELL))
        self.attributor.process(
            process(SHELL, parent=INIT, executable=file(10), generation=1, comm=b"sh")
        )
        self.attributor.process(process(INIT, executable=file(1), generation=2, comm=b"init"))

    def take(self, *records: FlowRecord) -> int:
        """As the intake does; how many of them were looked at one by one."""
        looked_at = 0
        for piece in self.attributor.flows(memoryview(b"".join(map(encode_flow, records)))):
            record = decode(piece)
            assert isinstance(record, FlowRecord)
            self.attributor.flow(record)
            looked_at += 1
        return looked_at

    def close_window(self, *, remembers: bool = True) -> None:
        self.rows.close(remembers=remembers)
        self.attributor.window_closed()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.attributor.tick()

    def transmitted(self) -> dict[Executable, int]:
        sums: Counter[Executable] = Counter()
        column = self.store.snapshot(0.0).transmit_bytes
        for labels, value in zip(column.labels, column.values, strict=True):
            sums[labels.executable] += value
        return dict(sums)


def hashed(inode: int, path: str = "/bin/x") -> Executable:
    return Executable(sha256=digest(str(inode)), exe=path)
