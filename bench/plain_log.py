"""picosnitch's published schema written the obvious way: one table, and each row has all texts.

Without an index, as published; each batch is a transaction. To compare with: nothing else uses it.
"""

import contextlib
import sqlite3
from pathlib import Path

from picosnitch_exporter.model import LogRow

_COLUMNS = (
    "contime",
    "send",
    "recv",
    "exe",
    "name",
    "cmdline",
    "sha256",
    "pexe",
    "pname",
    "pcmdline",
    "psha256",
    "uid",
    "lport",
    "rport",
    "laddr",
    "raddr",
    "domain",
)


class PlainLog:
    """A database with the one table."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.execute(f"CREATE TABLE connections ({', '.join(_COLUMNS)})")

    def write(self, rows: tuple[LogRow, ...]) -> None:
        """One transaction."""
        marks = ", ".join("?" for _ in _COLUMNS)
        with self._connection:
            self._connection.executemany(
                f"INSERT INTO connections VALUES ({marks})",  # noqa: S608 - question marks
                map(_values, rows),
            )

    def top_ten(self, since: int) -> list[tuple[str, int]]:
        """Executables by bytes."""
        found = self._connection.execute(
            "SELECT exe, sum(send + recv) FROM connections WHERE contime >= ?"
            " GROUP BY exe ORDER BY 2 DESC LIMIT 10",
            (since,),
        )
        with contextlib.closing(found):
            return found.fetchall()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def _values(row: LogRow) -> tuple[object, ...]:
    program, parent = row.program, row.parent
    return (
        row.contime,
        row.send_bytes,
        row.receive_bytes,
        program.exe,
        program.name,
        program.cmdline,
        program.sha256,
        parent.exe,
        parent.name,
        parent.cmdline,
        parent.sha256,
        row.uid,
        row.local_port,
        row.remote_port,
        row.local_address,
        row.remote_address,
        row.domain,
    )
