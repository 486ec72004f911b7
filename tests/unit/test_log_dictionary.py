import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from picosnitch_exporter.log import dictionary as module
from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.log.schema import DICTIONARIES, SQLITE
from picosnitch_exporter.model import LogRow
from tests.log_samples import CURL, row

DAY = 20_000


class Books:
    """A dictionary, and how many statements each row takes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        for table in DICTIONARIES:
            connection.execute(SQLITE.create_dictionary(table))
        self.statements: list[str] = []
        connection.set_trace_callback(self.statements.append)
        self.dictionary = Dictionary(connection)

    def look_up(self, given: LogRow) -> int:
        self.statements.clear()
        self.dictionary.source(given)
        self.dictionary.address(given.remote_address)
        self.dictionary.domain(given.domain)
        return len(self.statements)


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """With room for the three programs of a row, and as much of all else."""
    monkeypatch.setattr(module, "MANY_PROGRAMS", 3)
    monkeypatch.setattr(module, "MANY_WORDS", 3)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield Books(connection)


def talking(number: int) -> LogRow:
    """A row of one of many programs."""
    program = replace(CURL, exe=f"/bin/{number}", cmdline=f"curl {number}")
    return replace(row(program=program), remote_address=f"10.0.0.{number}", domain=f"com.{number}")


def test_database_is_not_asked_when_an_entry_is_in_use_all_the_time(books: Books) -> None:
    books.dictionary.begin(DAY)
    assert books.look_up(talking(0)) > 0
    for number in range(1, 9):
        assert books.look_up(talking(0)) == 0
        books.look_up(talking(number))
        books.dictionary.begin(DAY)


def test_database_is_asked_when_an_entry_was_not_in_use_for_long(books: Books) -> None:
    books.dictionary.begin(DAY)
    books.look_up(talking(0))
    known = books.dictionary.source(talking(0))
    for number in range(1, 9):
        books.dictionary.begin(DAY)
        books.look_up(talking(number))
    assert books.look_up(talking(0)) > 0
    assert books.dictionary.source(talking(0)) == known
    assert all(statement.startswith("SELECT") for statement in books.statements)


def test_little_is_remembered_when_one_transaction_has_much(books: Books) -> None:
    books.dictionary.begin(DAY)
    known = [books.dictionary.source(talking(number)) for number in range(9)]
    assert all(len(cache) + len(cache._before) <= 6 for cache in books.dictionary._caches)
    assert [books.dictionary.source(talking(number)) for number in range(9)] == known


def test_nothing_is_forgotten_when_there_is_little(books: Books) -> None:
    books.dictionary.begin(DAY)
    books.look_up(row())
    for _ in range(5):
        books.dictionary.begin(DAY)
    assert books.look_up(row()) == 0


def test_database_is_asked_when_the_day_is_another_or_all_was_rolled_back(books: Books) -> None:
    books.dictionary.begin(DAY)
    books.look_up(row())
    books.dictionary.begin(DAY + 1)
    assert books.look_up(row()) > 0
    assert [each for each in books.statements if each.startswith("UPDATE")]
    books.dictionary.clear()
    books.dictionary.begin(DAY + 1)
    assert books.look_up(row()) > 0
