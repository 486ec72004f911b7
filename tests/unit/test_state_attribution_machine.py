from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picosnitch_exporter.model import (
    FileIdentity,
    ProcessKey,
    Program,
)
from picosnitch_exporter.stream import CommandLine
from picosnitch_exporter.wire import (
    FlowFlag,
    FlowRecord,
)
from tests.attribution_bench import EXEC, MISSING, Bench
from tests.identity_samples import (
    SECOND_NS,
    digest,
    file,
    flow,
    key,
    process,
    seen,
)

OWNERS = tuple(key(tgid) for tgid in range(1, 6))
PARENTS = dict(pairwise(reversed(OWNERS)))


class Forgetful(Bench):
    """Looks at each record as if it were the first one of its owner."""

    def take(self, *records: FlowRecord) -> int:
        self.attributor._known.forget()
        return super().take(*records)


class AttributorMachine(RuleBasedStateMachine):
    """Everything is in the totals once and in the rows once, whatever comes in which order.

    It is there under the same names as if nothing were remembered from one record to the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin(1000)
        self.flows = Counter[str]()
        self.executed: set[ProcessKey] = set()

    def file_of(self, owner: ProcessKey) -> FileIdentity:
        return file(owner.tgid % 3 + 1)

    @initialize(max_held=st.sampled_from([1, 3, 1000]))
    def begin(self, max_held: int) -> None:
        self.bench = Bench(max_held=max_held)
        self.forgetful = Forgetful(max_held=max_held)
        self.benches = (self.bench, self.forgetful)

    @rule(
        owner=st.sampled_from(OWNERS),
        cookie=st.integers(1, 3),
        transmit=st.integers(0, 100),
        receive=st.integers(0, 100),
        connections=st.integers(0, 2),
        is_final=st.booleans(),
    )
    def move(  # noqa: PLR0913
        self,
        *,
        owner: ProcessKey,
        cookie: int,
        transmit: int,
        receive: int,
        connections: int,
        is_final: bool,
    ) -> None:
        for bench in self.benches:
            bench.take(
                flow(
                    owner,
                    executable=self.file_of(owner),
                    cookie=cookie,
                    transmit_bytes=transmit,
                    receive_bytes=receive,
                    connections=connections,
                    connect_failures=connections,
                    flags=FlowFlag.FINAL if is_final else 0,
                )
            )
        self.flows["transmit_bytes"] += transmit
        self.flows["receive_bytes"] += receive
        self.flows["connections"] += connections
        self.flows["connect_failures"] += connections

    @rule(
        owner=st.sampled_from(OWNERS),
        flags=st.sampled_from([0, EXEC, MISSING]),
        generation=st.integers(0, 1),
    )
    def introduce(self, owner: ProcessKey, flags: int, generation: int) -> None:
        for bench in self.benches:
            bench.attributor.process(
                process(
                    owner,
                    parent=PARENTS.get(owner, key(0)),
                    executable=self.file_of(owner),
                    flags=flags,
                    generation=generation,
                    cmdline=b"" if flags & MISSING else b"a\0b\0",
                )
            )
        if flags & EXEC and not generation:
            self.executed.add(owner)

    @rule(owner=st.sampled_from(OWNERS))
    def read_command_line(self, owner: ProcessKey) -> None:
        for bench in self.benches:
            bench.attributor.command_line(CommandLine(key=owner, cmdline=b"x\0"))

    @rule(
        inode=st.integers(1, 3),
        seen_seconds=st.sampled_from([0, 5, 20]),
        reason=st.sampled_from(["", "", "", "gone"]),
    )
    def show(self, inode: int, seen_seconds: int, reason: str) -> None:
        for bench in self.benches:
            bench.show(
                seen(
                    file(inode),
                    seen_ns=seen_seconds * SECOND_NS,
                    path=b"/bin/%d" % inode,
                    reason=reason,
                )
            )

    @rule(reason=st.sampled_from(["", "", "modified"]))
    def hash_one(self, reason: str) -> None:
        for bench in self.benches:
            for ticket in list(bench.hasher.jobs)[:1]:
                inode = bench.registry._tickets[ticket].identity.inode
                bench.hasher.finish(ticket, "" if reason else digest(str(inode)), reason)
                bench.attributor.settled()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 120.0]))
    def wait(self, seconds: float) -> None:
        for bench in self.benches:
            bench.wait(seconds)

    @rule()
    def commit(self) -> None:
        for bench in self.benches:
            bench.attributor.finish_counted()
        uncounted = list(self.bench.attributor.uncounted())
        waiting = sum(record.transmit_bytes for record in uncounted)
        logged = sum(row.transmit_bytes for row in self.bench.rows.flows)
        assert self.totals()["transmit_bytes"] == logged
        assert self.flows["transmit_bytes"] == logged + waiting

    @rule(remembers=st.booleans())
    def close_window(self, *, remembers: bool) -> None:
        for bench in self.benches:
            bench.close_window(remembers=remembers)

    def totals(self) -> dict[str, int]:
        snapshot = self.bench.store.snapshot(0.0)
        return {
            metric: sum(getattr(snapshot, metric).values)
            for metric in ("transmit_bytes", "receive_bytes", "connections", "connect_failures")
        }

    @invariant()
    def totals_and_waiting_are_what_came_in(self) -> None:
        uncounted = list(self.bench.attributor.uncounted())
        for metric, total in self.totals().items():
            waiting = sum(getattr(record, metric) for record in uncounted)
            assert self.flows[metric] == total + waiting

    @invariant()
    def hash_is_that_of_the_file(self) -> None:
        for executable in self.bench.transmitted():
            if executable.sha256:
                inode = int(executable.exe.removeprefix("/bin/"))
                assert digest(str(inode)) == executable.sha256

    @invariant()
    def names_are_those_of_a_closer_look(self) -> None:
        assert self.bench.transmitted() == self.forgetful.transmitted()
        assert logged(self.bench) == logged(self.forgetful)

    @invariant()
    def bound_holds(self) -> None:
        assert self.bench.attributor.held <= self.bench.attributor._max_held

    def teardown(self) -> None:
        for _ in range(4):
            self.wait(121)
        self.names_are_those_of_a_closer_look()
        assert self.bench.attributor.held == 0
        for metric, total in self.totals().items():
            assert self.flows[metric] == total
            assert self.flows[metric] == sum(getattr(row, metric) for row in self.bench.rows.flows)
        assert len(self.executed) == len(self.bench.rows.executions)
        for bench in self.benches:
            bench.hasher.close()


def logged(bench: Bench) -> Counter[tuple[Program, ...]]:
    """What the rows have sent, by who is behind them."""
    sums = Counter[tuple[Program, ...]]()
    for row in bench.rows.flows:
        sums[row.program, row.parent, row.grandparent] += row.transmit_bytes
    return sums


TestAttributorMachine = AttributorMachine.TestCase
TestAttributorMachine.settings = settings(stateful_step_count=40, deadline=None)
