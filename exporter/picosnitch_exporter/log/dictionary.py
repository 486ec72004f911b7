"""Ids of what repeats, in SQLite: looked up in memory, then by digest, then added."""

import sqlite3
from typing import Final

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

MAX_CACHED: Final = 32_768
"""Entries of each kind, some 10 MB where all are full."""
WORD_CHARACTERS: Final = 255

_SourceKey = tuple[Program, Program, Program, int, int, str]


class Dictionary:
    """Finds ids inside a transaction, adds what is missing, and marks what is in use today.

    What it knows has to be forgotten (`clear`) when the transaction is rolled back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._day = 0
        self._executables: dict[Executable, int] = {}
        self._programs: dict[Program, tuple[int, int]] = {}
        self._sources: dict[_SourceKey, tuple[int, int]] = {}
        self._addresses: dict[str, int] = {}
        self._domains: dict[str, int] = {}
        self._statements = {table.name: _statements(table) for table in DICTIONARIES}

    def clear(self) -> None:
        """Forgets all ids."""
        self._executables.clear()
        self._programs.clear()
        self._sources.clear()
        self._addresses.clear()
        self._domains.clear()

    def begin(self, day: int) -> None:
        """What is looked up from here on is in use on that day (since 1970).

        On another day than before all is looked up anew: it has to be marked, and may have been
        deleted since.
        """
        if day != self._day:
            self.clear()
            self._day = day
        for cache in (
            self._executables,
            self._programs,
            self._sources,
            self._addresses,
            self._domains,
        ):
            if len(cache) > MAX_CACHED:
                cache.clear()

    def executable(self, executable: Executable) -> int:
        """Its id."""
        known = self._executables.get(executable)
        if known is None:
            values = (executable.sha256, storable(executable.exe))
            known = self._executables[executable] = self._id(EXECUTABLES, values)
        return known

    def program(self, program: Program) -> tuple[int, int]:
        """Its id, and that of its executable."""
        known = self._programs.get(program)
        if known is None:
            executable = self.executable(Executable(sha256=program.sha256, exe=program.exe))
            values = (executable, storable(program.name), storable(program.cmdline))
            known = self._programs[program] = (self._id(PROGRAMS, values), executable)
        return known

    def source(self, row: LogRow) -> tuple[int, int]:
        """The id of who is behind a row, and that of the executable."""
        key = (row.program, row.parent, row.grandparent, row.uid, row.netns, row.container)
        known = self._sources.get(key)
        if known is None:
            program, executable = self.program(row.program)
            values = (
                program,
                self.program(row.parent)[0],
                self.program(row.grandparent)[0],
                row.uid,
                row.netns,
                storable(row.container),
                "",
            )
            known = self._sources[key] = (self._id(SOURCES, values), executable)
        return known

    def address(self, address: str) -> int:
        """Its id."""
        known = self._addresses.get(address)
        if known is None:
            values = (storable(address)[:WORD_CHARACTERS],)
            known = self._addresses[address] = self._id(ADDRESSES, values)
        return known

    def domain(self, domain: str) -> int:
        """Its id."""
        known = self._domains.get(domain)
        if known is None:
            values = (storable(domain)[:WORD_CHARACTERS],)
            known = self._domains[domain] = self._id(DOMAINS, values)
        return known

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
