"""The log on a database server, through any driver of Python's DB-API (PEP 249).

A batch is two steps. First what repeats gets its ids, each table committed at once, so that hosts
that write the same server don't wait for one another. Then, in one transaction, the batch's key
and its rows: a batch whose key is there already has arrived before.

The account needs INSERT and SELECT, and CREATE where the tables don't exist yet.
"""

import itertools
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.log.dictionary import WORD_CHARACTERS
from picosnitch_exporter.log.schema import (
    ADDRESSES,
    DICTIONARIES,
    DIRECTIONS,
    DOMAINS,
    EXECUTABLES,
    FACT_NAMES,
    MAX_INTEGER,
    PROGRAMS,
    SOURCES,
    VIEW,
    Dialect,
    Kind,
    Table,
    digest_of,
    storable,
)
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import LogRow, Program

SERVER_SCHEMA_VERSION: Final = 1
PREFIX: Final = "picosnitch_"
"""Of all tables but that of the connections: others have tables in the same database."""
_VERSIONS: Final = f"{PREFIX}schema"
_BATCHES: Final = f"{PREFIX}batches"
_CHUNK: Final = 500
_MAX_CACHED: Final = 100_000
_NAME_CHARACTERS: Final = 63
_DIRECTION_NUMBERS = {direction: number for number, direction in enumerate(DIRECTIONS)}

_Key = TypeVar("_Key", bound=Hashable)
_Value = str | int | bytes
_Values = tuple[str | int, ...]
_SourceKey = tuple[Program, Program, Program, int, int, str]

_log = logging.getLogger(__name__)


class ServerError(StorageError):
    """The server can't be reached, refuses, or has gone in the middle."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """unreachable, refused or failed."""


def not_understood(server: str, answer: object) -> ServerError:
    """What a peer says that no such server would; drivers raise whatever comes of it."""
    return ServerError(
        f"what answers is no {server} server, or broken ({answer!r:.200}): "
        "check host and port, and what is in between",
        reason="failed",
    )


class Session(Protocol):
    """One connection, with what the drivers don't have in common. All raise `ServerError`."""

    dialect: Dialect
    insert_or_ignore: tuple[str, str]
    """What stands for INSERT, and after the values, to pass over rows whose key exists."""
    is_ascii_only: bool
    """Whether the database can't hold all of Unicode."""

    def execute(self, sql: str, values: Sequence[_Value] = ()) -> int:
        """Runs a statement; the number of rows that it changed."""

    def execute_many(self, sql: str, rows: Sequence[Sequence[_Value]]) -> None:
        """Runs an INSERT for each row."""

    def fetch(self, sql: str, values: Sequence[_Value] = ()) -> list[tuple[object, ...]]:
        """The rows of a query."""

    def columns(self, table: str) -> frozenset[str]:
        """The columns of a table or view, none where it does not exist."""

    def insert_facts(self, table: str, rows: Iterable[Sequence[_Value]]) -> None:
        """Adds rows with the columns `FACT_NAMES`, as fast as the server takes them."""

    def commit(self) -> None:
        """Commits."""

    def roll_back(self) -> None:
        """Rolls back."""

    def close(self) -> None:
        """Closes the connection, whatever state it is in."""


