import argparse
import csv
import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picosnitch_exporter.errors import PicosnitchError, StorageError, UsageError
from picosnitch_exporter.log.reader import BYTES, GROUPS, LogReader
from picosnitch_exporter.log.selection import Selection
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.model import Direction, LogRow, Sha256
from picosnitch_exporter.settings import Settings, StorageSettings
from picosnitch_exporter.terminal import query
from tests.log_samples import CURL, NOTHING, SHELL, commit, known_executable, row

NOW = 1_700_000_000
WGET = replace(CURL, exe="/opt/tools/wget", name="wget", sha256=Sha256("0f" * 32))
ROWS = (
    row(contime=NOW - 7200, send=1, recv=100),
    replace(row(contime=NOW - 3500, send=2, recv=200), domain="com.example.www", uid=0),
    replace(
        row(contime=NOW - 60, send=4, recv=400, program=WGET),
        domain="org.other",
        remote_address="2001:db8::7",
        protocol="udp",
        direction=Direction.INBOUND,
        remote_port=53,
        container="c0ffee01",
    ),
    replace(row(contime=NOW - 1, send=8, recv=800, program=SHELL), remote_address="10.1.2.3"),
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    database = Database(folder / "snitch.db", boot_id="b")
    database.commit(commit(*ROWS))
    known = known_executable(first_seen=NOW - 100, last_seen=NOW - 50)
    database.commit(replace(NOTHING, executables=(known,)))
    database.close()
    return folder


@pytest.fixture
def reader(storage: Path) -> Iterator[LogReader]:
    opened = LogReader(storage / "snitch.db")
    yield opened
    opened.close()


def ask(storage: Path, *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    query.add_arguments(parser)
    output = io.StringIO()
    code = query.run(
        Settings(storage=StorageSettings(path=storage)),
        parser.parse_args(arguments),
        output=output,
        now=lambda: float(NOW),
    )
    assert code == 0
    return output.getvalue()


def sends(reader: LogReader, selection: Selection) -> list[int]:
    result = reader.rows(selection, limit=-1)
    column = result.columns.index("send")
    return [int(str(each[column])) for each in result.rows]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [1, 2, 4, 8]),
        (Selection(since=NOW - 3500), [2, 4, 8]),
        (Selection(until=NOW - 3500), [1]),
        (Selection(executable="curl"), [1, 2]),
        (Selection(executable="/usr/bin/curl"), [1, 2]),
        (Selection(executable="/usr/bin/*"), [1, 2, 8]),
        (Selection(executable="sh"), [8]),
        (Selection(executable="url"), []),
        (Selection(executable="?get"), [4]),
        (Selection(sha256="0F0f"), [4]),
        (Selection(domain="example.com"), [1, 2, 8]),
        (Selection(domain="com.example"), [1, 2, 8]),
        (Selection(domain="www.example.com"), [2]),
        (Selection(domain="xample.com"), []),
        (Selection(domain="[ef]xample.com"), []),
        (Selection(address="2001:db8::/32"), [4]),
        (Selection(address="10.0.0.0/8"), [1, 2, 4, 8]),
        (Selection(address="10.1.2.3"), [8]),
        (Selection(port=53), [4]),
        (Selection(port=50_000), [1, 2, 4, 8]),
        (Selection(uid=0), [2]),
        (Selection(container="c0ff"), [4]),
        (Selection(executable="curl", uid=0, domain="example.com"), [2]),
    ],
)
def test_rows_are_those_that_are_selected(
    reader: LogReader,
    selection: Selection,
    expected: list[int],
) -> None:
    assert sends(reader, selection) == expected


def test_latest_rows_are_shown_oldest_first_when_limited(reader: LogReader) -> None:
    result = reader.rows(Selection(), limit=2)
    assert [each[1] for each in result.rows] == [4, 8]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (("exe",), [("/usr/bin/dash", 8), ("/opt/tools/wget", 4), ("/usr/bin/curl", 3)]),
        (("name",), [("sh", 8), ("wget", 4), ("curl", 3)]),
        (("sha256",), [("cd" * 32, 8), ("0f" * 32, 4), ("ab" * 32, 3)]),
        (("pexe",), [("/usr/bin/dash", 15)]),
        (("user",), [(1000, 13), (0, 2)]),
        (("container",), [("", 11), ("c0ffee01", 4)]),
        (("domain",), [("com.example", 9), ("org.other", 4), ("com.example.www", 2)]),
        (("raddr",), [("10.1.2.3", 8), ("2001:db8::7", 4), ("93.184.216.34", 3)]),
        (("rport",), [(443, 11), (53, 4)]),
        (("protocol",), [("tcp", 11), ("udp", 4)]),
        (("direction",), [("outbound", 11), ("inbound", 4)]),
        (("hour",), [(1_699_999_200, 12), (1_699_995_600, 2), (1_699_992_000, 1)]),
        (("day",), [(1_699_920_000, 15)]),
        ((), [(15,)]),
        (
            ("protocol", "user"),
            [("tcp", 1000, 9), ("udp", 1000, 4), ("tcp", 0, 2)],
        ),
    ],
)
def test_sums_are_by_what_is_asked_for(
    reader: LogReader,
    by: tuple[str, ...],
    expected: list[tuple[object, ...]],
) -> None:
    result = reader.sums(Selection(), by=by, sort=BYTES, limit=-1)
    assert (*by, "send", "recv", "events", "rows") == result.columns
    found = list(result.rows)
    assert [each[: len(by) + 1] for each in found] == expected
    assert all(each[len(by) + 1] == 100 * int(str(each[len(by)])) for each in found)


def test_sums_can_be_by_anything_the_help_names(reader: LogReader) -> None:
    assert list(reader.sums(Selection(), by=tuple(GROUPS), sort="rows", limit=-1).rows)


