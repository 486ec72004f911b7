"""The logs that people read: conn.log, exe.log and error.log in the storage path.

One line is one entry, whatever a process calls itself: line breaks, control characters and those
that reorder a line are cleaned from every value. The files may be rotated by moving them or by
copying and truncating: they are opened for appending, and anew when the name is another file's.
"""

import csv
import io
import logging
import os
import time
from pathlib import Path
from typing import Final

from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.log.files import open_private, translate, write_whole
from picosnitch_exporter.log.schema import storable
from picosnitch_exporter.model import KnownExecutable, KnownVerdict, LogRow

TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S"
"""Local time, as picosnitch writes it."""
REPEAT_SECONDS: Final = 60.0
"""An error that is said again within this time is not written again."""
_MAX_REMEMBERED = 256
_PROBE_BYTES = 64

_BREAKING = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x2028, 0x2029),
    # Directional formatting (UAX 9), with which a line can look like another one.
    *(0x061C, 0x200E, 0x200F),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_SPACES: Final = dict.fromkeys(_BREAKING, " ")


def clean(text: str) -> str:
    """`text` as a part of one line."""
    return storable(text).translate(_SPACES)


def csv_lines(rows: tuple[LogRow, ...]) -> bytes:
    """Lines of conn.log: time, bytes, process, parent, user, ports, addresses and domain."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        program, parent = row.program, row.parent
        writer.writerow(
            (
                _time_text(row.contime),
                row.send_bytes,
                row.receive_bytes,
                clean(program.exe),
                clean(program.name),
                clean(program.cmdline),
                program.sha256,
                clean(parent.exe),
                clean(parent.name),
                clean(parent.cmdline),
                parent.sha256,
                row.uid,
                row.local_port,
                row.remote_port,
                clean(row.local_address),
                clean(row.remote_address),
                clean(row.domain),
            ),
        )
    return text.getvalue().encode()


def executable_lines(executables: tuple[KnownExecutable, ...], now: float) -> bytes:
    """Lines of exe.log for executables that have never been seen before, as in picosnitch."""
    lines = []
    for known in executables:
        exe = clean(known.executable.exe)
        lines.append(f"{_time_text(now)} {clean(known.name)} {exe} (new name, exe)\n")
        if known.executable.sha256:
            short = known.executable.sha256[:16]
            lines.append(f"{_time_text(now)} {short} {exe} (new hash)\n")
    return "".join(lines).encode()


def verdict_lines(verdicts: tuple[KnownVerdict, ...], now: float) -> bytes:
    """Lines of exe.log for what VirusTotal has said."""
    return "".join(
        f"{_time_text(now)} {known.sha256[:16]} {clean(known.exe)} ({known.result.verdict})\n"
        for known in verdicts
    ).encode()


class TextFile:
    """A file that is only ever appended to. Not safe for use by two threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def append(self, data: bytes) -> None:
        """Adds whole lines, or nothing.

        Raises
        ------
        StorageFullError
            if the disk is full.
        StorageError
            if the file can't be written.
        """
        descriptor = self._open()
        before = os.fstat(descriptor).st_size
        try:
            write_whole(descriptor, data)
        except OSError as error:
            self._cut(before)
            raise translate(error, f"cannot write {self._path}") from error

    def end(self) -> str:
        """Which file it is, and where it ends.

        Raises
        ------
        StorageError
            if the file can't be opened.
        """
        state = os.fstat(self._open())
        return f"{state.st_dev} {state.st_ino} {state.st_size}"

    def finish(self, data: bytes, *, before: str = "") -> None:
        """Adds those bytes of `data` that an append() which was killed has not added.

        `before` is the `end` that it had found: lines before it may be the same as the first ones
        of `data`. Where it is none of this file, all of the file may be that append's.

        Raises
        ------
        StorageError
            as `append` does.
        """
        descriptor = self._open()
        size_bytes = os.fstat(descriptor).st_size
        file, _space, begin = before.rpartition(" ")
        is_known = self.end().startswith(f"{file} ") and begin.isdecimal()
        start = int(begin) if is_known and int(begin) <= size_bytes else 0
        try:
            end = os.pread(descriptor, len(data), max(start, size_bytes - len(data)))
        except OSError as error:
            raise translate(error, f"cannot read {self._path}") from error
        written = _already_written(end, data)
        if written < len(data):
            self.append(data[written:])

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is not None:
            try:
                named = self._path.lstat()
            except OSError:
                named = None
            ours = os.fstat(self._descriptor)
            if named and (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
                return self._descriptor
            self.close()
        self._descriptor = open_private(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        return self._descriptor

    def _cut(self, size_bytes: int) -> None:
        try:
            os.ftruncate(self._open(), size_bytes)
        except (OSError, StorageError):
            # What is left of the torn line runs into the next one: nothing better can be done.
            self.close()


class ErrorLog(logging.Handler):
    """error.log: what this program says about its own errors, in one line each."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._file = TextFile(path)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record; where that fails, it has still been said on standard error."""
        try:
            text = clean(record.getMessage())
            now = time.monotonic()
            if now - self._said.get(text, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return
            if len(self._said) >= _MAX_REMEMBERED:
                self._said.clear()
            self._said[text] = now
            self._file.append(f"{_time_text(record.created)} {text}\n".encode())
        except (StorageError, OSError, ValueError, TypeError):
            # Logging this would come back here.
            return

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def _already_written(end: bytes, data: bytes) -> int:
    """Length of the longest beginning of `data` that `end` ends with."""
    probe = data[:_PROBE_BYTES]
    whole, tail = memoryview(data), memoryview(end)
    at = end.find(probe)
    while at >= 0:
        length = len(end) - at
        if whole[:length] == tail[at:]:
            return length
        at = end.find(probe, at + 1)
    return next(
        (length for length in range(len(probe) - 1, 0, -1) if end.endswith(probe[:length])),
        0,
    )


def _time_text(seconds: float) -> str:
    return time.strftime(TIME_FORMAT, time.localtime(seconds))
