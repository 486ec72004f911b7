"""Memory and descriptors stay what they are, however long it runs under traffic.

Only with PICOSNITCH_SOAK_SECONDS, as by `PICOSNITCH_SOAK_SECONDS=3600 make soak`.
"""

import logging
import os
import re
import statistics
import time
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.steady import SteadyTraffic

_log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("PICOSNITCH_SOAK_SECONDS", "0"))
LEAST_SECONDS = 1800
"""In the first minutes tables and caches are being filled: the first quarter has to hold them."""
LOOKS = 120
ALLOWED_SHARE = 0.03
ALLOWED_KIBIBYTES = 1024
ALLOWED_DESCRIPTORS = 4


def kibibytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^(?:Pss|Swap): +(\d+) kB$", text, re.MULTILINE))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.usefixtures("privileges")
@pytest.mark.skipif(not SECONDS, reason="PICOSNITCH_SOAK_SECONDS says for how long")
@pytest.mark.timeout(120 + SECONDS)
def test_memory_and_descriptors_are_flat_when_it_runs_for_long(
    shared_generator: Generator,
) -> None:
    if SECONDS < LEAST_SECONDS:
        pytest.fail(
            f"PICOSNITCH_SOAK_SECONDS={SECONDS:.0f} is too short to tell: at least {LEAST_SECONDS}"
        )
    memory: dict[str, list[int]] = {"sensor": [], "exporter": []}
    files: dict[str, list[int]] = {"sensor": [], "exporter": []}
    settings = {"log": {"write_limit_seconds": 5}}
    with Exporter.start(settings) as exporter, SteadyTraffic(shared_generator) as traffic:
        pids = {"sensor": exporter.sensor_pid, "exporter": exporter.exporter_pid}
        for look in range(LOOKS):
            time.sleep(SECONDS / LOOKS)
            for process, pid in pids.items():
                memory[process].append(kibibytes(pid))
                files[process].append(descriptors(pid))
            if look % (LOOKS // 10) == 0:
                _log.info("memory %s, descriptors %s", last(memory), last(files))
        expected = traffic.finish()
        exporter.await_accounts(expected)
    for process in pids:
        before, after = quarters(memory[process])
        assert after <= before * (1 + ALLOWED_SHARE) + ALLOWED_KIBIBYTES, memory[process]
        before, after = quarters(files[process])
        assert after <= before + ALLOWED_DESCRIPTORS, files[process]


def quarters(values: list[int]) -> tuple[float, float]:
    """The medians of the second quarter and of the last: in the first one caches are filled."""
    size = len(values) // 4
    return statistics.median(values[size : 2 * size]), statistics.median(values[-size:])


def last(values: dict[str, list[int]]) -> dict[str, int]:
    return {name: column[-1] for name, column in values.items()}
