"""The schema of the log, once for every database.

What repeats is stored once (executables, programs, sources, addresses, domains) and found again by
a digest of its content, since MariaDB and MySQL can't index a whole path. The view `connection_log`
puts it together. Its joins are outer ones, so that databases leave out those that a query does not
need, and begin with the connections.

The drivers are used as they are: the same inserts through SQLAlchemy Core ran at a fifth of the
speed in SQLite, half and a tenth on servers, and it takes 28 MB of memory. All that is needed of it
are the few type names below.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum, auto

VIEW = "connection_log"
FACTS = "connections"
BUCKET_SECONDS = 600
"""Of the roll-up by executable, in SQLite."""
MAX_INTEGER = (1 << 63) - 1
DIRECTIONS = ("", "outbound", "inbound")
"""By the number in the column `direction`."""
_ESCAPED = re.compile(r"\\x(5c(?=x[0-9a-f]{2})|00|[89a-f][0-9a-f])")
_NOT_ASCII = 0x80
_UNDECODED = 0xDC00


class Kind(Enum):
    """What a column holds."""

    ID = auto()
    DIGEST = auto()
    INTEGER = auto()
    TEXT = auto()
    WORD = auto()
    """At most 255 characters."""
    DAY = auto()
    """Days since 1970 when an entry was last in use; only where entries are ever deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table whose entries are found by their digest."""

    name: str
    columns: tuple[tuple[str, Kind], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that make an entry what it is."""
        return tuple(name for name, _kind in self.columns)


EXECUTABLES = Table(name="executables", columns=(("sha256", Kind.WORD), ("exe", Kind.TEXT)))
PROGRAMS = Table(
    name="programs",
    columns=(("executable_id", Kind.INTEGER), ("name", Kind.TEXT), ("cmdline", Kind.TEXT)),
)
SOURCES = Table(
    name="sources",
    columns=(
        ("program_id", Kind.INTEGER),
        ("parent_id", Kind.INTEGER),
        ("grandparent_id", Kind.INTEGER),
        ("uid", Kind.INTEGER),
        ("netns", Kind.INTEGER),
        ("container", Kind.TEXT),
        ("host", Kind.TEXT),
    ),
)
ADDRESSES = Table(name="addresses", columns=(("address", Kind.WORD),))
DOMAINS = Table(name="domains", columns=(("domain", Kind.WORD),))
DICTIONARIES = (EXECUTABLES, PROGRAMS, SOURCES, ADDRESSES, DOMAINS)

