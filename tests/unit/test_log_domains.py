import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter import catalog, log
from picosnitch_exporter.log.domains import (
    BUDGET_SECONDS,
    MAX_CONNECTIONS,
    MAX_SECONDS,
    MAX_SOCKETS,
    MAX_UNOWNED,
    MAX_UNOWNED_OF_SOCKET,
    OTHERS_SECONDS,
    OWN_SECONDS,
    DomainTable,
)
from picosnitch_exporter.log.names import MAX_CHARACTERS, MAX_NAMES, NameTable
from picosnitch_exporter.log.rows import Windows
from picosnitch_exporter.model import AttributedFlow, ProcessKey
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.wire import LookupRecord
from tests.dns_samples import (
    NETNS,
    TCP,
    answer,
    dns_record,
    framed,
    resolver_flow,
    simple_answer,
)
from tests.log_samples import flow

ME = ProcessKey(tgid=1, start_ns=1, exec_id=1)
OTHER = ProcessKey(tgid=2, start_ns=2, exec_id=1)


class Timer:
    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def domains(health: Health) -> DomainTable:
    return DomainTable(health=health, to_unix=lambda ns: ns / 1e9)


def connection(
    *,
    owner: ProcessKey = ME,
    address: str = "192.0.2.1",
    seconds: float = 1.0,
    cookie: int = 1,
    netns: int = NETNS,
) -> AttributedFlow:
    return replace(
        flow(cookie=cookie),
        owner=owner,
        remote_address=address,
        time_seconds=seconds,
        netns=netns,
    )


def lost(health: Health, stage: str, reason: str) -> float:
    for family in health.collect():
        if family.metric is catalog.EVENTS_LOST:
            for reading in family.readings:
                if reading.labels == (stage, reason):
                    return reading.value
    return 0


def test_peer_has_its_name_when_it_was_asked_for(domains: DomainTable) -> None:
    domains.learn(dns_record(simple_answer()))
    assert domains.domain_of(connection()) == "com.example.www"
    assert domains.domain_of(connection(address="192.0.2.2")) == ""


def test_name_is_unknown_when_asked_for_in_another_namespace(domains: DomainTable) -> None:
    domains.learn(dns_record(simple_answer(), netns=1))
    assert domains.domain_of(connection()) == ""


def test_name_comes_by_tcp_when_in_segments(domains: DomainTable, health: Health) -> None:
    data = framed(simple_answer())
    for start in range(0, len(data), 7):
        domains.learn(dns_record(data[start : start + 7], protocol=TCP))
    assert domains.domain_of(connection()) == "com.example.www"
    assert lost(health, "dns_record", "malformed") == 0


def test_next_segment_counts_when_one_made_no_sense(domains: DomainTable, health: Health) -> None:
    domains.learn(dns_record(b"\0\x14" + bytes(2) + b"\x80\0\0\x01\0\x01" + bytes(9), protocol=TCP))
    assert lost(health, "dns_record", "malformed") == 0
    domains.learn(dns_record(bytes(3), protocol=TCP))
    assert lost(health, "dns_record", "malformed") == 1
    domains.learn(dns_record(framed(simple_answer()), protocol=TCP))
    assert domains.domain_of(connection()) == "com.example.www"


@pytest.mark.parametrize("is_owner_known_first", [True, False])
def test_own_answer_is_used_when_another_process_asked_later(
    domains: DomainTable,
    is_owner_known_first: bool,  # noqa: FBT001
) -> None:
    flows = [resolver_flow(owner=ME, cookie=100), resolver_flow(owner=OTHER, cookie=200)]
    if is_owner_known_first:
        for one in flows:
            domains.introduce(one)
    domains.learn(dns_record(simple_answer("mine.example"), cookie=100))
    domains.learn(dns_record(simple_answer("theirs.example"), cookie=200))
    if not is_owner_known_first:
        for one in flows:
            domains.introduce(one)
    assert domains.domain_of(connection(owner=ME, cookie=1)) == "example.mine"
    assert domains.domain_of(connection(owner=OTHER, cookie=2)) == "example.theirs"
    third = ProcessKey(tgid=3, start_ns=3, exec_id=1)
    assert domains.domain_of(connection(owner=third, cookie=3)) == "example.theirs"