class RemoteLog:
    """What one connection knows of the log on its server. Begins with the schema.

    Raises
    ------
    ServerError
        if the schema is newer, or can't be made.
    """

    def __init__(self, session: Session, *, table_name: str, host: str) -> None:
        self._session = session
        self._host = host
        self._ids: dict[str, dict[bytes, int]] = {table.name: {} for table in DICTIONARIES}
        self._facts = self._prepare(table_name)

    @classmethod
    def connect(
        cls,
        sessions: Callable[[], Session],
        *,
        table_name: str,
        host: str,
    ) -> "RemoteLog":
        """Opens a session, and the log on it.

        Raises
        ------
        ServerError
            if the server can't be reached, or the schema is newer or can't be made.
        """
        session = sessions()
        try:
            return cls(session, table_name=table_name, host=host)
        except BaseException:
            session.close()
            raise

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()

    def deliver(self, key: bytes, rows: tuple[LogRow, ...]) -> bool:
        """Makes the rows of a batch durable; false where they were already.

        Raises
        ------
        ServerError
            if it can't be known whether they are: the batch has to be brought again.
        """
        for known in self._ids.values():
            if len(known) > _MAX_CACHED:
                known.clear()
        facts = self._facts_of(rows)
        insert, ignore = self._session.insert_or_ignore
        received = max((int(row.contime) for row in rows), default=0)
        added = self._session.execute(
            f"{insert} INTO {_BATCHES} (batch_key, host, row_count, contime)"
            f" VALUES (%s, %s, %s, %s) {ignore}",
            (key, self._text(self._host)[:WORD_CHARACTERS], len(rows), received),
        )
        if added:
            self._session.insert_facts(self._facts, facts)
        self._session.commit()
        return bool(added)

    def _facts_of(self, rows: tuple[LogRow, ...]) -> list[tuple[_Value, ...]]:
        programs = self._program_ids(rows)
        sources = self._resolve(
            SOURCES,
            {
                _source_key(row): (
                    programs[row.program],
                    programs[row.parent],
                    programs[row.grandparent],
                    row.uid,
                    row.netns,
                    self._text(row.container),
                    self._text(self._host),
                )
                for row in rows
            },
        )
        addresses = self._words(
            ADDRESSES,
            itertools.chain.from_iterable((row.local_address, row.remote_address) for row in rows),
        )
        domains = self._words(DOMAINS, (row.domain for row in rows))
        return [
            (
                int(row.contime),
                min(row.send_bytes, MAX_INTEGER),
                min(row.receive_bytes, MAX_INTEGER),
                min(row.events, MAX_INTEGER),
                sources[_source_key(row)],
                row.protocol,
                _DIRECTION_NUMBERS[row.direction],
                row.local_port,
                row.remote_port,
                addresses[row.local_address],
                addresses[row.remote_address],
                domains[row.domain],
            )
            for row in rows
        ]

    def _program_ids(self, rows: tuple[LogRow, ...]) -> dict[Program, int]:
        programs = {
            program: (program.sha256, program.exe)
            for row in rows
            for program in (row.program, row.parent, row.grandparent)
        }
        executables = self._resolve(
            EXECUTABLES,
            {
                each: (str(each[0]), self._text(label_value(each[1])))
                for each in set(programs.values())
            },
        )
        return self._resolve(
            PROGRAMS,
            {
                program: (
                    executables[executable],
                    self._text(program.name),
                    self._text(program.cmdline),
                )
                for program, executable in programs.items()
            },
        )

    def _words(self, table: Table, words: Iterable[str]) -> dict[str, int]:
        return self._resolve(
            table,
            {word: (self._text(word)[:WORD_CHARACTERS],) for word in set(words)},
        )

    def _resolve(self, table: Table, entries: dict[_Key, _Values]) -> dict[_Key, int]:
        """Ids of entries, after adding those that the server does not have."""
        known = self._ids[table.name]
        digests = {key: digest_of(values) for key, values in entries.items()}
        unknown = {
            digests[key]: values for key, values in entries.items() if digests[key] not in known
        }
        known.update(self._find(table, unknown))
        missing = {digest: unknown[digest] for digest in unknown if digest not in known}
        if missing:
            # In one order everywhere, so that no two hosts wait for each other.
            self._add(table, dict(sorted(missing.items())))
            self._session.commit()
            known.update(self._find(table, missing))
        self._session.commit()
        try:
            return {key: known[digest] for key, digest in digests.items()}
        except KeyError as error:
            raise ServerError(
                f"the server does not show what was added to {self._session.dialect.name(table)}: "
                "is INSERT or SELECT filtered by a rule?",
                reason="failed",
            ) from error

    def _find(self, table: Table, digests: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
        name = self._session.dialect.name(table)
        for chunk in _chunks(digests):
            marks = ", ".join(["%s"] * len(chunk))
            found = self._session.fetch(
                f"SELECT digest, id FROM {name} WHERE digest IN ({marks})",  # noqa: S608 names
                chunk,
            )
            for each in found:
                match each:
                    case (bytes(digest), int(number)):
                        yield digest, number
                    case _:
                        raise not_understood("database", each)

    def _add(self, table: Table, entries: dict[bytes, _Values]) -> None:
        insert, ignore = self._session.insert_or_ignore
        columns = ("digest", *table.names)
        marks = ", ".join(["%s"] * len(columns))
        self._session.execute_many(
            f"{insert} INTO {self._session.dialect.name(table)} ({', '.join(columns)})"
            f" VALUES ({marks}) {ignore}",
            [(digest, *values) for digest, values in entries.items()],
        )

    def _text(self, text: str) -> str:
        text = storable(text)
        if self._session.is_ascii_only and not text.isascii():
            return text.encode("ascii", "backslashreplace").decode("ascii")
        return text

    def _prepare(self, table_name: str) -> str:
        """Makes what is missing of the schema; the table of the connections."""
        session = self._session
        facts = table_name
        columns = session.columns(table_name)
        if columns and not columns.issuperset(FACT_NAMES):
            # picosnitch itself wrote to a table of the same name, with other columns.
            facts = f"{PREFIX}{table_name}"[:_NAME_CHARACTERS]
            _log.warning(Event("server_table_taken", {"table": table_name, "using": facts}))
        self._check_version()
        wanted = {
            session.dialect.name(t): session.dialect.create_dictionary(t) for t in DICTIONARIES
        }
        wanted[_BATCHES] = _create_batches(session.dialect)
        wanted[facts] = session.dialect.create_facts(facts)
        for name, statement in wanted.items():
            if not session.columns(name):
                session.execute(statement)
        if not session.columns(_VERSIONS):
            session.execute(
                f"CREATE TABLE {_VERSIONS} (version {session.dialect.types[Kind.INTEGER]})"
                f"{session.dialect.table_suffix}",
            )
        if not session.fetch(f"SELECT version FROM {_VERSIONS}"):  # noqa: S608 a constant
            session.execute(
                f"INSERT INTO {_VERSIONS} (version) VALUES (%s)",  # noqa: S608 a constant
                (SERVER_SCHEMA_VERSION,),
            )
        session.commit()
        self._make_view(facts)
        return facts

    def _check_version(self) -> None:
        if not self._session.columns(_VERSIONS):
            return
        found = self._session.fetch(f"SELECT max(version) FROM {_VERSIONS}")  # noqa: S608 a constant
        match found:
            case [(int(version),)]:
                pass
            case [(None,)]:
                version = 0
            case _:
                raise not_understood("database", found)
        if version > SERVER_SCHEMA_VERSION:
            raise ServerError(
                f"the server's tables have version {version}, this picosnitch-exporter knows "
                f"{SERVER_SCHEMA_VERSION}: install the newer version, or name another database",
                reason="refused",
            )

    def _make_view(self, facts: str) -> None:
        if self._session.columns(VIEW):
            return
        statement = self._session.dialect.create_view(facts, with_host=True)
        try:
            self._session.execute(statement)
            self._session.commit()
        except ServerError as error:
            # MySQL and MariaDB have a privilege of its own for views; the log does without.
            self._session.roll_back()
            _log.warning(
                Event("server_view_missing", {"error": str(error), "make_it_with": statement})
            )


def _create_batches(dialect: Dialect) -> str:
    types = dialect.types
    return (
        f"CREATE TABLE {_BATCHES} (batch_key {types[Kind.DIGEST]}, host {types[Kind.WORD]},"
        f" row_count {types[Kind.INTEGER]}, contime {types[Kind.INTEGER]}){dialect.table_suffix}"
    )


def _source_key(row: LogRow) -> _SourceKey:
    return (row.program, row.parent, row.grandparent, row.uid, row.netns, row.container)


def _chunks(values: Iterable[bytes]) -> Iterator[list[bytes]]:
    iterator = iter(values)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
