import itertools
from array import array
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from picosnitch_exporter import catalog
from picosnitch_exporter.model import (
    HOST,
    OTHER,
    UNHASHED,
    CounterTotal,
    Direction,
    Executable,
    ExecutableFacts,
    KnownExecutable,
    KnownVerdict,
    Scope,
    SeriesLabels,
    Snapshot,
    Verdict,
    VirusTotalResult,
    Workload,
)
from picosnitch_exporter.state.cardinality import REFUSED_REMEMBERED, Cardinality
from picosnitch_exporter.state.columns import Columns, Entry
from picosnitch_exporter.state.facts import Facts
from picosnitch_exporter.state.store import MAX_SERIES, Store
from picosnitch_exporter.state.totals import Totals
from tests.identity_samples import FakeHealth, digest

DAY = 86_400.0
NOW = 1_700_000_000.0
SHELL = Executable(sha256=digest("shell"), exe="/bin/sh")


def executable(number: int) -> Executable:
    return Executable(sha256=digest(str(number)), exe=f"/bin/{number}")


def labels(
    number: int = 1,
    *,
    protocol: str = "tcp",
    scope: Scope = Scope.PUBLIC,
    direction: Direction = Direction.UNKNOWN,
    workload: Workload = HOST,
) -> SeriesLabels:
    return SeriesLabels(
        executable=executable(number),
        workload=workload,
        protocol=protocol,
        scope=scope,
        direction=direction,
    )


def store(max_executables: int = 100, health: FakeHealth | None = None) -> Store:
    return Store(
        health=health or FakeHealth(),
        max_executables=max_executables,
        stale_after_seconds=DAY,
    )


def move(target: Store, number: int, transmit: int, receive: int = 0, at: float = NOW) -> None:
    target.add_traffic(
        labels(number), transmit_bytes=transmit, receive_bytes=receive, time_seconds=at
    )


def see(
    target: Store, number: int, *, at: float = NOW, name: str = "n", is_deleted: bool = False
) -> None:
    target.see(
        executable(number),
        HOST,
        name=name,
        parent=SHELL,
        size_bytes=9,
        time_seconds=at,
        is_deleted=is_deleted,
    )


def values(column: str, snapshot: Snapshot) -> dict[SeriesLabels, int]:
    chosen = getattr(snapshot, column)
    return dict(zip(chosen.labels, chosen.values, strict=True))


def test_totals_are_sums_when_things_are_added() -> None:
    target = store()
    move(target, 1, 10, 5)
    move(target, 1, 1)
    inbound = labels(direction=Direction.INBOUND)
    target.add_connections(inbound, 2, time_seconds=NOW)
    target.add_failures(labels(), 3, time_seconds=NOW)
    snapshot = target.snapshot(NOW)
    assert values("transmit_bytes", snapshot) == {labels(): 11}
    assert values("receive_bytes", snapshot) == {labels(): 5}
    assert values("connections", snapshot) == {inbound: 2}
    assert values("connect_failures", snapshot) == {labels(): 3}
    assert snapshot.transmit_bytes.created_seconds == array("d", [NOW])
    assert (target.series, target.executables) == (4, 1)


def test_snapshot_stays_as_it_is_when_more_is_added() -> None:
    target = store()
    move(target, 1, 10)
    before = target.snapshot(NOW)
    move(target, 1, 10)
    move(target, 2, 10)
    assert values("transmit_bytes", before) == {labels(1): 10}
    assert values("transmit_bytes", target.snapshot(NOW)) == {labels(1): 20, labels(2): 10}


def test_snapshots_share_what_is_the_same_when_no_series_came_or_went() -> None:
    target = store()
    move(target, 1, 10)
    see(target, 1)
    first = target.snapshot(NOW)
    move(target, 1, 10)
    second = target.snapshot(NOW)
    assert first.transmit_bytes.labels is second.transmit_bytes.labels
    assert first.executables is second.executables


def test_value_wraps_around_when_beyond_64_bits() -> None:
    target = store()
    move(target, 1, 2**64 - 1)
    move(target, 1, 3)
    assert values("transmit_bytes", target.snapshot(NOW)) == {labels(): 2}


