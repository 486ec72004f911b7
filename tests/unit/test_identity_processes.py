import os
import subprocess
import sys

import pytest

from picosnitch_exporter.identity.processes import (
    IDLE_NS,
    MANY_IDLE_NS,
    SHORT_CMDLINE,
    CommandLineSource,
    ProcessTable,
    exists,
    render_cmdline,
)
from picosnitch_exporter.model import FileIdentity
from picosnitch_exporter.stream import CommandLine
from picosnitch_exporter.wire import ProcessFlag
from tests.identity_samples import SECOND_NS, file, key, process

MISSING = int(ProcessFlag.CMDLINE_MISSING)
LATE = int(ProcessFlag.CMDLINE_LATE)
NOW = SECOND_NS


class Running:
    def __init__(self, *tgids: int) -> None:
        self.tgids = set(tgids)

    def __call__(self, tgid: int) -> bool:
        return tgid in self.tgids


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (b"curl\0-v\0http://a b\0", "curl -v http://a b"),
        (b"", ""),
        (b"one", "one"),
        (b"a\0\0b\0", "a  b"),
        (b"a\0\0", "a"),
        (b"a\xff\0", "a\udcff"),
    ],
)
def test_command_line_is_joined_by_spaces_when_rendered(arguments: bytes, line: str) -> None:
    assert line == render_cmdline(arguments)


def test_process_is_found_when_it_was_introduced() -> None:
    table = ProcessTable()
    assert table.get(key(), now_ns=NOW) is None
    added = table.add(process(parent=key(1), exec_ns=7, uid=5), now_ns=NOW)
    assert table.get(key(), now_ns=NOW) is added
    assert ("curl", "curl -v", 5, 7, file(), key(1)) == (
        added.name,
        added.cmdline,
        added.uid,
        added.exec_ns,
        added.executable,
        added.parent,
    )
    assert len(table) == 1


def test_parent_is_found_when_it_is_introduced_later() -> None:
    table = ProcessTable()
    child = table.add(process(parent=key(1)), now_ns=NOW)
    assert table.parent_of(child, now_ns=NOW) is None
    parent = table.add(process(key(1), generation=1), now_ns=NOW)
    assert table.parent_of(child, now_ns=NOW) is parent
    assert table.parent_of(child, now_ns=NOW) is parent


def test_children_share_the_key_of_their_parent_when_it_is_known() -> None:
    table = ProcessTable()
    parent = table.add(process(key(1), generation=1), now_ns=NOW)
    children = [table.add(process(key(100 + n), parent=key(1)), now_ns=NOW) for n in range(2)]
    assert all(child.parent is parent.key for child in children)


@pytest.mark.parametrize("flags", [MISSING, LATE])
def test_command_line_of_exec_stays_when_a_lesser_one_comes(flags: int) -> None:
    table = ProcessTable()
    table.add(process(), now_ns=NOW)
    forged = process(flags=flags, cmdline=b"forged\0", comm=b"forged", exec_ns=0)
    added = table.add(forged, now_ns=NOW)
    assert (added.name, added.cmdline, added.exec_ns) == ("curl", "curl -v", 10 * SECOND_NS)
    table.add_command_line(CommandLine(key=key(), cmdline=b"forged\0"), now_ns=NOW)
    assert (added.cmdline, added.source) == ("curl -v", CommandLineSource.EXEC)


def test_command_line_of_exec_wins_when_it_comes_last() -> None:
    table = ProcessTable()
    added = table.add(process(flags=MISSING, cmdline=b"", comm=b"x", exec_ns=0), now_ns=NOW)
    assert (added.cmdline, added.source) == ("", CommandLineSource.NONE)
    table.add_command_line(CommandLine(key=key(), cmdline=b"proc\0"), now_ns=NOW)
    assert (added.cmdline, added.source) == ("proc", CommandLineSource.PROC)
    table.add(process(flags=LATE, cmdline=b"late\0", exec_ns=0), now_ns=NOW)
    assert (added.cmdline, added.source) == ("late", CommandLineSource.SOCKET)
    table.add(process(exec_ns=7), now_ns=NOW)
    assert (added.cmdline, added.name, added.exec_ns) == ("curl -v", "curl", 7)


