import os

import pytest

from picosnitch_exporter import descriptors


def test_nothing_is_raised_when_closing_fails() -> None:
    """A file server's answers come the same way as the one for what is closed already."""
    reading, writing = os.pipe()
    os.close(writing)
    descriptors.close(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    descriptors.close(reading)
