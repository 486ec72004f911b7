"""The program that marks filesystems; `marker` starts it, and says why there is one.

::

    python -I -S marking.py SOCKET FANOTIFY

Both are descriptors. The first message is a seccomp filter, as an array of struct sock_filter, or
one byte where there is none; each other one is a path, and is answered by one byte. It imports
nothing that it can do without. Source: fanotify_mark(2), seccomp(2), struct sock_fprog.
"""

import ctypes
import os
import sys

_LONGEST = 65536
_MARK_ADD_FILESYSTEM = 0x1 | 0x100
_OPEN_EXEC = 0x1000
_AT_FDCWD = -100
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main(requests: int, fanotify: int) -> None:
    """Until the other end is closed."""
    libc = ctypes.CDLL(None)
    mark = libc.fanotify_mark
    mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)
    instructions = os.read(requests, _LONGEST)
    length = len(instructions) // _INSTRUCTION_BYTES
    if length:
        # Fails where the kernel has no seccomp: the sensor, which has the same filter, says so.
        program = _Program(length=length, instructions=instructions)
        libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    while path := os.read(requests, _LONGEST):
        refused = mark(fanotify, _MARK_ADD_FILESYSTEM, _OPEN_EXEC, _AT_FDCWD, path)
        os.write(requests, b"\0" if refused else b"\1")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
