"""Every way to move bytes: exactly what the program moved, under its own hash, and nowhere else.

All selected cases run first, several at once, then what is shown is compared case by case.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import pytest

from tests.kernel.cases import Case, Expected, perform
from tests.kernel.exporter import Exporter, ExporterError
from tests.kernel.generator import Generator, UnsupportedError
from tests.kernel.matrix import CASES
from tests.kernel.network import Network
from tests.kernel.scrape import Account, Scrape, differences

AT_ONCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What every case has to show, and what was shown in the end."""

    expected: dict[str, "Future[Expected]"]
    scrape: Scrape
    before: Scrape


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest,
    exporter: Exporter,
    shared_generator: Generator,
    network: Network,
) -> Results:
    selected = [
        cast("Case", item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "case" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    before = exporter.scrape()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {
            case.name: pool.submit(perform, case, shared_generator, network) for case in selected
        }
    wanted: dict[str, Account] = {}
    for future in futures.values():
        if not future.exception():
            wanted.update(future.result())
    try:
        scrape = exporter.await_accounts(wanted, seconds=10)
    except ExporterError:
        # Which of them it is, each test says for itself.
        scrape = exporter.scrape()
    return Results(expected=futures, scrape=scrape, before=before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_are_exact_when_moved_by(results: Results, case: Case) -> None:
    try:
        expected = results.expected[case.name].result()
    except UnsupportedError as error:
        pytest.skip(f"this kernel: {error}")

    assert not differences(expected, results.scrape)


def test_nothing_is_lost_or_nameless_when_all_is_moved(
    results: Results, shared_generator: Generator
) -> None:
    assert results.before.losses() == results.scrape.losses()
    folder = str(shared_generator.folder)
    for executable in results.scrape.accounts:
        # Whatever else runs on this machine is not looked at.
        assert executable.exe
        assert executable.sha256 or not executable.exe.startswith(f"{folder}/")


def test_every_executable_has_one_path_when_all_is_moved(
    results: Results, shared_generator: Generator
) -> None:
    for future in results.expected.values():
        if future.exception():
            continue
        for sha256 in future.result():
            (path,) = results.scrape.paths(sha256)
            assert path.startswith(str(shared_generator.folder))
