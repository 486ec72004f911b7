"""Descriptors of files that others have chosen."""

import contextlib
import os


def close(descriptor: int) -> None:
    """Closes the descriptor of a file that was only read, whatever its file server says to that.

    A FUSE server may answer with any error, as one does that has just ended; the descriptor is
    closed all the same (close(2)), and nothing was written that could be lost.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)
