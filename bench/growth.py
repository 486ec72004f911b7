"""What grows with sockets, executables and rows, at 1, 10 and 100 times as many; plots of each.

::

    sudo .venv/bin/python -m bench.growth [FOLDER [DIVISOR]]

The plots go to FOLDER (docs/growth). An exponent of 1 is growth as fast as that of the input, 0 is
none; what every exporter takes without any input is in the figures, so that they begin flat.
DIVISOR makes the numbers of sockets and executables smaller, to try it.
"""

import math
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench import log, memory, plot, rounds
from bench.loops import ROOT, Loops
from bench.running import Running
from bench.scrape import milliseconds
from bench.usage import Drains, pss_megabytes, share_of_a_core

SOCKETS = (100, 1_000, 10_000)
EXECUTABLES = (20, 200, 2_000)
ROWS = (10_000, 100_000, 1_000_000)
BUSY_SECONDS = 11.0
"""Two reports of the sensor, which counts its drains each 5 s."""
COMMITTED_SECONDS = 12.0
Figures = dict[str, list[tuple[float, float]]]


def by_sockets(sizes: list[int]) -> Figures:
    """Sockets that send once a second."""
    found: Figures = {}
    with Loops.built() as loops, Running.start() as running:
        for size in sizes:
            with loops.load("busy", "600", str(size)):
                time.sleep(BUSY_SECONDS)
                drains = Drains(running.address)
                share = share_of_a_core(running.pids(), BUSY_SECONDS)
                _note(
                    found,
                    size,
                    {
                        "user space, % of a core": 100 * share,
                        "a drain, ms": drains.mean_milliseconds(),
                        "memory, MB": pss_megabytes(running.pids()),
                    },
                )
    return found


def by_executables(sizes: list[int]) -> Figures:
    """Executables that have sent a datagram."""
    found: Figures = {}
    with Running.start() as running:
        before = 0
        for size in sizes:
            memory.talk(size - before, first=before)
            before = size
            time.sleep(COMMITTED_SECONDS)
            _note(
                found,
                size,
                {
                    "a scrape, ms": milliseconds(running.address)[0],
                    "memory, MB": pss_megabytes(running.pids()),
                },
            )
    return found


def by_rows(sizes: list[int]) -> Figures:
    """Rows of a day in SQLite."""
    found: Figures = {}
    for one in sizes:
        with tempfile.TemporaryDirectory() as folder:  # each fills a day
            for size, values in log.sqlite_figures(Path(folder), [one]):
                _note(found, size, values)
    # Of a rate, growth would be good: as time it is the other way round.
    rates = found.pop(log.ROWS_A_SECOND)
    found["writing a row, µs"] = [(size, 1e6 / rate) for size, rate in rates]
    return found


def main() -> None:
    """Measure, print and draw."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/growth"
    divisor = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sockets, executables = ([size // divisor for size in of] for of in (SOCKETS, EXECUTABLES))
    rounds.head("with", "what", "1 x", "10 x", "100 x", "exponent")
    for name, measure, sizes in (
        ("sockets", by_sockets, sockets),
        ("executables", by_executables, executables),
        ("rows", by_rows, list(ROWS)),
    ):
        found = measure(sizes)
        for what, points in found.items():
            values = [value for _size, value in points]
            growth = math.log(values[-1] / values[0]) / math.log(points[-1][0] / points[0][0])
            cells = (f"{value:,.3g}" for value in values)
            rounds.row(f"{sizes[0]:,} to {sizes[-1]:,} {name}", what, *cells, f"{growth:.2f}")
        plot.write(folder / f"{name}.svg", title=f"Growth with {name}", across=name, curves=found)


def _note(found: Figures, size: int, values: Mapping[str, float]) -> None:
    for what, value in values.items():
        found.setdefault(what, []).append((size, value))


if __name__ == "__main__":
    main()
