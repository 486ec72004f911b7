"""`import-record`: takes over what picosnitch knew, so that nobody is notified of it again."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from picosnitch_exporter.checks import record
from picosnitch_exporter.errors import UsageError
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.settings import Settings

MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """A record.json that was read and not looked at yet."""

    path: Path
    data: bytes
    written_seconds: float


def read(path: Path) -> RecordFile:
    """Reads the file, with the rights of whoever calls.

    Raises
    ------
    UsageError
        if that can't be done.
    """
    try:
        # A FIFO would otherwise wait for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: is not a regular file: name picosnitch's record.json")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: is larger than {MAX_BYTES} bytes: not such a file")
    return RecordFile(path=path, data=data, written_seconds=status.st_mtime)


def run(settings: Settings, file: RecordFile) -> int:
    """Imports it, with the rights of the exporter; the exit code.

    The exporter may be running; what is in its database is never new to it.

    Raises
    ------
    UsageError
        if the file is not of picosnitch's shape.
    StorageError
        if the database can't be written.
    """
    try:
        found = record.parse(file.data, written_seconds=file.written_seconds)
    except UsageError as error:
        raise UsageError(f"{file.path}: {error}") from error
    database = Database(
        settings.storage.path / "snitch.db",
        boot_id="",
        retention_days=settings.log.sqlite.retention_days,
    )
    try:
        new = database.remember(found.executables, found.verdicts)
    finally:
        database.close()
    print(
        f"{file.path}: {len(found.executables)} executables ({new} of them new), "
        f"{len(found.verdicts)} verdicts"
    )
    return 0
