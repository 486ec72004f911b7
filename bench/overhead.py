"""What counting costs those who send: the same loops with and without, in turns, as ratios.

::

    sudo .venv/bin/python -m bench.overhead [ROUNDS]

Prints Markdown. Each round runs every loop once without anything, with the exporter, with one that
has a large ring, with programs that do nothing on the two tracepoints, with such on each hook that
the exporter has, with the least that counts at each socket, with a hash by tuple, and with
bpftrace; what is shown is the median of the rounds' ratios.
"""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from bench import designs, rivals, rounds
from bench.loops import Loops
from bench.running import Running

LOOPS = {
    "64 byte UDP, connected": ("udp", "150000"),
    "64 byte UDP, by address": ("udp-peer", "150000"),
    "64 byte UDP, from 10,000 sockets": ("many", "150000"),
    "64 byte TCP ping-pong": ("tcp", "40000"),
    "bulk TCP": ("bulk", "3000"),
    "20,000 times TCP connect and close": ("connect", "20000"),
    "fork and exec of /bin/true, which is known": ("exec", "1000"),
}
WITHOUT, WITH = "without", "exporter"
ROOMY_PAGES = 4096
"""All that a loop has to say finds room, which it does not in the 64 pages that are the default."""
DEFAULT_ROUNDS = 7


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    with Loops.built() as loops:
        variants: dict[str, rounds.Variant] = {
            WITHOUT: nullcontext,
            WITH: Running.start,
            "exporter, with a ring of 16 MB": partial(Running, ring_pages=ROOMY_PAGES),
            "programs that do nothing": partial(designs.attached, loops, "empty"),
            "programs that do nothing, on each hook": partial(designs.attached, loops, "hooks"),
            "the least that counts, on each hook": partial(designs.attached, loops, "storage"),
            "hash by tuple": partial(designs.attached, loops, "tuple"),
            "bpftrace, sum on the tracepoints": partial(rivals.bpftrace, rivals.ON_TRACEPOINTS),
            "bpftrace, sum on the calls": partial(rivals.bpftrace, rivals.ON_CALLS),
        }

        def measure(_given: object) -> Mapping[str, float]:
            return {name: loops.nanoseconds(arguments) for name, arguments in LOOPS.items()}

        found = rounds.in_turns(variants, measure, rounds=number)
    rounds.head(f"loop, time over that without, {number} rounds", "with", "median", "min", "max")
    for loop in LOOPS:
        for variant in variants:
            if variant != WITHOUT and variant in found.values:
                ratios = found.ratios(variant, WITHOUT, loop)
                rounds.row(loop, variant, *rounds.spread(ratios))
    rounds.missing(found)
    print()
    rounds.head("loop, nothing attached", "ns a round")
    for loop in LOOPS:
        rounds.row(loop, f"{found.median(WITHOUT, loop):.0f}")


if __name__ == "__main__":
    main()
