"""Processes that have imported what the exporter has, and do nothing: what Python itself takes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.loops import PROGRAMS
from bench.usage import family

_READY = b"ready\n"
_MARKER = "import ctypes, os, sys; ctypes.CDLL(None); os.write(1, b'ready\\n'); os.read(0, 1)"
_NOTHING = "import os; os.write(1, b'ready\\n'); os.read(0, 1)"


@contextmanager
def importing() -> Iterator[tuple[int, ...]]:
    """Sensor, exporter and marker, once they have imported everything; their process numbers."""
    two = [sys.executable, str(PROGRAMS / "imports.py")]
    with _started(two) as parent, _started([sys.executable, "-I", "-S", "-c", _MARKER]) as marker:
        yield (*family(parent), marker)


@contextmanager
def interpreters() -> Iterator[tuple[int, ...]]:
    """As many that have imported nothing; their process numbers."""
    command = [sys.executable, "-I", "-S", "-c", _NOTHING]
    with _started(command) as one, _started(command) as two, _started(command) as three:
        yield one, two, three


@contextmanager
def _started(command: list[str]) -> Iterator[int]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != _READY:
                raise SystemExit(f"{' '.join(command)} has ended early")
            yield process.pid
        finally:
            process.kill()
