"""What `bpf.getaddrinfo` costs: at each start of a program, and at each call.

::

    sudo .venv/bin/python -m bench.lookups

Prints Markdown: processor time, medians of rounds that take both ways in turn.
"""

import contextlib
import os
import resource
import socket
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from picosnitch_exporter.sensor.bpf import BpfObject
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.lookups import attach, c_libraries
from picosnitch_exporter.sensor.object_file import read_object

_ROUNDS = 15
_STARTS = 200
_CALLS = 2_000


def main() -> None:
    """Prints the table."""
    print("| what | CPU us without | with | ratio |")
    print("|---|---|---|---|")
    for what, measure in (("start of a program (`/bin/true`)", _start), ("a call", _call)):
        plain, probed = [], []
        for _ in range(_ROUNDS):
            plain.append(measure())
            with _probes():
                probed.append(measure())
        without, with_them = statistics.median(plain), statistics.median(probed)
        print(f"| {what} | {without:.1f} | {with_them:.1f} | {with_them / without:.2f} |")


@contextlib.contextmanager
def _probes() -> Iterator[None]:
    library = Library()
    with BpfObject(library, *read_object()) as bpf:
        links = attach(bpf, {}, list(c_libraries(Path("/"))))
    try:
        yield
    finally:
        for link in links:
            link.close()


def _start() -> float:
    def once() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    return _microseconds(once, _STARTS, resource.RUSAGE_CHILDREN)


def _call() -> float:
    return _microseconds(lambda: socket.getaddrinfo("localhost", 80), _CALLS, resource.RUSAGE_SELF)


def _microseconds(once: Callable[[], object], times: int, whose: int) -> float:
    """Of processor time, for each: others on the machine don't count."""
    before = resource.getrusage(whose)
    for _ in range(times):
        once()
    after = resource.getrusage(whose)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds / times * 1e6


if __name__ == "__main__":
    main()