def test_row_has_the_own_name_when_its_owner_is_known_last(domains: DomainTable) -> None:
    """An unconnected resolver socket is drained after the connection that it was asked for."""
    windows = Windows(domains=domains)
    domains.learn(dns_record(simple_answer("mine.example"), cookie=100))
    domains.learn(dns_record(simple_answer("theirs.example"), cookie=200))
    windows.add(connection())
    domains.introduce(resolver_flow(owner=ME, cookie=100))
    assert [row.domain for row in windows.close(0.0)] == ["example.mine"]


def test_namespace_is_that_of_the_flow_when_the_answer_came_too_early(
    domains: DomainTable,
) -> None:
    domains.learn(dns_record(simple_answer(), netns=0))
    assert domains.domain_of(connection(owner=OTHER)) == ""
    domains.introduce(resolver_flow(owner=ME))
    assert domains.domain_of(connection(owner=OTHER)) == "com.example.www"
    domains.learn(dns_record(simple_answer("b.example", "192.0.2.2"), netns=0))
    assert domains.domain_of(connection(owner=OTHER, address="192.0.2.2")) == "example.b"


def test_flow_says_nothing_when_it_is_not_with_a_resolver(domains: DomainTable) -> None:
    domains.learn(dns_record(simple_answer(), netns=0))
    domains.introduce(resolver_flow(owner=ME, port=5353))
    assert domains.domain_of(connection()) == ""


def test_connection_keeps_its_name_when_that_has_expired(domains: DomainTable) -> None:
    domains.learn(dns_record(simple_answer()))
    assert domains.domain_of(connection()) == "com.example.www"
    later = 10 * MAX_SECONDS
    assert domains.domain_of(connection(seconds=later)) == "com.example.www"
    assert domains.domain_of(connection(seconds=later, cookie=2)) == ""


@pytest.mark.parametrize(
    ("ttl", "is_own", "kept_seconds"),
    [
        (0, False, OTHERS_SECONDS),
        (0, True, OWN_SECONDS),
        (7200, False, 7200),
        (7200, True, 7200),
        (1 << 30, True, MAX_SECONDS),
    ],
)
def test_name_is_kept_for_its_ttl_when_that_is_sensible(
    domains: DomainTable,
    ttl: int,
    is_own: bool,  # noqa: FBT001
    kept_seconds: float,
) -> None:
    domains.introduce(resolver_flow(owner=ME))
    domains.learn(dns_record(answer("a.example", ("a.example", ttl, "A", "192.0.2.1"))))
    owner = ME if is_own else OTHER
    last, after = kept_seconds, kept_seconds + 0.1
    assert domains.domain_of(connection(owner=owner, seconds=last, cookie=1)) == "example.a"
    assert domains.domain_of(connection(owner=owner, seconds=after, cookie=2)) == ""


def test_latest_name_is_used_when_an_address_has_several(domains: DomainTable) -> None:
    for name in ("a.example", "b.example"):
        domains.learn(dns_record(simple_answer(name)))
    assert domains.domain_of(connection()) == "example.b"
    domains.learn(dns_record(simple_answer("c.example")))
    assert domains.domain_of(connection()) == "example.b", "it is the same connection"
    assert domains.domain_of(connection(cookie=2)) == "example.c"


def test_malformed_answer_is_counted_when_it_is_left_out(
    domains: DomainTable, health: Health
) -> None:
    domains.learn(dns_record(simple_answer()[:-1]))
    assert lost(health, "dns_record", "malformed") == 1
    domains.learn(dns_record(simple_answer()[:-1], is_cut=True))
    assert lost(health, "dns_record", "malformed") == 1


