from collections.abc import Iterator

import pytest

from tests.attribution_bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.hasher.close()
