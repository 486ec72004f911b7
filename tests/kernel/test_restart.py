"""Nothing is lost: steady traffic through stops, crashes and upgrades, then all sums are compared.

With PICOSNITCH_SOAK_ROUNDS=100 so many rounds instead of a few (`make soak`); PICOSNITCH_SOAK_SEED
repeats the order and the instants of an earlier run.
"""

import itertools
import logging
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel.builds import build_another, command_with
from tests.kernel.exporter import COMMAND, Exporter
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account
from tests.kernel.steady import SteadyTraffic

_log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("PICOSNITCH_SOAK_ROUNDS", "10"))
SEED = int(os.environ.get("PICOSNITCH_SOAK_SEED", str(random.randrange(1 << 32))))  # noqa: S311
SETTINGS = {"log": {"write_limit_seconds": 1}}


def terminate(exporter: Exporter) -> None:
    exporter.stop(signal.SIGTERM)


def crash_exporter(exporter: Exporter) -> None:
    exporter.crash_some(exporter.exporter_pid)


def crash_sensor(exporter: Exporter) -> None:
    exporter.crash_some(exporter.sensor_pid)


def crash(exporter: Exporter) -> None:
    exporter.crash()


def upgrading(folder: Path) -> Callable[[Exporter], None]:
    commands = itertools.cycle((command_with(build_another(folder)), COMMAND))

    def upgrade(exporter: Exporter) -> None:
        """Stops it; the next start is that of the other one of two builds."""
        exporter.stop(signal.SIGTERM)
        exporter.configure(SETTINGS, command=next(commands))

    return upgrade


def logged(exporter: Exporter) -> dict[str, tuple[int, int]]:
    """Bytes sent and received by hash, as the log has them."""
    with closing(sqlite3.connect(exporter.storage / "snitch.db")) as connection:
        rows = connection.execute(
            "SELECT sha256, sum(send), sum(recv) FROM connection_log GROUP BY sha256"
        ).fetchall()
    return {sha256: (sent, received) for sha256, sent, received in rows}


def compare_log(exporter: Exporter, expected: dict[str, Account]) -> None:
    found = logged(exporter)
    assert {sha256: account.sums() for sha256, account in expected.items()} == {
        sha256: found.get(sha256, (0, 0)) for sha256 in expected
    }


@pytest.mark.usefixtures("privileges")
@pytest.mark.timeout(120 + 15 * ROUNDS)
def test_sums_are_exact_when_processes_stop_and_crash_at_random(
    shared_generator: Generator, tmp_path: Path
) -> None:
    chance = random.Random(SEED)  # noqa: S311
    ways: tuple[Callable[[Exporter], None], ...]
    ways = (terminate, crash_exporter, crash_sensor, crash, upgrading(tmp_path))
    order = [ways[index % len(ways)] for index in range(ROUNDS)]
    chance.shuffle(order)
    _log.info("PICOSNITCH_SOAK_SEED=%d", SEED)
    with Exporter.start(SETTINGS) as exporter, SteadyTraffic(shared_generator) as traffic:
        for way in order:
            traffic.add_fresh()
            time.sleep(chance.random() * 1.5)
            _log.info("%s", way.__name__)
            way(exporter)
            exporter.launch()
            traffic.end_fresh()
        expected = traffic.finish()
        exporter.await_accounts(expected)
        exporter.stop(signal.SIGTERM)
        compare_log(exporter, expected)
