"""What VirusTotal said of contents, in SQLite, and the table of all that is known.

All functions work inside the caller's transaction.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from picosnitch_exporter.log.dictionary import Dictionary
from picosnitch_exporter.model import (
    Executable,
    KnownVerdict,
    Sha256,
    Verdict,
    VirusTotalResult,
)

TABLES: Final = (
    """CREATE TABLE verdicts (
        sha256 TEXT PRIMARY KEY, executable_id INTEGER NOT NULL, verdict TEXT NOT NULL,
        malicious INTEGER NOT NULL, suspicious INTEGER NOT NULL, harmless INTEGER NOT NULL,
        undetected INTEGER NOT NULL, checked REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE VIEW executable_log AS SELECT
        k.first_seen, k.last_seen, e.exe, k.name, e.sha256, k.size, p.exe AS pexe,
        p.sha256 AS psha256, k.namespace, k.pod, k.container, v.verdict, v.malicious, v.suspicious,
        v.harmless, v.undetected, v.checked
        FROM known_executables k
        LEFT JOIN executables e ON e.id = k.executable_id
        LEFT JOIN executables p ON p.id = k.parent_id
        LEFT JOIN verdicts v ON v.sha256 = e.sha256""",
)
"""In the view, times are Unix seconds; `last_seen` is 0 for what was only imported, and the columns
of the verdict are NULL where VirusTotal has not been asked."""
MAX_LOADED: Final = 65_536

_UPSERT: Final = """
    INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    executable_id = excluded.executable_id, verdict = excluded.verdict,
    malicious = excluded.malicious, suspicious = excluded.suspicious,
    harmless = excluded.harmless, undetected = excluded.undetected, checked = excluded.checked"""
_ADD: Final = "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


def save(
    connection: sqlite3.Connection, dictionary: Dictionary, verdicts: Iterable[KnownVerdict]
) -> None:
    """Saves verdicts in place of older ones."""
    connection.executemany(_UPSERT, _values(dictionary, verdicts))


def add(
    connection: sqlite3.Connection, dictionary: Dictionary, verdicts: Iterable[KnownVerdict]
) -> None:
    """Saves verdicts where there are none."""
    connection.executemany(_ADD, _values(dictionary, verdicts))


def load(
    connection: sqlite3.Connection,
    word: Callable[[str], str],
    path: Callable[[str], str],
) -> Iterator[KnownVerdict]:
    """The verdicts, latest first; `word` and `path` make one object of equal texts.

    Raises
    ------
    ValueError, TypeError
        if something has a value or type that nothing was ever saved with.
    """
    rows = connection.execute(
        "SELECT v.sha256, e.exe, v.verdict, v.malicious, v.suspicious, v.harmless, v.undetected,"
        " v.checked FROM (SELECT * FROM verdicts ORDER BY checked DESC LIMIT ?) v"
        " CROSS JOIN executables e ON e.id = v.executable_id",
        (MAX_LOADED,),
    )
    for row in rows:
        yield KnownVerdict(
            sha256=Sha256(word(row[0])),
            exe=path(row[1]),
            result=VirusTotalResult(
                verdict=Verdict(row[2]),
                malicious=int(row[3]),
                suspicious=int(row[4]),
                harmless=int(row[5]),
                undetected=int(row[6]),
                checked_seconds=float(row[7]),
            ),
        )


def _values(
    dictionary: Dictionary, verdicts: Iterable[KnownVerdict]
) -> Iterator[tuple[str | int | float, ...]]:
    for known in verdicts:
        result = known.result
        yield (
            known.sha256,
            dictionary.executable(Executable(sha256=known.sha256, exe=known.exe)),
            result.verdict,
            result.malicious,
            result.suspicious,
            result.harmless,
            result.undetected,
            result.checked_seconds,
        )
