"""The time of the BPF programs themselves, by the kernel's run statistics, above empty programs.

::

    sudo .venv/bin/python -m bench.kernel [ROUNDS]

A call is a send or a receive; all programs that run for it count, those that see its packets
too. Empty programs on the two tracepoints, empty programs on each hook that the exporter has there,
the least that counts at each socket, and a hash by tuple take their turns in the same rounds.
"""

import statistics
import sys
from collections.abc import Mapping
from functools import partial

from bench import designs, rounds
from bench.loops import Loops

LOOPS = {
    "one socket": ("udp", "200000"),
    "one socket, by address": ("udp-peer", "200000"),
    "10,000 sockets": ("many", "200000"),
    "TCP, one socket": ("tcp", "40000"),
}
EVENTS = {
    "connect and close": ("connect", "10000"),
    "exec of what is known": ("exec", "1000"),
}
CALLS = {"udp": 2, "udp-peer": 2, "many": 2, "tcp": 4, "connect": 1, "exec": 1}
"""In each round."""
EMPTY, HOOKS, LEAST, TUPLE, WITH = (
    "empty",
    "empty, on each hook",
    "the least that counts",
    "hash by tuple",
    "exporter",
)
ABOVE = ((WITH, EMPTY), (WITH, HOOKS), (WITH, LEAST), (LEAST, EMPTY), (TUPLE, EMPTY))
DEFAULT_ROUNDS = 5


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    by_program: dict[str, dict[str, list[float]]] = {}
    with Loops.built() as loops, designs.statistics_on():
        variants: dict[str, rounds.Variant] = {
            EMPTY: partial(designs.attached, loops, "empty"),
            HOOKS: partial(designs.attached, loops, "hooks"),
            LEAST: partial(designs.attached, loops, "storage"),
            TUPLE: partial(designs.attached, loops, "tuple"),
            WITH: designs.exporters,
        }

        def measure(given: object) -> Mapping[str, float]:
            assert isinstance(given, designs.Programs)
            values = {}
            for name, arguments in (LOOPS | EVENTS).items():
                spent = given.spent(loops, arguments)
                count = int(arguments[1])
                values[name] = spent.of_all() / (count * CALLS[arguments[0]])
                for program, runs in spent.runs.items():
                    if runs >= count * 0.9:
                        cost = spent.nanoseconds[program] / runs
                        by_program.setdefault(name, {}).setdefault(program, []).append(cost)
            return values

        found = rounds.in_turns(variants, measure, rounds=number)
    above = [f"{one} above {other}" for one, other in ABOVE]
    rounds.head("program time per call, ns", *variants, *above)
    for loop in LOOPS:
        cells = [f"{found.median(variant, loop):.0f}" for variant in variants]
        for one, other in ABOVE:
            pairs = zip(found.values[one][loop], found.values[other][loop], strict=True)
            cells.append(f"{statistics.median(more - less for more, less in pairs):.0f}")
        rounds.row(loop, *cells)
    print()
    rounds.head("all programs, ns each time, with run statistics on", *variants)
    for event in EVENTS:
        rounds.row(event, *(f"{found.median(variant, event):.0f}" for variant in variants))
    print()
    rounds.head("program", "loop", "ns a run")
    for loop, programs in by_program.items():
        for program, costs in sorted(programs.items()):
            rounds.row(f"`{program}`", loop, f"{statistics.median(costs):.0f}")


if __name__ == "__main__":
    main()