def test_sums_are_zero_when_nothing_is_selected(reader: LogReader) -> None:
    result = reader.sums(Selection(uid=7), by=(), sort="send", limit=-1)
    assert list(result.rows) == [(0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("by", "sort"),
    [(("nothing",), "send"), (("exe",), "nothing"), (("exe; DROP TABLE x",), "send")],
)
def test_sums_are_refused_when_there_is_no_such_column(
    reader: LogReader,
    by: tuple[str, ...],
    sort: str,
) -> None:
    with pytest.raises(UsageError, match="choose from"):
        reader.sums(Selection(), by=by, sort=sort, limit=1)


@given(
    times=st.lists(st.integers(0, 5000), min_size=1, max_size=40),
    since=st.none() | st.integers(-100, 5100),
    until=st.none() | st.integers(-100, 5100),
)
@settings(deadline=None, max_examples=60)
def test_roll_up_sums_as_the_rows_do_when_asked_for_any_time(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[int],
    since: int | None,
    until: int | None,
) -> None:
    path = tmp_path_factory.mktemp("rolled") / "snitch.db"
    source = random.Random(len(times))  # noqa: S311 repeatable
    rows: list[LogRow] = [
        row(contime=when, send=source.randrange(99), program=source.choice([CURL, SHELL]))
        for when in times
    ]
    database = Database(path, boot_id="b")
    database.commit(commit(*rows))
    database.close()
    reader = LogReader(path)
    chosen = Selection(since=since, until=until)
    rolled = list(reader.sums(chosen, by=("exe",), sort="exe", limit=-1).rows)
    # Asking for the user as well takes the rows themselves.
    plain = [
        (exe, *sums)
        for exe, _user, *sums in reader.sums(
            chosen,
            by=("exe", "user"),
            sort="exe",
            limit=-1,
        ).rows
    ]
    reader.close()
    assert plain == rolled


def test_table_is_short_and_readable(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    heading, *lines = ask(storage, "--since", "90m").splitlines()
    assert heading.split() == [
        *("contime", "exe", "uid", "protocol", "direction", "peer", "domain", "send", "recv"),
    ]
    assert [line.split("  ", 1)[0] for line in lines] == [
        "2023-11-14 21:15:00",
        "2023-11-14 22:12:20",
        "2023-11-14 22:13:19",
    ]
    assert lines[0].split()[2:] == [
        *("/usr/bin/curl", "root", "tcp", "outbound", "93.184.216.34:443", "com.example.www"),
        *("2", "B", "200", "B"),
    ]
    assert "[2001:db8::7]:53" in lines[1]
    assert {len(line) for line in lines} == {len(heading)}


def test_sums_are_a_table_when_asked_for(storage: Path) -> None:
    assert ask(storage, "--by", "exe", "--limit", "1").splitlines() == [
        "exe            send   recv  events  rows",
        "/usr/bin/dash   8 B  800 B       3     1",
    ]


def test_json_has_every_column(storage: Path) -> None:
    found = json.loads(ask(storage, "--exe", "wget", "--format", "json"))
    assert len(found) == 1
    assert found[0]["raddr"] == "2001:db8::7"
    assert len(found[0]) == 26
    assert json.loads(ask(storage, "--exe", "nothing", "--format", "json")) == []


def test_csv_has_every_column(storage: Path) -> None:
    found = list(csv.DictReader(io.StringIO(ask(storage, "--format", "csv"))))
    assert [each["send"] for each in found] == ["1", "2", "4", "8"]
    assert len(found[0]) == 26


def test_executables_are_listed_when_asked_for(storage: Path) -> None:
    (found,) = json.loads(ask(storage, "executables", "--format", "json"))
    assert (CURL.exe, NOW - 100) == (found["exe"], found["first_seen"])
    assert CURL.exe in ask(storage, "executables", "--since", "1h")
    assert CURL.exe not in ask(storage, "executables", "--since", "10s")
    assert CURL.exe not in ask(storage, "executables", "--exe", "dash")


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_terminal_obeys_nothing_when_a_process_is_hostile(tmp_path: Path, style: str) -> None:
    hostile = replace(
        CURL, exe="/opt/\x1b]0;owned\x07\x9b31m\u202e", name="\r\n", cmdline="\x1b[2J"
    )
    database = Database(tmp_path / "snitch.db", boot_id="b")
    database.commit(commit(replace(row(program=hostile), domain="\x1b[2J", container="\x1b[2J")))
    database.close()
    for by in ((), ("--by", "exe,name,domain,container")):
        text = ask(tmp_path, "--format", style, *by)
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--since", "yesterday"),
        ("--since", "2024-13-01"),
        ("--since", "99999999999999999999"),
        ("--since", "1h", "--until", "2h"),
        ("--sha256", "xyz"),
        ("--address", "nowhere"),
        ("--port", "65536"),
        ("--user", "no such user"),
        ("--domain", "."),
        ("--limit", "-1"),
        ("--user", "99999999999"),
        ("--by", "exe,nothing"),
    ],
)
def test_argument_is_refused_by_name_when_malformed(
    storage: Path,
    arguments: tuple[str, ...],
) -> None:
    with pytest.raises(UsageError):
        ask(storage, *arguments)


@pytest.mark.parametrize("when", ["2023-11-14", "2023-11-14T22:00", "90m", "1d", "1699999000"])
def test_time_is_understood_in_many_ways(storage: Path, when: str) -> None:
    assert ask(storage, "--since", when, "--format", "csv").count("\n") >= 3


def test_log_is_asked_for_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(PicosnitchError, match="no log at"):
        ask(tmp_path)
    (tmp_path / "snitch.db").write_bytes(b"not a database at all" * 60)
    with pytest.raises(StorageError):
        ask(tmp_path)
