"""The only place that reads configuration files: bounded, regular files, with their mode."""

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.errors import ConfigurationError

MAX_BYTES = 1 << 20
"""Room for 10,000 hashes in `log.ignore`, with comments."""

_MAX_SECRET_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file as it was at one moment."""

    text: str
    mode: int
    """Permission bits."""


def exists(path: Path) -> bool:
    """Whether there is such a file; also where that can't be said, so that reading it will."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> Content:
    """A whole file of UTF-8 text; raises ConfigurationError that names it."""
    data, mode = _read(path, max_bytes)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: is not UTF-8: save it as UTF-8") from error
    return Content(text=text, mode=mode)


def check(path: Path) -> None:
    """Raises as `read` does, but for UTF-8: for a file that a library reads by its name."""
    _read(path, MAX_BYTES)


def read_secret(path: Path) -> str:
    """The secret that a file holds, without white space around it.

    Raises ConfigurationError where it is empty or others can read it. Its group may: that is how
    Kubernetes hands secrets to a process that is not root.
    """
    content = read(path, max_bytes=_MAX_SECRET_BYTES)
    if content.mode & stat.S_IROTH:
        raise ConfigurationError(
            f"{path}: holds a secret, and everybody can read it: run 'chmod o-rwx {_quoted(path)}'"
        )
    secret = content.text.strip()
    if not secret:
        raise ConfigurationError(f"{path}: is empty: write the secret into it")
    return secret


def refuse_readable(path: Path, mode: int, *, secrets: list[str]) -> None:
    """Raises ConfigurationError if `secrets` stand in a file that group or others can read."""
    if secrets and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigurationError(
            f"{path}: holds a secret ({', '.join(secrets)}), and others can read it: "
            f"run 'chmod 600 {_quoted(path)}'"
        )


def _read(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """(content, permission bits)."""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path}: is not a regular file: name one")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise ConfigurationError(f"{str(path)!r}: is not the name of a file: {error}") from error
    if len(data) > max_bytes:
        raise ConfigurationError(f"{path}: is larger than {max_bytes} bytes: not such a file")
    return data, stat.S_IMODE(status.st_mode)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
