"""What the C library's allocator holds of memory that is free.

It is made for programs of many busy threads, on machines where memory is cheap. Another C library
than glibc has none of these functions, and nothing happens. Source: mallopt(3), malloc_trim(3).
"""

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_THRESHOLD_BYTES = 128 * 1024


def hold_little() -> None:
    """One arena for all threads, and what is big goes back at once. To be called before there are.

    Threads of Python take turns anyway, and each arena holds a part of what was ever used in it.
    That what is big is mapped is the default, but only until the first of it is given back.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(_M_ARENA_MAX, 1)
        adjust(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def give_back() -> None:
    """Returns whole free pages to the system, also those in the middle; 0.5 ms of time."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