def test_facts_are_those_of_the_first_time_when_seen_again() -> None:
    target = store()
    see(target, 1, at=NOW)
    target.see(executable(1), HOST, name="m", parent=OTHER, size_bytes=1, time_seconds=NOW + 5)
    (fact,) = target.snapshot(NOW).executables
    assert fact == ExecutableFacts(
        number=fact.number,
        executable=executable(1),
        workload=HOST,
        name="n",
        parent=SHELL,
        size_bytes=9,
        first_seen_seconds=NOW,
        last_seen_seconds=NOW + 5,
    )


def test_first_seen_moves_back_when_records_come_out_of_order() -> None:
    target = store()
    see(target, 1, at=NOW)
    see(target, 1, at=NOW - 5)
    (fact,) = target.snapshot(NOW).executables
    assert (fact.first_seen_seconds, fact.last_seen_seconds) == (NOW - 5, NOW)


def test_labels_get_a_new_number_when_the_name_comes_late() -> None:
    target = store()
    see(target, 1, name="")
    (nameless,) = target.snapshot(NOW).executables
    see(target, 1, name="late")
    (named,) = target.snapshot(NOW).executables
    assert (nameless.name, named.name) == ("", "late")
    assert nameless.number != named.number


def test_numbers_are_never_reused_when_series_come_and_go() -> None:
    target = store()
    used: set[int] = set()
    for now in range(3):
        move(target, 1, 1)
        see(target, 1)
        snapshot = target.snapshot(NOW)
        numbers = [
            *snapshot.transmit_bytes.numbers,
            *snapshot.receive_bytes.numbers,
            *(fact.number for fact in snapshot.executables),
        ]
        assert len(numbers) == len(set(numbers)) == 3
        assert used.isdisjoint(numbers)
        used.update(numbers)
        target.drop_stale(now * 10 * DAY)
        target.drop_stale((now * 10 + 1) * DAY)
        assert target.snapshot(NOW).executables == ()


def test_series_are_dropped_when_the_executable_is_silent_for_long() -> None:
    target = store()
    move(target, 1, 1)
    see(target, 1)
    move(target, 2, 1)
    target.drop_stale(0.0)
    target.drop_stale(DAY - 1)
    assert target.executables == 2
    move(target, 2, 1)
    target.drop_stale(DAY)
    assert values("transmit_bytes", target.snapshot(NOW)) == {labels(2): 2}
    assert target.executables == 1


def test_series_starts_at_zero_when_it_comes_back() -> None:
    target = store()
    move(target, 1, 7, at=NOW)
    see(target, 1, at=NOW)
    target.drop_stale(0.0)
    target.drop_stale(DAY)
    move(target, 1, 2, at=NOW + DAY)
    see(target, 1, at=NOW + DAY)
    snapshot = target.snapshot(NOW)
    assert values("transmit_bytes", snapshot) == {labels(1): 2}
    assert snapshot.transmit_bytes.created_seconds == array("d", [NOW + DAY])
    assert snapshot.executables[0].first_seen_seconds == NOW


def test_traffic_is_counted_as_other_when_there_are_too_many_executables() -> None:
    health = FakeHealth()
    target = store(2, health)
    for number in range(5):
        move(target, number, 10)
        see(target, number)
    other = replace(labels(), executable=OTHER)
    snapshot = target.snapshot(NOW)
    assert values("transmit_bytes", snapshot) == {labels(0): 10, labels(1): 10, other: 30}
    assert [fact.executable for fact in snapshot.executables] == [executable(0), executable(1)]
    assert health.total(catalog.SERIES_REFUSED) == 3
    seen = {known.executable for known in target.changed_executables()}
    assert {executable(number) for number in range(5)} == seen


