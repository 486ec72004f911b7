import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.identity.hashing import Hasher
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.identity.versions import MAX_VERSIONS, Version, VersionState
from picosnitch_exporter.model import FileIdentity, KnownFile
from picosnitch_exporter.stream import ExecutableSeen
from tests.identity_samples import (
    NOW_NS,
    OLD_NS,
    SECOND_NS,
    FakeClock,
    FakeHasher,
    descriptor,
    digest,
    file,
    is_open,
    seen,
)


class Bench:
    """A registry with a hasher that does what the test says."""

    def __init__(self, max_identities: int = 100, max_path_bytes: int = 1 << 20) -> None:
        self.clock = FakeClock()
        self.wall_ns = NOW_NS
        self.hasher = FakeHasher()
        self.registry = Registry(
            self.hasher,
            clock=self.clock,
            wall_clock=lambda: self.wall_ns,
            max_identities=max_identities,
            max_path_bytes=max_path_bytes,
        )

    def show(self, frame: ExecutableSeen) -> Version:
        return self.registry.seen(frame, None if frame.reason else descriptor())

    def hash(self, version: Version, text: str) -> None:
        self.hasher.finish(version.ticket, digest(text))
        self.registry.poll()

    def fail(self, version: Version, reason: str) -> None:
        self.hasher.finish(version.ticket, reason=reason)
        self.registry.poll()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.registry.tick()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.hasher.close()


def test_version_is_hashed_when_the_file_was_shown_before(bench: Bench) -> None:
    shown = bench.show(seen())
    assert bench.registry.version_of(file(), exec_ns=5) is shown
    assert shown.state is VersionState.PENDING
    bench.hash(shown, "a")
    assert (digest("a"), "/usr/bin/curl", 4) == (shown.sha256, shown.path, shown.size_bytes)
    assert bench.registry.take_settled() == [shown]
    assert bench.registry.take_settled() == []


def test_version_is_the_awaited_one_when_the_file_is_shown_later(bench: Bench) -> None:
    awaited = bench.registry.version_of(file(), exec_ns=5)
    assert awaited.state is VersionState.PENDING
    bench.wait(1.9)
    assert bench.show(seen()) is awaited
    bench.wait(10)
    bench.hash(awaited, "a")
    assert digest("a") == awaited.sha256


def test_version_is_gone_when_the_file_is_never_shown(bench: Bench) -> None:
    awaited = bench.registry.version_of(file(), exec_ns=5)
    bench.wait(1.9)
    assert not awaited.is_settled
    bench.wait(0.1)
    assert (awaited.state, awaited.reason) == (VersionState.IMPOSSIBLE, "gone")
    assert bench.registry.take_settled() == [awaited]


@pytest.mark.parametrize("seen_ns", [0, 3, 7])
def test_new_version_begins_when_the_file_is_shown_after_it_was_given_up(
    bench: Bench, seen_ns: int
) -> None:
    gone = bench.registry.version_of(file(), exec_ns=5)
    bench.wait(2)
    belated = bench.show(seen(seen_ns=seen_ns))
    assert belated is not gone
    assert bench.registry.version_of(file(), exec_ns=5) is belated
    assert gone.reason == "gone"


def test_reason_is_the_sensors_when_it_could_not_open_the_file(bench: Bench) -> None:
    awaited = bench.registry.version_of(file(), exec_ns=5)
    denied = bench.show(seen(reason="denied", path=b"/secret"))
    assert denied is awaited
    assert (denied.state, denied.reason, denied.path) == ("impossible", "denied", "/secret")
    assert bench.show(seen(reason="gone")) is denied
    retried = bench.show(seen())
    assert bench.registry.version_of(file(), exec_ns=5) is retried