def test_command_line_is_completed_when_the_kernels_was_cut() -> None:
    table = ProcessTable()
    added = table.add(process(flags=int(ProcessFlag.CMDLINE_CUT), cmdline=b"a\0bc"), now_ns=NOW)
    table.add_command_line(CommandLine(key=key(), cmdline=b"a\0bcd\0e\0"), now_ns=NOW)
    assert added.cmdline == "a bcd e"
    assert added.source is CommandLineSource.EXEC


def test_command_line_waits_when_it_is_ahead_of_its_process() -> None:
    table = ProcessTable()
    early = CommandLine(key=key(), cmdline=b"early\0")
    assert table.add_command_line(early, now_ns=NOW) is None
    added = table.add(process(flags=MISSING, cmdline=b""), now_ns=NOW)
    assert added.cmdline == "early"


def test_early_command_lines_are_bounded_when_their_processes_never_come() -> None:
    table = ProcessTable()
    for tgid in range(1, 5001):
        table.add_command_line(CommandLine(key=key(tgid), cmdline=b"x\0"), now_ns=NOW)
    assert len(table._early) == 4096
    assert table.add(process(key(1), flags=MISSING, cmdline=b""), now_ns=NOW).cmdline == ""


def test_caches_are_dropped_when_the_exec_time_becomes_known() -> None:
    table = ProcessTable()
    added = table.add(process(exec_ns=0, flags=MISSING, cmdline=b""), now_ns=NOW)
    assert added.version is None
    table.add(process(exec_ns=9, flags=MISSING, cmdline=b""), now_ns=NOW)
    assert added.exec_ns == 9


def test_ended_process_is_forgotten_when_unused_for_an_hour() -> None:
    running = Running(100)
    table = ProcessTable(is_running=running)
    for tgid in (100, 101):
        table.add(process(key(tgid)), now_ns=NOW)
    table.expire(now_ns=NOW + IDLE_NS - 1)
    assert len(table) == 2
    table.expire(now_ns=NOW + IDLE_NS)
    assert table.get(key(101), now_ns=NOW) is None
    assert table.get(key(100), now_ns=NOW + IDLE_NS) is not None
    running.tgids.clear()
    table.expire(now_ns=NOW + IDLE_NS + 2)
    assert len(table) == 1
    table.expire(now_ns=NOW + 2 * IDLE_NS)
    assert len(table) == 0
    table.expire(now_ns=NOW + 3 * IDLE_NS)


def test_ended_processes_are_forgotten_sooner_when_there_are_many() -> None:
    table = ProcessTable(is_running=Running(1), many_processes=10)
    for tgid in range(1, 31):
        table.add(process(key(tgid)), now_ns=NOW)
    table.expire(now_ns=NOW + MANY_IDLE_NS - 1)
    assert len(table) == 30
    table.expire(now_ns=NOW + MANY_IDLE_NS)
    # The latest ones: a parent that has ended may still be asked for.
    present = [tgid for tgid in range(1, 31) if table.get(key(tgid), now_ns=NOW)]
    assert present == [1, *range(22, 31)]


def test_ended_process_stays_when_a_child_of_it_is_remembered() -> None:
    running = Running(3)
    table = ProcessTable(is_running=running, many_processes=0)
    for tgid, parent in ((1, 0), (2, 1), (3, 2)):
        table.add(process(key(tgid), parent=key(parent)), now_ns=NOW)
    table.expire(now_ns=NOW + MANY_IDLE_NS)
    assert len(table) == 3
    running.tgids.clear()
    for minute in (2, 3, 4):
        table.expire(now_ns=NOW + minute * MANY_IDLE_NS)
    assert len(table) == 0


