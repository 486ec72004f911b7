"""Processor time of user space, of the exporter and of others, with and without load; drains.

::

    sudo .venv/bin/python -m bench.processor [ROUNDS [SECONDS]]
"""

import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from bench import rivals, rounds
from bench.loops import Loops
from bench.running import Running
from bench.usage import Drains, family, share_of_a_core

DEFAULT_ROUNDS, DEFAULT_SECONDS = 3, 6.0
"""The sensor reports its drains each 5 s."""
SETTLE_SECONDS = 1.0
LOADS = {
    "idle": (),
    "10,000 idle sockets": ("idle", "600"),
    "10,000 sockets busy each second": ("busy", "600"),
    "1,000 closes a second": ("closes", "600"),
}
DRAIN = ", a drain in ms"


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_SECONDS
    with Loops.built() as loops:
        variants: dict[str, rounds.Variant] = {
            "exporter": Running.start,
            "nethogs": rivals.nethogs,
            "bpftrace, sum on the tracepoints": partial(rivals.bpftrace, rivals.ON_TRACEPOINTS),
            "bcc's tcptop": rivals.tcptop,
        }

        def measure(given: object) -> Mapping[str, float]:
            values: dict[str, float] = {}
            running = given if isinstance(given, Running) else None
            assert running or isinstance(given, int)
            pids = running.pids() if running else family(int(str(given)))
            for name, arguments in LOADS.items():
                load: AbstractContextManager[None] = (
                    loops.load(*arguments) if arguments else nullcontext()
                )
                with load:
                    time.sleep(SETTLE_SECONDS)
                    drains = Drains(running.address) if running else None
                    values[name] = 100 * share_of_a_core(pids, seconds)
                    if drains is not None:
                        values[name + DRAIN] = drains.mean_milliseconds()
            return values

        found = rounds.in_turns(variants, measure, rounds=number)
    rounds.head(f"user space, % of a core, {number} rounds", "of", "median", "min", "max")
    for load in LOADS:
        for variant, values in found.values.items():
            rounds.row(load, variant, *rounds.spread(values[load]))
    print()
    rounds.head("a drain of the exporter, ms", "median", "min", "max")
    for load in LOADS:
        rounds.row(load, *rounds.spread(found.values["exporter"][load + DRAIN]))
    rounds.missing(found)


if __name__ == "__main__":
    main()