def test_hash_stays_when_the_file_can_not_be_opened_again(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.hash(shown, "a")
    assert bench.show(seen(reason="gone")) is shown
    assert bench.registry.version_of(file(), exec_ns=5) is shown


def test_process_has_the_content_of_its_exec_when_the_file_was_written_in_place(
    bench: Bench,
) -> None:
    first = bench.show(seen())
    bench.hash(first, "a")
    second = bench.show(seen(seen_ns=20, modified_ns=OLD_NS + 1, changed_ns=OLD_NS + 1))
    bench.hash(second, "b")
    of = bench.registry.version_of
    assert [first, first, first, second, second] == [
        of(file(), exec_ns=exec_ns) for exec_ns in (0, 5, 19, 20, 99)
    ]
    assert (digest("a"), digest("b")) == (first.sha256, second.sha256)


@pytest.mark.parametrize(
    ("changed", "ran"),
    [
        pytest.param(0, 0, id="first content"),
        pytest.param(5, 0, id="renamed since"),
        pytest.param(19, 0, id="written right afterwards"),
        pytest.param(20, 1, id="second content"),
        pytest.param(25, 1, id="seen"),
        pytest.param(28, 1, id="its mode changed since"),
        pytest.param(30, 2, id="third content, its modification time set back"),
        pytest.param(99, 2, id="unlinked since"),
    ],
)
def test_change_time_tells_the_content_when_the_exec_time_can_not(
    bench: Bench, changed: int, ran: int
) -> None:
    shown = [
        bench.show(seen(seen_ns=0, modified_ns=OLD_NS, changed_ns=OLD_NS)),
        bench.show(seen(seen_ns=50, modified_ns=OLD_NS + 20, changed_ns=OLD_NS + 25)),
        bench.show(seen(seen_ns=50, modified_ns=OLD_NS - 9, changed_ns=OLD_NS + 30)),
    ]
    if changed == 28:
        shown[2].modified_ns = OLD_NS + 29
    version = bench.registry.version_of(file(), exec_ns=50, changed_ns=OLD_NS + changed)
    assert shown[ran] is version


def test_no_hash_is_borrowed_when_a_file_was_overwritten_before_it_was_shown(bench: Bench) -> None:
    shown = bench.show(seen(modified_ns=OLD_NS + 9, changed_ns=OLD_NS + 9))
    bench.hash(shown, "b")
    overwritten = bench.registry.version_of(file(), exec_ns=5, changed_ns=OLD_NS)
    assert (overwritten.sha256, overwritten.reason) == ("", "forgotten")
    assert shown is bench.registry.version_of(file(), exec_ns=5, changed_ns=OLD_NS + 9)


def test_file_is_hashed_once_when_it_is_shown_again(bench: Bench) -> None:
    shown = bench.show(seen())
    again = descriptor()
    assert bench.registry.seen(seen(seen_ns=9), again) is shown
    assert not is_open(again)
    bench.hash(shown, "a")
    assert bench.show(seen(seen_ns=10)) is shown
    assert bench.hasher.jobs == {}


def test_file_is_hashed_again_when_its_stamps_prove_nothing(bench: Bench) -> None:
    bench.wall_ns = OLD_NS + SECOND_NS
    first = bench.show(seen())
    bench.hash(first, "a")
    second = bench.show(seen(seen_ns=10))
    bench.hash(second, "b")
    assert (digest("a"), digest("b")) == (first.sha256, second.sha256)
    assert all(known.is_racy for known in bench.registry.take_new_files())


def test_path_is_the_one_it_was_run_by_when_a_file_has_two(bench: Bench) -> None:
    first = bench.show(seen(path=b"/bin/a"))
    bench.hash(first, "a")
    second = bench.show(seen(path=b"/bin/b", seen_ns=10))
    assert (digest("a"), "/bin/b") == (second.sha256, second.path)
    assert (digest("a"), "/bin/a") == (first.sha256, first.path)


def test_path_keeps_its_bytes_when_they_are_not_utf8(bench: Bench) -> None:
    assert os.fsencode(bench.show(seen(path=b"/bin/\xff")).path) == b"/bin/\xff"


def test_known_file_is_not_hashed_when_it_was_by_an_earlier_run(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.hash(shown, "a")
    files = bench.registry.take_new_files()
    assert files == (
        KnownFile(
            identity=file(),
            size_bytes=4,
            modified_ns=OLD_NS,
            changed_ns=OLD_NS,
            sha256=digest("a"),
            path="/usr/bin/curl",
        ),
    )
    assert bench.registry.take_new_files() == ()
    later = Bench()
    later.registry.restore(files)
    opened = descriptor()
    version = later.registry.seen(seen(), opened)
    assert (digest("a"), VersionState.HASHED) == (version.sha256, version.state)
    assert not is_open(opened)


@pytest.mark.parametrize(
    "frame",
    [
        seen(size_bytes=5),
        seen(modified_ns=OLD_NS + 1),
        seen(changed_ns=OLD_NS + 1),
        seen(FileIdentity(device=1 << 20, inode=7, generation=4)),
    ],
)
def test_known_file_is_hashed_when_anything_differs(bench: Bench, frame: ExecutableSeen) -> None:
    bench.registry.restore(
        [
            KnownFile(
                identity=file(),
                size_bytes=4,
                modified_ns=OLD_NS,
                changed_ns=OLD_NS,
                sha256=digest("a"),
            )
        ]
    )
    assert bench.show(frame).state is VersionState.PENDING


def known_before(*, is_racy: bool = False) -> KnownFile:
    return KnownFile(
        identity=file(),
        size_bytes=4,
        modified_ns=OLD_NS,
        changed_ns=OLD_NS + 5,
        sha256=digest("a"),
        path="/usr/bin/curl",
        is_racy=is_racy,
    )


@pytest.mark.parametrize("is_racy", [False, True])
@pytest.mark.parametrize("changed_ns", [OLD_NS, OLD_NS + 5])
def test_process_has_the_hash_of_the_run_before_when_it_ended_meanwhile(
    bench: Bench, changed_ns: int, *, is_racy: bool
) -> None:
    bench.registry.restore([known_before(is_racy=is_racy)])
    version = bench.registry.version_of(file(), exec_ns=5, changed_ns=changed_ns)
    assert (digest("a"), "/usr/bin/curl") == (version.sha256, version.path)


def test_process_has_the_old_hash_when_only_the_run_before_is_taken_in(bench: Bench) -> None:
    bench.registry.restore([known_before()])
    bench.registry.trusts_restored = True
    version = bench.registry.version_of(file(), exec_ns=5)
    assert digest("a") == version.sha256


@pytest.mark.parametrize("changed_ns", [0, OLD_NS + 6])
def test_process_has_no_old_hash_when_its_file_may_have_changed_unwatched(
    bench: Bench, changed_ns: int
) -> None:
    bench.registry.restore([known_before()])
    version = bench.registry.version_of(file(), exec_ns=5, changed_ns=changed_ns)
    assert not version.is_settled
    bench.wait(5)
    assert version.reason == "gone"


@pytest.mark.parametrize("changed_ns", [0, OLD_NS + 5])
def test_process_has_the_hash_of_the_run_before_when_the_file_is_shown_unchanged(
    bench: Bench, changed_ns: int
) -> None:
    bench.registry.restore([known_before()])
    bench.show(seen(changed_ns=OLD_NS + 5))
    version = bench.registry.version_of(file(), exec_ns=0, changed_ns=changed_ns)
    assert digest("a") == version.sha256


def test_process_ran_older_content_when_its_exec_was_before_the_known_one(bench: Bench) -> None:
    bench.registry.restore([known_before()])
    version = bench.registry.version_of(file(), exec_ns=5, changed_ns=OLD_NS - 1)
    assert version.reason == "forgotten"


def test_both_contents_are_told_apart_when_a_file_changed_between_two_runs(bench: Bench) -> None:
    bench.registry.restore([known_before()])
    shown = bench.show(seen(modified_ns=OLD_NS + 90, changed_ns=OLD_NS + 90))
    bench.hash(shown, "b")
    before = bench.registry.version_of(file(), exec_ns=5, changed_ns=OLD_NS + 5)
    after = bench.registry.version_of(file(), exec_ns=9, changed_ns=OLD_NS + 90)
    assert (digest("a"), digest("b")) == (before.sha256, after.sha256)


def test_replayed_file_has_its_hash_when_the_journal_has_it(bench: Bench) -> None:
    bench.wall_ns = OLD_NS + SECOND_NS
    shown = bench.show(seen())
    bench.hash(shown, "a")
    (hashed,) = bench.registry.take_hashed()
    assert bench.registry.take_hashed() == []
    later = Bench()
    replayed = later.registry.seen(seen(), None)
    later.registry.learn(hashed)
    assert (digest("a"), True) == (replayed.sha256, replayed.is_settled)
    assert later.registry.take_settled() == [replayed]
    assert (hashed,) == later.registry.take_new_files()


def test_replayed_file_is_hashed_when_it_is_shown_again(bench: Bench) -> None:
    replayed = bench.registry.seen(seen(), None)
    assert not replayed.is_settled
    assert bench.show(seen()) is replayed
    bench.wait(5)
    bench.hash(replayed, "a")
    assert digest("a") == replayed.sha256


def test_replayed_file_is_known_when_it_was_committed(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.hash(shown, "a")
    later = Bench()
    later.registry.restore(bench.registry.take_new_files())
    replayed = later.registry.seen(seen(), None)
    assert digest("a") == replayed.sha256
    assert later.registry.seen(seen(), None) is replayed


def test_replayed_file_is_given_up_when_it_is_not_shown_again(bench: Bench) -> None:
    replayed = bench.registry.seen(seen(), None)
    bench.wait(2)
    assert (replayed.state, replayed.reason) == (VersionState.IMPOSSIBLE, "restart")


@pytest.mark.parametrize("hashed_in", ["the run before", "this run"])
def test_replayed_file_has_the_hash_of_its_twin_when_it_was_written_shortly_before(
    bench: Bench, hashed_in: str
) -> None:
    """Its stamps prove nothing yet, so that each showing of it is a version of its own."""
    bench.wall_ns = OLD_NS + SECOND_NS
    if hashed_in == "the run before":
        bench.hash(bench.show(seen(seen_ns=1)), "a")
    replayed = bench.registry.seen(seen(seen_ns=2), None)
    if hashed_in == "this run":
        bench.hash(bench.show(seen(seen_ns=3)), "a")
    bench.wait(1)
    assert not replayed.is_settled
    bench.wait(1)
    assert digest("a") == replayed.sha256


def test_replayed_file_has_no_hash_when_only_another_content_has_one(bench: Bench) -> None:
    bench.wall_ns = OLD_NS + SECOND_NS
    bench.hash(bench.show(seen(seen_ns=1)), "a")
    replayed = bench.registry.seen(seen(seen_ns=2, size_bytes=5), None)
    bench.wait(2)
    assert (replayed.state, replayed.reason) == (VersionState.IMPOSSIBLE, "restart")


def test_reason_is_the_hashers_when_it_fails(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.fail(shown, "io_error")
    assert (shown.state, shown.reason) == (VersionState.IMPOSSIBLE, "io_error")
    assert bench.show(seen(seen_ns=5)).state is VersionState.PENDING


def test_hash_comes_late_when_reading_had_stalled(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.wait(120)
    assert (shown.state, shown.reason) == (VersionState.IMPOSSIBLE, "stalled")
    bench.hash(shown, "a")
    assert (digest("a"), "") == (shown.sha256, shown.reason)
    bench.wait(120)
    assert shown.state is VersionState.HASHED


@pytest.mark.parametrize(("is_crowded", "seconds"), [(False, 1_801), (True, 1)])
def test_reading_is_given_up_when_it_has_no_end_or_others_wait(
    bench: Bench, *, is_crowded: bool, seconds: int
) -> None:
    shown = bench.show(seen())
    bench.wait(120)
    assert len(bench.hasher.jobs) == 1
    bench.hasher.is_crowded = is_crowded
    bench.wait(seconds)
    assert (bench.hasher.jobs, shown.reason) == ({}, "stalled")
    again = bench.show(seen(seen_ns=20))
    bench.hash(again, "a")
    assert again.sha256 == digest("a")


def test_reason_stays_when_reading_fails_after_it_had_stalled(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.wait(120)
    bench.fail(shown, "io_error")
    assert shown.reason == "stalled"
    assert bench.registry.take_settled() == [shown]


def test_kernel_thread_has_no_file_when_asked(bench: Bench) -> None:
    version = bench.registry.version_of(file(0), exec_ns=0)
    assert (version.state, version.reason, version.path) == ("impossible", "kernel", "[kernel]")


def test_file_is_no_kernel_thread_when_its_server_numbers_it_with_0(bench: Bench) -> None:
    identity = FileIdentity(device=40, inode=0, generation=0)
    shown = bench.show(seen(identity))
    bench.hash(shown, "a")
    assert bench.registry.version_of(identity, exec_ns=5) is shown


def test_hashing_is_hurried_when_traffic_waits_for_it(bench: Bench) -> None:
    shown = bench.show(seen())
    assert bench.hasher.urgencies[shown.ticket] == 1
    bench.registry.version_of(file(), exec_ns=5)
    assert bench.hasher.urgencies[shown.ticket] == 0
    bench.registry.version_of(file(8), exec_ns=5)
    assert bench.hasher.urgencies[bench.show(seen(file(8))).ticket] == 0


def test_hash_is_withheld_when_the_version_was_forgotten(bench: Bench) -> None:
    for number in range(MAX_VERSIONS + 1):
        stamp_ns = OLD_NS + number
        frame = seen(seen_ns=number * 10, modified_ns=stamp_ns, changed_ns=stamp_ns)
        bench.hash(bench.show(frame), str(number))
    bench.registry.take_settled()
    forgotten = bench.registry.version_of(file(), exec_ns=5)
    assert (forgotten.sha256, forgotten.reason) == ("", "forgotten")
    assert bench.registry.version_of(file(), exec_ns=0) is forgotten
    assert bench.registry.take_settled() == [forgotten]
    assert digest("1") == bench.registry.version_of(file(), exec_ns=15).sha256


def test_what_ran_before_is_deleted_too_when_the_file_has_gone(bench: Bench) -> None:
    """That it was unlinked has moved its change time, so it is a version of its own."""
    before = bench.show(seen())
    bench.hash(before, "a")
    other = bench.show(seen(file(8)))
    after = bench.show(seen(seen_ns=50, changed_ns=OLD_NS + 5, links=0))
    assert after is not before
    assert (before.is_deleted, after.is_deleted, other.is_deleted) == (True, True, False)


def test_nothing_is_deleted_when_a_file_could_not_be_read(bench: Bench) -> None:
    assert not bench.show(seen(links=0, reason="denied")).is_deleted


def test_least_recently_used_file_is_forgotten_when_there_are_too_many() -> None:
    bench = Bench(max_identities=2)
    first = bench.show(seen(file(1)))
    second = bench.show(seen(file(2)))
    bench.registry.version_of(file(1), exec_ns=5)
    third = bench.show(seen(file(3)))
    for version in (first, second, third):
        bench.hash(version, str(version.identity.inode))
    assert digest("1") == bench.registry.version_of(file(1), exec_ns=5).sha256
    assert digest("2") == second.sha256
    assert len(bench.registry._known) == 2
    assert not bench.registry.version_of(file(2), exec_ns=5).is_settled


def test_outcome_is_ignored_when_nobody_knows_the_ticket(bench: Bench) -> None:
    shown = bench.show(seen())
    bench.hasher.finish(shown.ticket, digest("a"))
    bench.registry._tickets.clear()
    assert len(bench.registry.poll()) == 1
    assert not shown.is_settled


@given(
    contents=st.lists(st.integers(1, 1000), min_size=1, max_size=MAX_VERSIONS, unique=True),
    execs=st.lists(st.integers(0, 1100)),
    data=st.data(),
)
def test_process_never_has_a_later_content_when_contents_follow_one_another(
    contents: list[int], execs: list[int], data: st.DataObject
) -> None:
    bench = Bench()
    times = sorted(contents)
    shown = [
        bench.show(seen(seen_ns=0 if not at else time_ns, modified_ns=OLD_NS + time_ns))
        for at, time_ns in enumerate(times)
    ]
    for version in data.draw(st.permutations(shown)):
        bench.hash(version, str(version.modified_ns))
    for exec_ns in execs:
        ran = max((time_ns for time_ns in times if time_ns <= exec_ns), default=times[0])
        version = bench.registry.version_of(file(), exec_ns=exec_ns)
        assert digest(str(OLD_NS + ran)) == version.sha256


def test_registry_takes_the_real_hasher_when_composed() -> None:
    with Hasher(workers=1) as hasher:
        assert Registry(hasher).poll() == []


def test_new_files_are_bounded_when_no_commit_comes() -> None:
    bench = Bench(max_path_bytes=1_000)
    for inode in range(20):
        bench.hash(bench.show(seen(file(inode), path=b"/" + b"p" * 300)), "a")
    assert len(bench.registry.take_new_files()) == 3
    bench.hash(bench.show(seen(file(30))), "a")
    assert len(bench.registry.take_new_files()) == 1
