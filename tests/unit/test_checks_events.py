import json
import platform
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.events import EventKind, Message, Notice, Severity, compose
from picosnitch_exporter.checks.grouping import (
    FIRST_START_SECONDS,
    GAP_SECONDS,
    GROUP_SECONDS,
    MAX_WAITING,
    REPEAT_SECONDS,
    Grouping,
)
from picosnitch_exporter.checks.health_watch import HealthWatch
from picosnitch_exporter.checks.notifier import MAX_MESSAGE_BYTES, Notifier, encode
from picosnitch_exporter.checks.record import parse
from picosnitch_exporter.checks.syslog import journal_entry, syslog_line
from picosnitch_exporter.checks.webhook import document
from picosnitch_exporter.errors import UsageError
from picosnitch_exporter.model import (
    HOST,
    UNHASHED,
    Executable,
    KnownExecutable,
    Sha256,
    Verdict,
    Workload,
)
from picosnitch_exporter.state.health import Health

TEXT = st.text(st.characters(codec=None), max_size=20)
"""Surrogates included: paths are bytes."""


def notice(number: int = 1, kind: EventKind = EventKind.NEW_EXECUTABLE) -> Notice:
    executable = Executable(sha256=Sha256(f"{number:064x}"), exe=f"/bin/{number}")
    return Notice(kind=kind, time_seconds=1.0, executable=executable)


notices = st.builds(
    Notice,
    kind=st.sampled_from(EventKind),
    time_seconds=st.floats(),
    executable=st.none() | st.builds(Executable, sha256=st.just(Sha256("a" * 64)), exe=TEXT),
    name=TEXT,
    parent_exe=TEXT,
    verdict=st.none() | st.sampled_from(Verdict),
    malicious=st.integers(0, 99),
    suspicious=st.integers(0, 99),
    detail=TEXT,
    count=st.integers(1, 9),
)


@given(notice=notices)
def test_event_is_one_entry_everywhere_when_strangers_choose_names(notice: Notice) -> None:
    assert "\n" not in notice.subject
    assert "\n" not in syslog_line(notice).decode()
    assert json.loads(document([notice]))["events"][0]["event"] == notice.kind
    entry = journal_entry(notice)
    names = []
    while entry:
        name, _equals, rest = entry.partition(b"\n")
        if b"=" in name:
            names.append(name.partition(b"=")[0].decode())
            entry = rest
            continue
        length = int.from_bytes(rest[:8], "little")
        names.append(name.decode())
        assert rest[8 + length : 9 + length] == b"\n"
        entry = rest[9 + length :]
    assert len(names) == len(set(names))
    assert all(name.replace("_", "").isupper() for name in names)


@pytest.mark.parametrize(
    ("expected", "exe", "name"),
    [
        ("`/opt/&lt;!channel&gt;`", "/opt/<!channel>", "<!channel>"),
        ("`&lt;http://a.io|x&gt; (/x)`", "/x", "<http://a.io|x>"),
        ("`@all (/opt/'@here' &amp;amp;)`", "/opt/`@here` &amp;", "@all"),
        ("`![x](http://a.io/x.png) (/*x*)`", "/*x*", "![x](http://a.io/x.png)"),
    ],
)
def test_name_is_no_markup_when_a_chat_shows_it(expected: str, exe: str, name: str) -> None:
    event = replace(notice(), executable=Executable(sha256=UNHASHED, exe=exe), name=name)
    value = json.loads(document([event]))
    title, line = value["text"].split("\n")
    assert (title, expected) == (f"{platform.node()}: New on the network", line)
    # What machines read is as it is.
    assert (value["events"][0]["exe"], value["events"][0]["name"]) == (exe, name)


@given(events=st.lists(notices, min_size=1, max_size=9))
def test_text_is_code_but_for_titles_when_strangers_choose_names(events: list[Notice]) -> None:
    text = json.loads(document(events))["text"]
    assert "<" not in text
    assert ">" not in text
    for line in filter(None, text.split("\n")):
        is_title = line.startswith(f"{platform.node()}: ")
        assert line.count("`") == (0 if is_title else 2)
        assert is_title or (line[0], line[-1]) == ("`", "`")


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("9999-12-31T23:59:59", 1e15),
        ("9999-12-31T23:59:59", float("inf")),
        ("1970-01-01T00:00:00", -1e15),
        ("1970-01-01T00:00:00", float("nan")),
    ],
)
def test_time_is_the_nearest_when_it_can_not_be_written(expected: str, seconds: float) -> None:
    event = replace(notice(), time_seconds=seconds)
    assert json.loads(document([event]))["events"][0]["time"] == f"{expected}Z"
    assert f" {expected}.000+00:00 " in syslog_line(event).decode()