def test_look_for_ended_processes_is_short_when_many_run() -> None:
    asked: list[int] = []

    def is_running(tgid: int) -> bool:
        asked.append(tgid)
        return True

    table = ProcessTable(is_running=is_running)
    for tgid in range(1, 201):
        table.add(process(key(tgid)), now_ns=NOW)
    table.expire(now_ns=NOW + IDLE_NS)
    assert list(range(1, 65)) == asked
    assert len(table) == 200


def test_ended_processes_go_first_when_the_table_is_full() -> None:
    table = ProcessTable(is_running=Running(1, 2), max_processes=3)
    for tgid in (1, 2, 3, 4):
        table.add(process(key(tgid)), now_ns=NOW)
    present = [tgid for tgid in (1, 2, 3, 4) if table.get(key(tgid), now_ns=NOW)]
    assert present == [1, 2, 4]


def test_oldest_process_goes_when_the_table_is_full_of_running_ones() -> None:
    table = ProcessTable(is_running=lambda _tgid: True, max_processes=2)
    for tgid in range(1, 200):
        table.add(process(key(tgid)), now_ns=NOW)
        assert table.get(key(tgid), now_ns=NOW) is not None
    assert len(table) == 2


def test_use_keeps_a_process_when_the_table_is_full() -> None:
    table = ProcessTable(is_running=Running(), max_processes=2)
    table.add(process(key(1)), now_ns=NOW)
    table.add(process(key(2)), now_ns=NOW)
    table.get(key(1), now_ns=NOW + 2 * SECOND_NS)
    table.add(process(key(3)), now_ns=NOW)
    assert table.get(key(2), now_ns=NOW) is None
    assert table.get(key(1), now_ns=NOW) is not None


def test_images_of_one_process_are_apart_when_it_execs() -> None:
    table = ProcessTable()
    other = FileIdentity(device=1, inode=2, generation=0)
    before = table.add(process(key(5, 1)), now_ns=NOW)
    after = table.add(process(key(5, 2), executable=other), now_ns=NOW)
    assert before is not after
    assert other == after.executable


def test_process_exists_when_it_runs() -> None:
    assert exists(os.getpid())
    assert exists(1)
    assert exists(2**31)
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert not exists(ended.pid)


def test_change_is_noted_when_more_becomes_known_of_a_process() -> None:
    table = ProcessTable()
    changes = [table.changes]
    for record in (
        process(cmdline=b"", flags=MISSING),
        process(cmdline=b"", flags=MISSING),
        process(cmdline=b"curl\0"),
        process(cmdline=b"curl\0"),
        process(cmdline=b"curl\0", uid=5),
        process(cmdline=b"curl\0", uid=5, exec_ns=11 * SECOND_NS),
    ):
        table.add(record, now_ns=NOW)
        changes.append(table.changes)
    table.add_command_line(CommandLine(key=key(), cmdline=b"curl\0-v\0"), now_ns=NOW)
    assert [*changes, table.changes] == [0, 0, 0, 1, 1, 2, 3, 4]


def test_command_lines_are_cut_when_they_take_much_memory() -> None:
    table = ProcessTable(max_processes=30, max_cmdline_bytes=20_000)
    long = b"x" * 5_000
    for tgid in range(100):
        table.add_command_line(CommandLine(key=key(1_000 + tgid), cmdline=long), now_ns=NOW)
        table.add(process(key(tgid), cmdline=b"", flags=MISSING), now_ns=NOW)
        table.add_command_line(CommandLine(key=key(tgid), cmdline=long), now_ns=NOW)
        table.add(process(key(tgid), cmdline=long, flags=LATE), now_ns=NOW)
    remembered = [process.cmdline for process in table._processes.values()]
    kept = [*remembered, *table._early.values()]
    assert sum(map(sys.getsizeof, kept)) == table._cmdline_bytes
    assert {len(cmdline) for cmdline in kept} == {SHORT_CMDLINE, len(long)}
    assert table._cmdline_bytes < 20_000 + 2 * len(long) + len(kept) * 600