def test_answer_is_left_out_when_there_is_no_descriptor_to_import_its_parser(
    domains: DomainTable, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(log, "dns_names", raising=False)
        patched.setitem(sys.modules, "picosnitch_exporter.log.dns_names", None)
        domains.learn(dns_record(simple_answer()))

    assert lost(health, "dns_record", "no_parser") == 1
    domains.learn(dns_record(simple_answer()))
    assert lost(health, "dns_record", "no_parser") == 1


def test_answers_are_left_out_when_parsing_takes_too_long(health: Health) -> None:
    timer = Timer()
    domains = DomainTable(health=health, to_unix=lambda ns: ns / 1e9, timer=timer)
    timer.step = 0.55 * BUDGET_SECONDS
    for _ in range(3):
        domains.learn(dns_record(simple_answer()))
    assert lost(health, "dns_record", "too_many") == 1
    timer.now += 1.0
    domains.learn(dns_record(simple_answer("b.example")))
    assert lost(health, "dns_record", "too_many") == 1
    assert domains.domain_of(connection()) == "example.b"


def test_memory_is_bounded_when_100_000_hostile_names_come(health: Health) -> None:
    timer = Timer()
    domains = DomainTable(health=health, to_unix=lambda ns: ns / 1e9, timer=timer)
    domains.introduce(resolver_flow(owner=ME))
    template = bytearray(simple_answer("n000000." + "a" * 60 + ".example"))
    for number in range(100_000):
        template[13:20] = b"n%06d" % number
        template[-4:] = (0x0A000000 + number).to_bytes(4, "big")
        domains.learn(dns_record(bytes(template), cookie=100 + number % 3))
    assert len(domains._names) <= MAX_NAMES
    assert lost(health, "domain", "table_full") > 0
    last = "10.1.134.159"
    assert domains.domain_of(connection(address=last)) == f"example.{'a' * 60}.n099999"


def test_sockets_and_connections_are_bounded_when_there_are_many(domains: DomainTable) -> None:
    domains.learn(dns_record(simple_answer()))
    for cookie in range(MAX_CONNECTIONS + 10):
        domains.domain_of(connection(cookie=cookie))
    for cookie in range(MAX_SOCKETS + 10):
        domains.introduce(resolver_flow(owner=ME, cookie=cookie))
    assert len(domains._connections) == MAX_CONNECTIONS
    assert len(domains._sockets) == MAX_SOCKETS


def test_answers_are_bounded_when_nobody_owns_their_sockets(domains: DomainTable) -> None:
    for number in range(2 * MAX_UNOWNED):
        domains.learn(dns_record(simple_answer(), cookie=number))
        domains.learn(dns_record(simple_answer(), cookie=7_777_777))
    waiting = list(domains._unowned.values())
    assert sum(len(answers) for answers in waiting) == domains._unowned_answers <= MAX_UNOWNED
    assert max(len(answers) for answers in waiting) == MAX_UNOWNED_OF_SOCKET


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.text("ab.", min_size=1, max_size=9), st.booleans()),
        max_size=60,
    )
)
def test_table_stays_within_its_bounds_when_used_anyhow(
    steps: list[tuple[int, str, bool]],
) -> None:
    names = NameTable(max_names=5, max_characters=20)
    known: dict[str, str] = {}
    for number, domain, is_expired in steps:
        address = str(number)
        names.put(ME, address, domain, expires_seconds=1.0)
        known[address] = domain
        assert names.get(ME, address, now_seconds=0.0) == domain
        assert len(names) <= 5
        assert names._characters == sum(len(name) for name, _ in names._names.values()) <= 20
        for other, latest in known.items():
            assert names.get(ME, other, now_seconds=0.0) in ("", latest)
        if is_expired:
            assert names.get(ME, address, now_seconds=2.0) == ""


def test_longest_unused_names_go_first_when_they_are_long() -> None:
    names = NameTable()
    long = "x" * 1000
    for number in range(MAX_CHARACTERS // 1000 + 100):
        names.put(NETNS, str(number), long, expires_seconds=1.0)
        assert names.get(NETNS, "0", now_seconds=0.0) == long
    assert names.get(NETNS, "1", now_seconds=0.0) == ""
    assert len(names) == MAX_CHARACTERS // 1000


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=200), st.booleans())))
def test_any_records_are_harmless_when_learned(records: list[tuple[int, bytes, bool]]) -> None:
    domains = DomainTable(health=Health(), to_unix=lambda ns: ns / 1e9)
    for cookie, payload, is_tcp in records:
        domains.learn(dns_record(payload, cookie=cookie, protocol=TCP if is_tcp else 17))
        domains.introduce(resolver_flow(owner=ME, cookie=cookie))


NEAR, FAR = bytes(10) + b"\xff\xff\x7f\0\0\x09", bytes(10) + b"\xff\xff\xc0\0\2\1"


@pytest.mark.parametrize(
    ("owner", "address", "domain"),
    [
        (ME, "192.0.2.1", "test.db"),
        (OTHER, "192.0.2.1", "test.db"),
        (ME, "127.0.0.9", "test.db"),
        (OTHER, "127.0.0.9", ""),
    ],
)
def test_name_is_known_when_the_c_library_has_told_it(
    domains: DomainTable, owner: ProcessKey, address: str, domain: str
) -> None:
    domains.learn_lookup(
        LookupRecord(
            time_ns=0,
            owner=ME,
            netns=NETNS,
            name=b"db.test",
            addresses=(FAR, FAR, NEAR, bytes(16)),
        )
    )

    assert domains.domain_of(connection(owner=owner, address=address)) == domain