@given(body=TEXT, factor=st.integers(1, 2000))
def test_message_fits_when_it_is_sent_to_the_desktop(body: str, factor: int) -> None:
    message = Message(severity=Severity.ALERT, title="title", body=body * factor)
    data = encode(message)
    assert len(data) <= MAX_MESSAGE_BYTES
    assert message.body.startswith(json.loads(data)["body"])


def test_first_ones_are_named_when_there_are_many_events() -> None:
    message = compose([notice(number) for number in range(12)])
    assert message.title == "12 new executables on the network"
    assert message.body.splitlines() == [
        *(f"/bin/{number}" for number in range(5)),
        "and 7 more",
    ]


def test_verdict_is_an_alert_when_it_is_bad() -> None:
    bad = replace(
        notice(kind=EventKind.VERDICT), verdict=Verdict.SUSPICIOUS, suspicious=1, name="other"
    )
    assert bad.severity is Severity.ALERT
    assert bad.text == "VirusTotal warns: other (/bin/1): suspicious (1 engine)"
    assert bad.fields()["suspicious"] == 1


def test_events_are_grouped_when_they_come_together() -> None:
    grouping = Grouping(is_first_start=False, now=0.0)
    grouping.add(notice(1), now=0.0)
    grouping.add(notice(2), now=1.0)
    grouping.add(notice(2, EventKind.NEW_HASH), now=1.0)
    assert grouping.take(now=GROUP_SECONDS - 0.1) == []
    assert grouping.take(now=GROUP_SECONDS) == [(notice(1), notice(2))]
    assert grouping.take(now=GROUP_SECONDS + 1) == [(notice(2, EventKind.NEW_HASH),)]
    grouping.add(notice(3), now=GROUP_SECONDS + 1)
    assert grouping.take(now=GROUP_SECONDS + GAP_SECONDS - 1) == []
    assert grouping.take(now=GROUP_SECONDS + GAP_SECONDS) == [(notice(3),)]


def test_event_is_told_once_when_it_is_repeated() -> None:
    grouping = Grouping(is_first_start=False, now=0.0)
    for now in (0.0, 1.0, REPEAT_SECONDS - 1):
        grouping.add(notice(), now=now)
    assert grouping.suppressed == 2
    assert grouping.take(now=REPEAT_SECONDS) == [(notice(),)]
    grouping.add(notice(), now=REPEAT_SECONDS)
    assert grouping.take(now=2 * REPEAT_SECONDS) == [(notice(),)]


def test_number_is_bounded_when_events_flood() -> None:
    grouping = Grouping(is_first_start=False, now=0.0)
    for number in range(MAX_WAITING + 7):
        grouping.add(notice(number), now=0.0)
    assert grouping.suppressed == 7
    ((*_others, last),) = grouping.take(now=99.0)
    assert last == notice(MAX_WAITING - 1)


def test_bad_news_are_told_at_once_when_it_is_the_first_start() -> None:
    grouping = Grouping(is_first_start=True, now=0.0)
    grouping.add(notice(1), now=0.0)
    grouping.add(notice(1, EventKind.VERDICT), now=0.0)
    assert grouping.take(now=5.0) == [(notice(1, EventKind.VERDICT),)]
    ((summary,),) = grouping.take(now=FIRST_START_SECONDS)
    assert (summary.kind, summary.count) == (EventKind.FIRST_START, 1)
    assert summary.text.startswith("picosnitch has begun to watch: 1 executable on the network")


def test_nothing_is_told_when_the_first_start_is_idle() -> None:
    grouping = Grouping(is_first_start=True, now=0.0)
    assert grouping.take(now=FIRST_START_SECONDS) == []


def test_losses_are_told_when_they_grow() -> None:
    watch, health = HealthWatch(), Health()
    health.count(catalog.EVENTS_LOST, ("peer", "flows_full"), 3)
    assert watch.look(health.collect(), time_seconds=1.0) == []
    assert watch.look(health.collect(), time_seconds=2.0) == []
    health.count(catalog.EVENTS_LOST, ("peer", "flows_full"), 2)
    (lost,) = watch.look(health.collect(), time_seconds=3.0)
    assert (lost.kind, lost.count, lost.time_seconds) == (EventKind.RECORDS_LOST, 2, 3.0)
    assert lost.detail == "peer: 2 (flows full)"