def test_sums_are_whole_when_one_executable_has_too_many_series() -> None:
    health = FakeHealth()
    target = store(5, health)

    def move_by_all() -> None:
        for scope, protocol in itertools.product(Scope, range(256)):
            target.add_traffic(
                labels(protocol=str(protocol), scope=scope),
                transmit_bytes=1,
                receive_bytes=0,
                time_seconds=NOW,
            )

    move_by_all()
    move_by_all()
    shown = Counter[Executable]()
    counted = Counter[Executable]()
    for one, value in values("transmit_bytes", target.snapshot(NOW)).items():
        shown[one.executable] += 1
        counted[one.executable] += value
    assert shown == {executable(1): MAX_SERIES, OTHER: 256 * len(Scope) - MAX_SERIES}
    assert counted.total() == 2 * 256 * len(Scope)
    assert health.total(catalog.SERIES_REFUSED) == 1
    move(target, 2, 7)
    assert values("transmit_bytes", target.snapshot(NOW))[labels(2)] == 7
    target.restart_counters()
    move_by_all()
    assert health.total(catalog.SERIES_REFUSED) == 2


def test_slot_is_free_when_its_executable_has_gone_stale() -> None:
    target = store(1)
    move(target, 1, 10)
    move(target, 2, 10)
    target.drop_stale(0.0)
    move(target, 2, 10)
    target.drop_stale(DAY)
    move(target, 2, 1)
    other = replace(labels(), executable=OTHER)
    assert values("transmit_bytes", target.snapshot(NOW)) == {labels(2): 1, other: 20}


def test_memory_is_bounded_when_hashes_are_hostile() -> None:
    health = FakeHealth()
    target = store(20, health)
    for number in range(100_000):
        move(target, number, 1)
        see(target, number)
    snapshot = target.snapshot(NOW)
    assert len(snapshot.transmit_bytes.labels) == 21
    assert sum(snapshot.transmit_bytes.values) == 100_000
    assert len(target._facts._first_seen) == 65_536
    assert len(target.changed_executables()) <= 65_536 + 20
    assert health.counts["picosnitch_exporter_events_lost_total", "state", "executables_full"] > 0
    assert health.total(catalog.SERIES_REFUSED) == 100_000 - 20


def test_executable_is_refused_once_when_it_keeps_talking() -> None:
    health = FakeHealth()
    slots = Cardinality(1, health=health)
    assert slots.admit((executable(0), HOST))
    for _ in range(3):
        assert not slots.admit((executable(1), HOST))
    assert health.total(catalog.SERIES_REFUSED) == 1
    for number in range(REFUSED_REMEMBERED):
        slots.admit((executable(2 + number), HOST))
    assert not slots.admit((executable(1), HOST))
    assert health.total(catalog.SERIES_REFUSED) == REFUSED_REMEMBERED + 2
    assert (slots.admitted, slots.limit) == (1, 1)
    slots.release()
    assert slots.admit((executable(1), HOST))


def test_totals_are_given_once_when_they_have_changed() -> None:
    target = store()
    move(target, 1, 10, 5)
    changed = target.changed_totals()
    assert len(changed) == 2
    expected = {
        CounterTotal(metric=metric, labels=labels(), value=value, created_seconds=NOW)
        for metric, value in (("transmit_bytes", 10), ("receive_bytes", 5))
    }
    assert set(changed) == expected
    assert set(changed) == expected, "a commit that could not be written is written again"
    assert all(each in changed for each in expected)
    assert not target.changed_totals()
    move(target, 1, 1)
    assert {total.value for total in target.changed_totals()} == {11, 5}


def test_totals_are_forgotten_when_their_series_was_dropped() -> None:
    target = store()
    target.add_failures(labels(), 3, time_seconds=NOW)
    target.changed_totals()
    target.drop_stale(0.0)
    target.drop_stale(DAY)
    gone = CounterTotal(metric="connect_failures", labels=labels(), value=0, created_seconds=0.0)
    assert list(target.changed_totals()) == [gone]
    target.add_failures(labels(), 1, time_seconds=NOW)
    target.drop_stale(2 * DAY)
    target.drop_stale(3 * DAY)
    target.add_failures(labels(), 2, time_seconds=NOW)
    assert [total.value for total in target.changed_totals()] == [2]


def test_executables_are_given_once_when_they_were_seen() -> None:
    target = store()
    see(target, 1, at=NOW)
    see(target, 1, at=NOW + 1)
    (known,) = target.changed_executables()
    assert (known.first_seen_seconds, known.last_seen_seconds) == (NOW, NOW + 1)
    assert target.changed_executables() == ()
    see(target, 1, at=NOW + 2)
    target.drop_stale(0.0)
    target.drop_stale(DAY)
    assert [known.last_seen_seconds for known in target.changed_executables()] == [NOW + 2]


