"""Another build, another ring size, another wire version: what the kernel side holds is kept."""

import signal
from pathlib import Path

import pytest

from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.sensor.choice import all_plans
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.settings import BpfSettings
from picosnitch_exporter.wire import WIRE_VERSION
from tests.kernel.builds import build_another, command_with
from tests.kernel.exporter import COMMAND, Exporter, Settings
from tests.kernel.generator import Generator
from tests.kernel.scrape import Scrape
from tests.kernel.steady import SteadyTraffic

pytestmark = pytest.mark.usefixtures("privileges")

SETTINGS = {"log": {"write_limit_seconds": 1}}
LARGER_RING = {**SETTINGS, "bpf": {"ring_buffer_pages": 128}}


@pytest.fixture(scope="module")
def another_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_another(tmp_path_factory.mktemp("build"))


def of_plan(plan: str) -> Settings:
    return {**SETTINGS, "bpf": {"plan": plan}}


def refused_plans(*names: str) -> list[str]:
    refused = []
    for plan in all_plans(Library(), BpfSettings()):
        if plan.name in names:
            try:
                plan.require()
                plan.prove()
            except PicosnitchError:
                refused.append(plan.name)
    return refused


def lost(scrape: Scrape) -> float:
    """What no later record makes up for."""
    return (
        scrape.value("unattributed_bytes_total")
        + scrape.value("events_lost_total", stage="final_record")
        + scrape.value("events_lost_total", reason="other_layout")
    )


def test_sums_are_exact_when_another_build_takes_over(
    shared_generator: Generator, another_build: Path
) -> None:
    upgraded = command_with(another_build)
    with Exporter.start(SETTINGS) as exporter, SteadyTraffic(shared_generator) as traffic:
        (layout,) = exporter.pins.iterdir()
        (before,) = (entry.name for entry in layout.iterdir() if entry.name != "maps")
        for command in (upgraded, COMMAND, upgraded):
            traffic.add_fresh()
            exporter.stop(signal.SIGTERM)
            exporter.configure(SETTINGS, command=command)
            exporter.launch()
            traffic.end_fresh()
            (build,) = (entry.name for entry in layout.iterdir() if entry.name != "maps")
            assert (build == before) is (command is COMMAND)
        scrape = exporter.await_accounts(traffic.finish())
        assert not lost(scrape), scrape.losses()


def test_sums_are_exact_when_another_plan_takes_over(shared_generator: Generator) -> None:
    if refused := refused_plans("tracepoint", "fexit"):
        pytest.skip(f"this kernel: plan {', '.join(refused)} refused")
    with Exporter.start(of_plan("tracepoint")) as exporter:
        with SteadyTraffic(shared_generator) as traffic:
            (layout,) = exporter.pins.iterdir()
            builds = set()
            for plan in ("fexit", "tracepoint", "fexit"):
                traffic.add_fresh()
                exporter.stop(signal.SIGTERM)
                exporter.configure(of_plan(plan))
                exporter.launch()
                traffic.end_fresh()
                (build,) = (entry.name for entry in layout.iterdir() if entry.name != "maps")
                builds.add(build)
                assert exporter.scrape().value("kernel_plan_info", plan=plan) == 1
            scrape = exporter.await_accounts(traffic.finish())
        assert len(builds) == 2
        assert not lost(scrape), scrape.losses()


def test_sums_are_exact_when_the_ring_gets_another_size(shared_generator: Generator) -> None:
    with Exporter.start(SETTINGS) as exporter, SteadyTraffic(shared_generator) as traffic:
        for settings in (LARGER_RING, SETTINGS):
            traffic.add_fresh()
            exporter.crash()
            exporter.configure(settings)
            exporter.launch()
            traffic.end_fresh()
            assert len(list(exporter.pins.iterdir())) == 1
        assert "old_ring_read" in exporter.said()
        scrape = exporter.await_accounts(traffic.finish())
        assert not lost(scrape), scrape.losses()


def test_loss_is_counted_when_the_pins_are_of_another_wire_version(
    shared_generator: Generator,
) -> None:
    with Exporter.start(SETTINGS) as exporter:
        exporter.stop(signal.SIGTERM)
        client, server = shared_generator.copy("client"), shared_generator.copy("server")
        with server.start("churn-server", count=50) as listener:
            port = listener.ready().port
            with client.start("churn-client", port=port, count=50, bytes=9) as opener:
                opener.done()
            listener.done()
        (layout,) = exporter.pins.iterdir()
        layout.rename(layout.with_name(layout.name.replace(f"v{WIRE_VERSION}", "v999999")))
        exporter.launch()

        scrape = exporter.await_scrape(
            lambda scrape: scrape.value("events_lost_total", reason="other_layout") >= 100,
            "100 lost records",
        )
        assert layout in exporter.pins.iterdir()
        assert len(list(exporter.pins.iterdir())) == 1
        assert not scrape.account(client.sha256).transmit