def test_lock_is_told_when_it_stays() -> None:
    watch, health = HealthWatch(), Health()
    watch.look(health.collect(), time_seconds=1.0)
    health.count(catalog.LOG_ERRORS, ("sqlite", "locked"))
    assert watch.look(health.collect(), time_seconds=2.0) == []
    health.count(catalog.LOG_ERRORS, ("sqlite", "locked"))
    (failed,) = watch.look(health.collect(), time_seconds=3.0)
    assert failed.kind is EventKind.LOG_FAILED


def known(exe: str, content: str = "a", workload: Workload = HOST) -> KnownExecutable:
    sha256 = Sha256(content * 64) if content else UNHASHED
    return KnownExecutable(
        executable=Executable(sha256=sha256, exe=exe),
        workload=workload,
        name="",
        parent=Executable(sha256=UNHASHED, exe=""),
        size_bytes=0,
        first_seen_seconds=1.0,
        last_seen_seconds=1.0,
    )


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[EventKind, str]] = []

    def tell(self, notices: object) -> None:
        assert isinstance(notices, tuple)
        self.heard += [(each.kind, each.executable.exe) for each in notices]


def test_path_is_known_when_it_is_one_of_the_same_place() -> None:
    ear, health = Ear(), Health()
    notifier = Notifier([ear], known=[known("/bin/x")], health=health, now=0.0)
    pod = Workload(namespace="n", pod="p", container="c")
    notifier.discovered([known("/bin/x", "b", pod), known("/bin/x", "c", pod)])
    notifier.discovered([known("/bin/x", ""), known("/bin/y", ""), known("[kernel]", "")])
    for now in (1.0, 60.0):
        notifier.tick(health.collect, now=now, time_seconds=1.0)
    assert ear.heard == [
        (EventKind.NEW_EXECUTABLE, "/bin/x"),
        (EventKind.NEW_EXECUTABLE, "/bin/y"),
        (EventKind.NEW_HASH, "/bin/x"),
    ]


def test_memory_is_bounded_when_strangers_choose_long_paths() -> None:
    notifier = Notifier([], known=[known("/bin/old")], health=Health(), now=0.0)
    tracemalloc.start()
    try:
        for number in range(500):
            # Four bytes for each character, as CPython keeps it.
            notifier.discovered([known(f"/{number}/{'a' * 4000}\U0001f600")])
            notifier.tick(tuple, now=60.0 * number, time_seconds=1.0)
        taken_bytes, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes < 500 * 1000


STATS = "{'harmless': 0, 'suspicious': 0, 'timeout': 1, 'malicious': %d, 'undetected': 60}"


def record(**parts: object) -> bytes:
    return json.dumps({"Executables": {}, "SHA256": {}} | parts).encode()


def test_record_is_taken_over_when_it_is_of_picosnitch() -> None:
    a, b, c = ("a" * 64, "b" * 64, "c" * 64)
    data = record(
        Executables={"/bin/x": ["x", "y"], "/bin/\udce9": [], "/bin/z": ["z"]},
        SHA256={
            "/bin/x": {a: STATS % 0, b: STATS % 2, c: "VT Pending", "!!! FUSE": "x"},
            "/bin/z": {a: "{'malicious': 0}", b.upper(): "File not analyzed (no api key)"},
            "/bin/parent": {c: STATS % 1},
        },
    )
    found = parse(data, written_seconds=5.0)
    executables = [(each.executable.exe, each.executable.sha256) for each in found.executables]
    assert executables == [
        ("/bin/x", a),
        ("/bin/x", b),
        ("/bin/x", c),
        ("/bin/\udce9", ""),
        ("/bin/z", a),
        ("/bin/z", b),
    ]
    first = found.executables[0]
    assert (first.name, first.first_seen_seconds, first.last_seen_seconds) == ("x", 5.0, 0.0)
    verdicts = [(each.exe, each.sha256, each.result.verdict) for each in found.verdicts]
    assert verdicts == [("/bin/x", a, Verdict.CLEAN), ("/bin/x", b, Verdict.MALICIOUS)]


@pytest.mark.parametrize(
    ("expected", "data"),
    [
        ("is no JSON", b"{"),
        ("is no JSON", b"[" * 100_000),
        ('has no "Executables"', b"[]"),
        ('has no "Executables"', b"{}"),
        ('has no "SHA256"', b'{"Executables": {}}'),
        ("no list of names", record(Executables={"/bin/x": "x"})),
        ("no list of names", record(Executables={"/bin/x": [1]})),
        ("is no mapping", record(Executables={"/bin/x": []}, SHA256={"/bin/x": []})),
    ],
)
def test_record_is_refused_when_it_is_something_else(expected: str, data: bytes) -> None:
    with pytest.raises(UsageError, match=expected):
        parse(data, written_seconds=0.0)