def test_everything_is_the_same_when_restored() -> None:
    before = store()
    for number in range(5):
        move(before, number, number, 3, at=NOW + number)
        see(before, number, at=NOW + number)
    target = store()
    target.restore(before.changed_totals(), before.changed_executables(), now_seconds=NOW + 9)
    old, new = before.snapshot(NOW), target.snapshot(NOW)
    for column in ("transmit_bytes", "receive_bytes", "connections", "connect_failures"):
        assert values(column, old) == values(column, new)
    assert set(old.transmit_bytes.created_seconds) == set(new.transmit_bytes.created_seconds)
    assert {replace(fact, number=0) for fact in old.executables} == {
        replace(fact, number=0) for fact in new.executables
    }
    assert target.changed_executables() == ()


def test_restored_series_are_stale_when_they_were_silent_before() -> None:
    before = store()
    for number, at in ((1, NOW - DAY), (2, NOW - DAY / 2), (3, NOW)):
        move(before, number, 1, at=at)
        see(before, number, at=at)
    target = store()
    target.restore(before.changed_totals(), before.changed_executables(), now_seconds=NOW)
    assert set(values("transmit_bytes", target.snapshot(NOW))) == {labels(2), labels(3)}
    assert {(total.labels, total.created_seconds) for total in target.changed_totals()} >= {
        (labels(1), 0.0)
    }
    target.drop_stale(1000.0)
    target.drop_stale(1000.0 + DAY / 2)
    assert set(values("transmit_bytes", target.snapshot(NOW))) == {labels(3)}
    see(target, 1, at=NOW)
    assert [fact.first_seen_seconds for fact in target.snapshot(NOW).executables] == [
        NOW,
        NOW - DAY,
    ]


def test_sums_are_kept_when_the_bound_was_lowered() -> None:
    before = store()
    for number in range(5):
        move(before, number, 10)
        see(before, number, at=NOW + number)
    totals, executables = before.changed_totals(), before.changed_executables()
    first = store(2)
    first.restore(totals, executables, now_seconds=NOW)
    other = replace(labels(), executable=OTHER)
    expected = {labels(4): 10, labels(3): 10, other: 30}
    assert expected == values("transmit_bytes", first.snapshot(NOW))
    persisted = {
        (total.metric, total.labels): total for total in (*totals, *first.changed_totals())
    }
    again = store(2)
    again.restore(persisted.values(), executables, now_seconds=NOW)
    assert expected == values("transmit_bytes", again.snapshot(NOW))


def test_counter_is_named_when_it_is_unknown() -> None:
    total = CounterTotal(metric="x", labels=labels(), value=1, created_seconds=1.0)
    with pytest.raises(ValueError, match="no counter is called x"):
        store().restore([total], [], now_seconds=NOW)


def test_verdict_is_shown_when_the_content_has_series() -> None:
    target = store()
    clean = VirusTotalResult(verdict=Verdict.CLEAN)
    see(target, 1)
    see(target, 2)
    target.judge(executable(1).sha256, clean)
    target.judge(executable(9).sha256, clean)
    verdicts = [fact.virustotal.verdict for fact in target.snapshot(NOW).executables]
    assert verdicts == [Verdict.CLEAN, Verdict.DISABLED]
    target.drop_stale(0.0)
    target.drop_stale(DAY)
    see(target, 1)
    (fact,) = target.snapshot(NOW).executables
    assert fact.virustotal.verdict is Verdict.CLEAN


def test_executable_stays_deleted_when_it_once_was() -> None:
    target = store()
    see(target, 1, is_deleted=True)
    see(target, 2)
    target.snapshot(NOW)
    for number, is_deleted in ((1, False), (2, True), (3, False)):
        see(target, number, is_deleted=is_deleted)
    assert [fact.is_deleted for fact in target.snapshot(NOW).executables] == [True, True, False]


