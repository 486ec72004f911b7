"""What the kernel tests share: one generator, one exporter, two namespaces."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.network import Network, make_network


@pytest.fixture(scope="session")
def privileges() -> None:
    """A failure, not a skip: without these nothing here would test anything."""
    if os.geteuid() != 0:
        pytest.fail("the kernel tests load BPF programs: run them as root")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.fail("this kernel has no BTF (/sys/kernel/btf/vmlinux): CONFIG_DEBUG_INFO_BTF")


@pytest.fixture(scope="session")
def shared_generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator.build(tmp_path_factory.mktemp("traffic"))


@pytest.fixture(scope="session")
def network(privileges: None) -> Iterator[Network]:  # noqa: ARG001 - before anything is made
    with make_network("picosnitch") as made:
        yield made


@pytest.fixture(scope="session")
def exporter(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    """One for all tests that only look at executables of their own."""
    with Exporter.start() as running:
        yield running
