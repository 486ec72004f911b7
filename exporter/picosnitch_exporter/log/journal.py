"""The journal: what has been received and is not yet part of a committed transaction.

A folder of segments, each a magic number and then frames: length, CRC-32 of length and payload,
payload. Nothing is synced to the disk: the page cache survives the death of the process, which is
what the journal is for. After a crash of the machine the counters start anew anyway.
"""

import errno
import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from picosnitch_exporter.errors import StorageBusyError, StorageError, StorageFullError
from picosnitch_exporter.log.files import make_folder, open_private, translate, write_whole
from picosnitch_exporter.logging_format import Event, Value

LIMIT_BYTES = 256 * 1024 * 1024
_MAGIC = b"PSJ00001"
_LENGTH = struct.Struct("=I")
_HEADER = struct.Struct("=II")
_MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Far above a frame of the stream; a longer length is a damaged one."""
_NAME_DIGITS = 10
_RELEASE_POLL_SECONDS = 0.05

_log = logging.getLogger(__name__)


class JournalFullError(StorageFullError):
    """The journal takes no more until segments are forgotten or the disk has room again."""


class Journal:
    """Opaque byte strings, kept in order until they are forgotten.

    One process at a time: the folder is locked. Not safe for use by two threads at once.

    Raises
    ------
    StorageBusyError
        if another process has the journal.
    StorageError
        if the folder can't be used.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        make_folder(folder)
        self._lock = _lock(folder)
        self._sizes = {number: path.lstat().st_size for number, path in _segments(folder)}
        self._used_bytes = sum(self._sizes.values())
        self._last = max(self._sizes, default=0)
        self._descriptor: int | None = None
        self.corrupt_segments = 0
        """Segments of which a part could not be replayed."""
        self.torn_tails = 0
        """Segments that ended within a frame: nobody had been told that it was safe."""

    @property
    def used_bytes(self) -> int:
        """Of all segments together."""
        return self._used_bytes

    @property
    def limit_bytes(self) -> int:
        """What `used_bytes` never exceeds."""
        return self._limit_bytes

    def append(self, payload: bytes) -> None:
        """Adds one byte string; once this returns, the death of this process can't lose it.

        Raises
        ------
        JournalFullError
            if the bound is reached or the disk is full; nothing has been added.
        StorageError
            if the file can't be written; nothing has been added.
        """
        frame = _frame(payload)
        opening = 0 if self._descriptor is not None else len(_MAGIC)
        if self._used_bytes + opening + len(frame) > self._limit_bytes:
            raise JournalFullError(
                f"the journal in {self._folder} has reached its {self._limit_bytes} bytes: "
                "the log can't be written, see its errors",
            )
        if self._descriptor is None:
            self._open_next()
        self._write(frame)

    def rotate(self) -> int:
        """Ends the current segment; the number of the last segment that has ended."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return self._last

    def replay(self, after: int) -> Iterator[bytes]:
        """What was appended by earlier processes and is in no committed segment, in order.

        Segments up to `after` are forgotten at once, and no new one gets a number that low. To be
        called before the first `append`. Each segment is read as the iterator gets there.

        Raises
        ------
        StorageError
            if a segment can't be read.
        """
        self.forget(after)
        self._last = max(self._last, after)
        return self._replay(sorted(self._sizes))

    def forget(self, up_to: int) -> None:
        """Deletes the segments up to this number, except the current one.

        Raises
        ------
        StorageError
            if one can't be deleted.
        """
        current = self._last if self._descriptor is not None else 0
        for number in sorted(self._sizes):
            if number > up_to or number == current:
                continue
            path = self._path(number)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise translate(error, f"cannot delete {path}") from error
            self._used_bytes -= self._sizes.pop(number)

    def close(self) -> None:
        """Gives the journal up; another process may open it."""
        self.rotate()
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:0{_NAME_DIGITS}}.bin"

    def _open_next(self) -> None:
        number = self._last + 1
        path = self._path(number)
        try:
            self._descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except StorageFullError as error:
            raise JournalFullError(str(error)) from error
        self._last = number
        self._sizes[number] = 0
        try:
            self._write(_MAGIC)
        except StorageError:
            # An empty segment: the next one gets the next number.
            self.rotate()
            raise

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            raise AssertionError("no open segment")
        before = self._sizes[self._last]
        try:
            write_whole(self._descriptor, data)
        except OSError as error:
            self._roll_back(before)
            problem = translate(error, f"cannot write the journal {self._path(self._last)}")
            if isinstance(problem, StorageFullError):
                raise JournalFullError(str(problem)) from error
            raise problem from error
        self._sizes[self._last] = before + len(data)
        self._used_bytes += len(data)

    def _roll_back(self, size_bytes: int) -> None:
        if self._descriptor is None:
            raise AssertionError("no open segment")
        try:
            os.ftruncate(self._descriptor, size_bytes)
            os.lseek(self._descriptor, size_bytes, os.SEEK_SET)
        except OSError as error:
            # The torn frame ends this segment, as after a kill; what follows goes to another one.
            _log.warning(
                Event("journal_roll_back_failed", {"segment": self._last, "error": str(error)})
            )
            self.rotate()

    def _replay(self, numbers: list[int]) -> Iterator[bytes]:
        for number in numbers:
            yield from self._replay_segment(number)

    def _replay_segment(self, number: int) -> Iterator[bytes]:
        path = self._path(number)
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as segment:
            size_bytes = self._sizes[number]
            try:
                yield from _frames(segment, size_bytes)
            except OSError as error:
                raise translate(error, f"cannot read the journal {path}") from error
            except _DamageError as damage:
                left_out: dict[str, Value] = {
                    "file": str(path),
                    "bytes": size_bytes - damage.offset,
                }
                if damage.is_torn:
                    self.torn_tails += 1
                    _log.info(Event("journal_torn_tail", left_out))
                else:
                    self.corrupt_segments += 1
                    _log.exception(Event("journal_corrupt", left_out))


def await_release(folder: Path, *, timeout_seconds: float) -> None:
    """Gives an exporter that is about to end the time to write its last commit.

    Whether it has ended in time, opening the journal tells.
    """
    deadline = time.monotonic() + timeout_seconds
    while folder.exists():
        try:
            os.close(_lock(folder))
        except StorageBusyError:
            if time.monotonic() >= deadline:
                return
            time.sleep(_RELEASE_POLL_SECONDS)
        else:
            return


class _DamageError(Exception):
    def __init__(self, offset: int, *, is_torn: bool) -> None:
        super().__init__(f"no whole frame at offset {offset}")
        self.offset = offset
        self.is_torn = is_torn


def _frame(payload: bytes) -> bytes:
    length = _LENGTH.pack(len(payload))
    return _HEADER.pack(len(payload), zlib.crc32(payload, zlib.crc32(length))) + payload


def _frames(segment: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    magic = segment.read(len(_MAGIC))
    if magic != _MAGIC:
        raise _DamageError(0, is_torn=_MAGIC.startswith(magic))
    offset = len(_MAGIC)
    while offset < size_bytes:
        header = segment.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise _DamageError(offset, is_torn=True)
        length, checksum = _HEADER.unpack(header)
        if length > _MAX_PAYLOAD_BYTES:
            raise _DamageError(offset, is_torn=False)
        payload = segment.read(length)
        if len(payload) < length:
            raise _DamageError(offset, is_torn=True)
        if zlib.crc32(payload, zlib.crc32(header[: _LENGTH.size])) != checksum:
            raise _DamageError(offset, is_torn=False)
        offset += _HEADER.size + length
        yield payload


def _segments(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("*.bin"):
        if path.stem.isascii() and path.stem.isdigit():
            yield int(path.stem), path


def _lock(folder: Path) -> int:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise translate(error, f"cannot open {folder}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise StorageBusyError(
                f"another exporter uses {folder.parent}: stop it, or set another storage.path",
            ) from error
        raise translate(error, f"cannot lock {folder}") from error
    return descriptor