def test_verdict_is_pending_when_nobody_has_answered_yet() -> None:
    pending = VirusTotalResult(verdict=Verdict.PENDING)
    clean = VirusTotalResult(verdict=Verdict.CLEAN)
    target = Store(
        health=FakeHealth(), max_executables=5, stale_after_seconds=DAY, unjudged=pending
    )
    target.restore_verdicts([KnownVerdict(sha256=executable(2).sha256, exe="", result=clean)])
    see(target, 1)
    see(target, 2)
    unhashed, nobody = (
        Executable(sha256=UNHASHED, exe="/bin/x"),
        Executable(sha256=UNHASHED, exe=""),
    )
    target.see(unhashed, HOST, name="x", parent=nobody, size_bytes=0, time_seconds=NOW)
    verdicts = [fact.virustotal.verdict for fact in target.snapshot(NOW).executables]
    assert verdicts == [Verdict.PENDING, Verdict.CLEAN, Verdict.UNKNOWN]


def test_oldest_verdict_goes_when_there_are_too_many() -> None:
    facts = Facts(health=FakeHealth(), max_remembered=2)
    for number in range(3):
        facts.judge(executable(number).sha256, VirusTotalResult(verdict=Verdict.CLEAN))
    assert {executable(1).sha256, executable(2).sha256} == set(facts._verdicts)


def test_executable_without_facts_is_dropped_when_only_its_traffic_was_seen() -> None:
    target = store()
    move(target, 1, 1)
    target.drop_stale(0.0)
    target.drop_stale(DAY)
    assert target.changed_executables() == ()
    facts = Facts(health=FakeHealth())
    facts.drop((executable(1), HOST))
    assert facts.take_changed() == ()


def test_series_without_slot_keeps_its_workload_out_when_counted_as_other() -> None:
    target = store(1)
    pod = Workload(namespace="n", pod="p", container="c")
    target.add_failures(labels(1, workload=pod), 1, time_seconds=NOW)
    target.add_failures(labels(1), 1, time_seconds=NOW)
    target.add_failures(replace(labels(), executable=OTHER, workload=pod), 1, time_seconds=NOW)
    assert values("connect_failures", target.snapshot(NOW)) == {
        labels(1, workload=pod): 1,
        replace(labels(), executable=OTHER): 2,
    }


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 99))))
def test_columns_hold_what_was_added_when_series_come_and_go(
    steps: list[tuple[bool, int, int]],
) -> None:
    columns = Columns("a", "b")
    model: dict[SeriesLabels, tuple[int, int]] = {}
    for is_removal, number, amount in steps:
        series = columns.find(labels(number))
        if is_removal:
            if series is not None:
                columns.remove(series)
                del model[labels(number)]
            continue
        if series is None:
            entry = Entry(subject=(executable(number), HOST))
            series = columns.insert(labels(number), entry, first_number=1, created_seconds=NOW)
            assert entry.series == (series,)
            model[labels(number)] = (0, 0)
        columns.add(series, 0, amount)
        columns.add(series, 1, 2 * amount)
        first, second = model[labels(number)]
        model[labels(number)] = (first + amount, second + 2 * amount)
    a, b = columns.freeze()
    pairs = zip(a.values, b.values, strict=True)
    assert model == dict(zip(a.labels, pairs, strict=True))
    assert len(columns) == 2 * len(model)
    changed = Totals()
    columns.take_changed(changed)
    assert {total.labels for total in changed} == set(model)


