"""Ids of what repeats, in SQLite: looked up in memory, then by digest, then added."""

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.log.schema import (
    ADDRESSES,
    DICTIONARIES,
    DOMAINS,
    EXECUTABLES,
    PROGRAMS,
    SOURCES,
    SQLITE,
    Table,
    digest_of,
    storable,
)
from picosnitch_exporter.model import Executable, LogRow, Program

MANY_PROGRAMS: Final = 512
"""Executables, programs and sources that are remembered from one transaction to the next, and twice
as many within one, 0.5 MB: those that talk in each window are found, and those that ended at once
are let go of."""
MANY_WORDS: Final = 8_192
"""The same of addresses and domains, some 2 MB each."""
WORD_CHARACTERS: Final = 255

_SourceKey = tuple[Program, Program, Program, int, int, str]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Cache(dict[_Key, _Value]):
    """What was asked for lately: where it is much, only in this transaction and the one before.

    And of those the last `many` at least, twice as many at the most. A `dict`, as one that has an
    entry answers without a call in Python: a row asks four of them.
    """

    def __init__(self, find: Callable[[_Key], _Value], *, many: int) -> None:
        super().__init__()
        self._find = find
        self._many = many
        self._before: dict[_Key, _Value] = {}
        self._has_aged = False
        """In this transaction."""

    def __missing__(self, key: _Key) -> _Value:
        value = self._before.pop(key) if key in self._before else self._find(key)
        if len(self) >= self._many:
            self._age()
        self[key] = value
        return value

    def turn(self) -> None:
        """Another transaction begins."""
        if len(self) + len(self._before) > self._many and not self._has_aged:
            self._age()
        self._has_aged = False

    def _age(self) -> None:
        self._before = dict(self)
        self.clear()
        self._has_aged = True

    def forget(self) -> None:
        """Nothing is known any more."""
        self._before = {}
        self.clear()


class Dictionary:
    """Finds ids inside a transaction, adds what is missing, and marks what is in use today.

    What it knows has to be forgotten (`clear`) when the transaction is rolled back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._day = 0
        self._executables = _Cache(self._find_executable, many=MANY_PROGRAMS)
        self._programs = _Cache(self._find_program, many=MANY_PROGRAMS)
        self._sources = _Cache(self._find_source, many=MANY_PROGRAMS)
        self._addresses = _Cache(self._find_address, many=MANY_WORDS)
        self._domains = _Cache(self._find_domain, many=MANY_WORDS)
        self._caches = (
            self._executables,
            self._programs,
            self._sources,
            self._addresses,
            self._domains,
        )
        self._statements = {table.name: _statements(table) for table in DICTIONARIES}

    def clear(self) -> None:
        """Forgets all ids."""
        for cache in self._caches:
            cache.forget()

    def begin(self, day: int) -> None:
        """What is looked up from here on is in use on that day (since 1970).

        On another day than before all is looked up anew: it has to be marked, and may have been
        deleted since.
        """
        if day != self._day:
            self.clear()
            self._day = day
        for cache in self._caches:
            cache.turn()

    def executable(self, executable: Executable) -> int:
        """Its id."""
        return self._executables[executable]

    def source(self, row: LogRow) -> tuple[int, int]:
        """The id of who is behind a row, and that of the executable."""
        return self._sources[
            row.program, row.parent, row.grandparent, row.uid, row.netns, row.container
        ]

    def address(self, address: str) -> int:
        """Its id."""
        return self._addresses[address]

    def domain(self, domain: str) -> int:
        """Its id."""
        return self._domains[domain]

    def _find_executable(self, executable: Executable) -> int:
        return self._id(EXECUTABLES, (executable.sha256, label_value(executable.exe)))

    def _find_program(self, program: Program) -> tuple[int, int]:
        """Its id, and that of its executable."""
        executable = self.executable(Executable(sha256=program.sha256, exe=program.exe))
        values = (executable, storable(program.name), storable(program.cmdline))
        return self._id(PROGRAMS, values), executable

    def _find_source(self, key: _SourceKey) -> tuple[int, int]:
        program, parent, grandparent, uid, netns, container = key
        number, executable = self._programs[program]
        values = (
            number,
            self._programs[parent][0],
            self._programs[grandparent][0],
            uid,
            netns,
            storable(container),
            "",
        )
        return self._id(SOURCES, values), executable

    def _find_address(self, address: str) -> int:
        return self._id(ADDRESSES, (storable(address)[:WORD_CHARACTERS],))

    def _find_domain(self, domain: str) -> int:
        return self._id(DOMAINS, (storable(domain)[:WORD_CHARACTERS],))

    def _id(self, table: Table, values: tuple[str | int, ...]) -> int:
        select, mark, insert = self._statements[table.name]
        digest = digest_of(values)
        found = self._connection.execute(select, (digest,)).fetchone()
        if found is None:
            cursor = self._connection.execute(insert, (digest, *values, self._day))
            number = cursor.lastrowid
        else:
            number, used = found
            if used < self._day:
                self._connection.execute(mark, (self._day, number))
        return int(number or 0)


def _statements(table: Table) -> tuple[str, str, str]:
    name = SQLITE.name(table)
    columns = ("digest", *table.names, "used")
    marks = ", ".join("?" * len(columns))
    return (
        f"SELECT id, used FROM {name} WHERE digest = ?",  # noqa: S608 names of the schema
        f"UPDATE {name} SET used = ? WHERE id = ?",  # noqa: S608 as above
        f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 as above
    )
