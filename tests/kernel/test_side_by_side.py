"""Two exporters on one machine, with pins and storage of their own."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kernel.exporter import COMMAND, Exporter
from tests.kernel.generator import Generator
from tests.kernel.steady import SteadyTraffic

SECONDS = 3.0


@pytest.mark.usefixtures("privileges")
def test_each_counts_all_of_it_once_when_both_start_at_the_same_moment(
    shared_generator: Generator,
) -> None:
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(Exporter(command=COMMAND, settings={})) for _ in range(2)]
        with ThreadPoolExecutor(len(both)) as pool:
            list(pool.map(Exporter.launch, both))
        with SteadyTraffic(shared_generator) as traffic:
            time.sleep(SECONDS)
            expected = traffic.finish()
        for exporter in both:
            exporter.await_accounts(expected)