FACT_COLUMNS = (
    ("contime", Kind.INTEGER),
    ("send", Kind.INTEGER),
    ("recv", Kind.INTEGER),
    ("events", Kind.INTEGER),
    ("source_id", Kind.INTEGER),
    ("protocol", Kind.WORD),
    ("direction", Kind.INTEGER),
    ("lport", Kind.INTEGER),
    ("rport", Kind.INTEGER),
    ("laddr_id", Kind.INTEGER),
    ("raddr_id", Kind.INTEGER),
    ("domain_id", Kind.INTEGER),
)
FACT_NAMES = tuple(name for name, _kind in FACT_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a database spells the types, and what it wants around a table."""

    types: dict[Kind, str]
    fact_id: str = ""
    """The column that makes the key of a table of connections."""
    fact_constraint: str = ""
    table_suffix: str = ""
    fact_suffix: str = ""
    prefix: str = ""
    """Of the tables beside that of the connections, where others have tables too."""

    def name(self, table: Table) -> str:
        """What the table is called."""
        return self.prefix + table.name

    def create_dictionary(self, table: Table) -> str:
        """The statement that makes a table of entries."""
        columns = [("id", Kind.ID), ("digest", Kind.DIGEST), *table.columns]
        if Kind.DAY in self.types:
            columns.append(("used", Kind.DAY))
        body = ", ".join(f"{name} {self.types[kind]}" for name, kind in columns)
        return f"CREATE TABLE {self.name(table)} ({body}){self.table_suffix}"

    def create_facts(self, name: str = FACTS) -> str:
        """The statement that makes the table of connections."""
        parts = [self.fact_id, *(f"{column} {self.types[kind]}" for column, kind in FACT_COLUMNS)]
        body = ", ".join(part for part in (*parts, self.fact_constraint) if part)
        return f"CREATE TABLE {name} ({body}){self.fact_suffix or self.table_suffix}"

    def create_view(self, facts: str = FACTS, *, with_host: bool) -> str:
        """The statement that makes `connection_log`, with the host as the last column."""
        columns = ["c.contime", "c.send", "c.recv", "c.events"]
        joins = [f"LEFT JOIN {self.name(SOURCES)} s ON s.id = c.source_id"]
        for prefix, reference in (("", "program"), ("p", "parent"), ("gp", "grandparent")):
            alias = prefix or "o"
            columns += [
                f"{alias}e.exe AS {prefix}exe",
                f"{alias}p.name AS {prefix}name",
                f"{alias}p.cmdline AS {prefix}cmdline",
                f"{alias}e.sha256 AS {prefix}sha256",
            ]
            p, e = f"{alias}p", f"{alias}e"
            joins += [
                f"LEFT JOIN {self.name(PROGRAMS)} {p} ON {p}.id = s.{reference}_id",
                f"LEFT JOIN {self.name(EXECUTABLES)} {e} ON {e}.id = {p}.executable_id",
            ]
        cases = " ".join(f"WHEN {n} THEN '{name}'" for n, name in enumerate(DIRECTIONS))
        columns += ["s.uid", "c.protocol", f"CASE c.direction {cases} END AS direction"]
        columns += ["c.lport", "c.rport", "la.address AS laddr", "ra.address AS raddr"]
        columns += ["d.domain", "s.netns", "s.container"]
        columns += ["s.host"] if with_host else []
        joins += [
            f"LEFT JOIN {self.name(ADDRESSES)} la ON la.id = c.laddr_id",
            f"LEFT JOIN {self.name(ADDRESSES)} ra ON ra.id = c.raddr_id",
            f"LEFT JOIN {self.name(DOMAINS)} d ON d.id = c.domain_id",
        ]
        select = f"SELECT {', '.join(columns)} FROM {facts} c {' '.join(joins)}"  # noqa: S608
        return f"CREATE VIEW {VIEW} AS {select}"


SQLITE = Dialect(
    types={
        Kind.ID: "INTEGER PRIMARY KEY",
        Kind.DIGEST: "BLOB NOT NULL UNIQUE",
        Kind.INTEGER: "INTEGER NOT NULL",
        Kind.TEXT: "TEXT NOT NULL",
        Kind.WORD: "TEXT NOT NULL",
        Kind.DAY: "INTEGER NOT NULL",
    },
    fact_id="sequence INTEGER NOT NULL",
    fact_constraint="PRIMARY KEY (contime, sequence)",
    fact_suffix=" WITHOUT ROWID",
)


def digest_of(values: tuple[str | int, ...]) -> bytes:
    """What an entry is found by: 16 bytes, so that nobody finds two entries with the same."""
    # Each value ends with a character that storable() leaves in none.
    text = "".join(f"{value}\0" for value in values)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def exact(text: str) -> str:
    """The path of which `label_value` has made `text`."""
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    byte = int(match.group(1), 16)
    # PEP 383, as os.fsdecode() has a byte that is not UTF-8.
    return chr(byte if byte < _NOT_ASCII else _UNDECODED + byte)


def storable(text: str) -> str:
    """`text` as every database takes it: no NUL, and bytes that are not UTF-8 in hexadecimal."""
    if "\0" in text:
        text = text.replace("\0", " ")
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Lone surrogates that don't stand for undecodable bytes (PEP 383).
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")