class StoreMachine(RuleBasedStateMachine):
    """Totals equal the sum of what was added, less what was dropped as stale."""

    def __init__(self) -> None:
        super().__init__()
        self.health = FakeHealth()
        self.limit = 3
        self.store = store(self.limit, self.health)
        self.now = 0.0
        self.expected: Counter[str] = Counter()
        self.persisted: dict[tuple[str, SeriesLabels], CounterTotal] = {}
        self.known: dict[Executable, KnownExecutable] = {}
        self.first_seen: dict[int, float] = {}

    @initialize(limit=st.integers(0, 4))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.store = store(limit, self.health)

    @rule(
        number=st.integers(0, 6),
        protocol=st.sampled_from(["tcp", "udp"]),
        transmit=st.integers(0, 1000),
        receive=st.integers(0, 1000),
    )
    def add_traffic(self, number: int, protocol: str, transmit: int, receive: int) -> None:
        self.store.add_traffic(
            labels(number, protocol=protocol),
            transmit_bytes=transmit,
            receive_bytes=receive,
            time_seconds=NOW + self.now,
        )
        self.expected["transmit_bytes"] += transmit
        self.expected["receive_bytes"] += receive
        self.see(number)

    @rule(number=st.integers(0, 6), count=st.integers(1, 5))
    def add_connections(self, number: int, count: int) -> None:
        directed = labels(number, direction=Direction.OUTBOUND)
        self.store.add_connections(directed, count, time_seconds=NOW + self.now)
        self.store.add_failures(labels(number), count, time_seconds=NOW + self.now)
        self.expected["connections"] += count
        self.expected["connect_failures"] += count
        self.see(number)

    def see(self, number: int) -> None:
        see(self.store, number, at=NOW + self.now)
        self.first_seen.setdefault(number, NOW + self.now)

    @rule(seconds=st.sampled_from([1.0, DAY / 2, DAY]))
    def pass_time(self, seconds: float) -> None:
        before = self.sums()
        self.store.drop_stale(self.now)
        self.now += seconds
        self.store.drop_stale(self.now)
        after = self.sums()
        for metric in before:
            self.expected[metric] -= before[metric] - after[metric]

    @rule()
    def commit(self) -> None:
        for total in self.store.changed_totals():
            self.persisted[total.metric, total.labels] = total
        for known in self.store.changed_executables():
            self.known[known.executable] = known

    @rule()
    def restart(self) -> None:
        self.commit()
        before = self.sums()
        self.store = store(self.limit, self.health)
        self.store.restore(self.persisted.values(), self.known.values(), now_seconds=NOW + self.now)
        after = self.sums()
        if all(NOW + self.now - known.last_seen_seconds < DAY for known in self.known.values()):
            assert before == after
        for metric in before:
            assert after[metric] <= before[metric]
            self.expected[metric] -= before[metric] - after[metric]

    def sums(self) -> dict[str, int]:
        snapshot = self.store.snapshot(NOW)
        return {
            metric: sum(getattr(snapshot, metric).values)
            for metric in ("transmit_bytes", "receive_bytes", "connections", "connect_failures")
        }

    @invariant()
    def sums_add_up(self) -> None:
        for metric, amount in self.sums().items():
            assert self.expected[metric] == amount

    @invariant()
    def bounds_hold(self) -> None:
        snapshot = self.store.snapshot(NOW)
        executables = {entry.executable for entry in snapshot.transmit_bytes.labels} - {OTHER}
        assert len(executables) <= self.limit
        assert self.store.executables <= self.limit
        assert len(snapshot.executables) <= self.limit

    @invariant()
    def first_seen_is_kept(self) -> None:
        for fact in self.store.snapshot(NOW).executables:
            number = int(fact.executable.exe.removeprefix("/bin/"))
            assert self.first_seen[number] == fact.first_seen_seconds

    @invariant()
    def numbers_are_unique(self) -> None:
        snapshot = self.store.snapshot(NOW)
        numbers = [
            *snapshot.transmit_bytes.numbers,
            *snapshot.receive_bytes.numbers,
            *snapshot.connections.numbers,
            *snapshot.connect_failures.numbers,
            *(fact.number for fact in snapshot.executables),
        ]
        assert len(numbers) == len(set(numbers))


TestStoreMachine = StoreMachine.TestCase


def test_counters_begin_anew_when_what_was_added_is_of_another_boot() -> None:
    target = store()
    see(target, 1)
    move(target, 1, 10, 20)
    target.restart_counters()

    assert values("transmit_bytes", target.snapshot(NOW)) == {}
    assert {0} == {total.value for total in target.changed_totals()}
    move(target, 1, 3, at=NOW + 5)
    snapshot = target.snapshot(NOW + 5)
    assert list(values("transmit_bytes", snapshot).values()) == [3]
    assert list(snapshot.transmit_bytes.created_seconds) == [NOW + 5]
