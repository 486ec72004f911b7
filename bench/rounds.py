"""Measuring several variants in turns, so that what else the machine does meets them all."""

import random
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bench.rivals import UnavailableError

Variant = Callable[[], AbstractContextManager[object]]
"""Sets something up, and takes it down again."""


@dataclass(slots=True, kw_only=True)
class Found:
    """Values by variant and what was measured, one of each round; and why some are missing."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, variant: str, what: str) -> float:
        """Of all rounds."""
        return statistics.median(self.values[variant][what])

    def ratios(self, variant: str, baseline: str, what: str) -> list[float]:
        """Of a variant to another one, round by round."""
        pairs = zip(self.values[variant][what], self.values[baseline][what], strict=True)
        return [one / other for one, other in pairs]


def in_turns(
    variants: Mapping[str, Variant],
    measure: Callable[[object], Mapping[str, float]],
    *,
    rounds: int,
) -> Found:
    """Measures each variant once in each round, in another order each time.

    `measure` gets what the variant's context manager gives. A variant that can't run here is left
    out, with its reason.
    """
    found = Found()
    source = random.Random(1)  # noqa: S311 repeatable
    order = list(variants)
    for number in range(rounds):
        source.shuffle(order)
        for name in order:
            if name in found.missing:
                continue
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            try:
                with variants[name]() as given:
                    values = measure(given)
            except UnavailableError as error:
                found.missing[name] = str(error)
                continue
            for what, value in values.items():
                found.values.setdefault(name, {}).setdefault(what, []).append(value)
    return found


def row(*cells: str) -> None:
    """Prints a row of a table in Markdown, at once."""
    print(f"| {' | '.join(cells)} |", flush=True)


def head(*cells: str) -> None:
    """Prints the head of a table."""
    row(*cells)
    row(*("---" for _ in cells))


def spread(values: list[float], *, digits: int = 2) -> tuple[str, str, str]:
    """Median, least and most, as cells."""
    cells = (statistics.median(values), min(values), max(values))
    return tuple(f"{value:.{digits}f}" for value in cells)  # type: ignore[return-value]


def missing(found: Found) -> None:
    """Prints what could not be compared with, and why."""
    for name, reason in found.missing.items():
        print(f"\nNot compared: {name} ({reason}).")
