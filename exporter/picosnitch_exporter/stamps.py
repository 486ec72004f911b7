"""By what a file is told to have the content that it had: its size and times."""

import os
from typing import NamedTuple

_WRAP = 1 << 64
_SIGN = 1 << 63


class Stamps(NamedTuple):
    """Size in bytes, and modification and change time in nanoseconds of Unix time."""

    size_bytes: int
    modified_ns: int
    changed_ns: int


def stamps_of(status: os.stat_result) -> Stamps:
    """The stamps of a file, each of which fits into 64 bits with a sign.

    Times wrap around, as they do on the kernel side, in whose seconds the year 2262 is not the
    last one: anybody may set a modification time, and a file server has whatever it likes.
    """
    return Stamps(status.st_size, _wrapped(status.st_mtime_ns), _wrapped(status.st_ctime_ns))


def _wrapped(time_ns: int) -> int:
    return (time_ns + _SIGN) % _WRAP - _SIGN
