"""Rows as the body of a batch that waits for a server: compressed JSON, each program once."""

import json
import zlib
from typing import Final

from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.model import Direction, LogRow, Program, Sha256

_VERSION: Final = 1
_FAST: Final = 1
"""zlib's level: rows repeat so much that more effort gains little."""


def encode_rows(rows: tuple[LogRow, ...]) -> bytes:
    """Rows as bytes."""
    numbers: dict[Program, int] = {}
    encoded = [
        (
            row.contime,
            row.send_bytes,
            row.receive_bytes,
            row.events,
            numbers.setdefault(row.program, len(numbers)),
            numbers.setdefault(row.parent, len(numbers)),
            numbers.setdefault(row.grandparent, len(numbers)),
            row.uid,
            row.protocol,
            row.direction,
            row.local_port,
            row.remote_port,
            row.local_address,
            row.remote_address,
            row.domain,
            row.netns,
            row.container,
        )
        for row in rows
    ]
    programs = [(each.exe, each.name, each.cmdline, each.sha256) for each in numbers]
    text = json.dumps((_VERSION, programs, encoded), separators=(",", ":"))
    return zlib.compress(text.encode("ascii"), _FAST)


def decode_rows(body: bytes) -> tuple[LogRow, ...]:
    """The rows of a body.

    Raises
    ------
    StorageError
        if this version has not written it.
    """
    try:
        version, programs_text, rows = json.loads(zlib.decompress(body))
        if version != _VERSION:
            raise StorageError(f"rows of version {version} wait, this is version {_VERSION}")
        programs = [
            Program(exe=exe, name=name, cmdline=cmdline, sha256=Sha256(sha256))
            for exe, name, cmdline, sha256 in programs_text
        ]
        return tuple(
            LogRow(
                contime=row[0],
                send_bytes=row[1],
                receive_bytes=row[2],
                events=row[3],
                program=programs[row[4]],
                parent=programs[row[5]],
                grandparent=programs[row[6]],
                uid=row[7],
                protocol=row[8],
                direction=Direction(row[9]),
                local_port=row[10],
                remote_port=row[11],
                local_address=row[12],
                remote_address=row[13],
                domain=row[14],
                netns=row[15],
                container=row[16],
            )
            for row in rows
        )
    except (zlib.error, ValueError, TypeError, IndexError) as error:
        raise StorageError(f"rows that wait can't be read: {error}") from error
