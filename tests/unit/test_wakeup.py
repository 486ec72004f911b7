"""`ebpf/wakeup.h`, compiled for this machine: plain arithmetic, the same in all plans."""

import ctypes
import random
import subprocess
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

HEADER = Path(__file__).parents[2] / "ebpf/wakeup.h"
SOURCE = f"""
#include <stdbool.h>
#define __always_inline inline
typedef unsigned long long __u64;
enum {{ BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 }};
#include "{HEADER}"
bool wakes(__u64 fill, __u64 mark, __u64 bytes)
{{
	return wakeup_at(fill, mark, bytes) == BPF_RB_FORCE_WAKEUP;
}}
"""
MARK, STEP, RING = 65536, 16384, 262144
RING_HEADER = 8
FLOW, LONGEST = 144, 1264

Wakes = Callable[[int, int, int], bool]


@pytest.fixture(scope="module")
def wakes(tmp_path_factory: pytest.TempPathFactory) -> Wakes:
    library = tmp_path_factory.mktemp("wakeup") / "wakeup.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"],
        input=SOURCE,
        text=True,
        check=True,
    )
    function = ctypes.CDLL(str(library)).wakes
    function.argtypes = (ctypes.c_uint64,) * 3
    function.restype = ctypes.c_bool
    return function


def waking_fills(wakes: Wakes, records: Sequence[int]) -> list[int]:
    """How full the ring is at each record that wakes, while nobody reads."""
    fills = accumulate(size + RING_HEADER for size in records)
    return [fill for fill, size in zip(fills, records, strict=True) if wakes(fill, MARK, size)]


def test_no_record_wakes_when_the_ring_is_below_its_mark(wakes: Wakes) -> None:
    assert waking_fills(wakes, [FLOW] * (MARK // (FLOW + RING_HEADER))) == []


def test_each_step_wakes_once_or_twice_when_all_records_are_alike(wakes: Wakes) -> None:
    fills = waking_fills(wakes, [FLOW] * (RING // (FLOW + RING_HEADER)))

    steps = [(fill - MARK) // STEP for fill in fills]
    assert set(steps) == set(range((RING - MARK) // STEP))
    assert max(steps.count(step) for step in steps) <= 2


def test_each_step_wakes_when_records_are_of_any_length(wakes: Wakes) -> None:
    source = random.Random(1)  # noqa: S311 - repeatable
    for _ in range(200):
        records = [source.randrange(32, LONGEST, 8) for _ in range(RING // FLOW)]

        steps = {(fill - MARK) // STEP for fill in waking_fills(wakes, records)}

        assert steps >= set(range((RING - MARK) // STEP))


def test_a_step_wakes_when_two_cpus_begin_it_at_once(wakes: Wakes) -> None:
    # Both have reserved before either looks: each sees the fill with both records in it.
    both = 2 * (FLOW + RING_HEADER)

    assert all(wakes(fill, MARK, FLOW) for fill in range(MARK, MARK + both, 8))
