"""Files of the storage path, opened as a root-started daemon has to: private, and never a symlink.

Errors of the system come out as errors of the storage, which the caller can wait out or report.
"""

import errno
import os
import stat
from pathlib import Path

from picosnitch_exporter.errors import StorageError, StorageFullError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def translate(error: OSError, what: str) -> StorageError:
    """A system error as the matching `StorageError`; `what` says what was tried, on which path."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return StorageFullError(f"{what}: {reason}: free some space")
    return StorageError(f"{what}: {reason}")


def make_folder(folder: Path) -> None:
    """Makes a private folder, or checks the one that is there.

    Raises
    ------
    StorageError
        if it can't be made, or is a symlink or a file.
    """
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise StorageError(f"{folder} is not a folder (a symlink?): move it away")
    except OSError as error:
        raise translate(error, f"cannot make the folder {folder}") from error


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a regular file with one name, made with mode 0600 where `flags` say so.

    Raises
    ------
    StorageError
        if it is a symlink, has other names (hard links), or can't be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(f"{path} is a symlink: move it away") from error
        raise translate(error, f"cannot open {path}") from error
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        os.close(descriptor)
        raise StorageError(f"{path} is not a file of its own (a hard link?): move it away")
    return descriptor


def write_whole(descriptor: int, data: bytes) -> None:
    """All of `data`, in as many calls as it takes.

    Raises
    ------
    OSError
        as write() does; part of the data may have been written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
