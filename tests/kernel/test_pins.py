"""Who may have the pins, and what is left of them: by a second exporter, signals and `detach`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from picosnitch_exporter.sensor.bpf import BpfMap
from picosnitch_exporter.sensor.control import SIZE, Control
from picosnitch_exporter.sensor.libbpf import Library, get_pinned
from tests.kernel.exporter import COMMAND, Exporter, poll
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account, Key

pytestmark = pytest.mark.usefixtures("privileges")

LINGER = {"bpf": {"linger_seconds": 1}}
LOOPBACK = ("tcp", "loopback")


def run(exporter: Exporter, command: str, *flags: str) -> subprocess.CompletedProcess[str]:
    arguments = [*COMMAND, command, f"--config.file={exporter.folder / 'config.yaml'}", *flags]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=60)


def active(pins: Path) -> int:
    """The generation of the programs that count."""
    library = Library()
    (layout,) = pins.iterdir()
    section = BpfMap(library, ".bss", get_pinned(library, layout / "maps" / "bss"))
    return Control(section.map_memory(SIZE)).active


def churn(generator: Generator, count: int = 20) -> dict[str, Account]:
    """Short connections; what is to be shown of them where they are counted."""
    client, server = generator.copy("client"), generator.copy("server")
    with server.start("churn-server", count=count) as listener:
        port = listener.ready().port
        with client.start("churn-client", port=port, count=count, bytes=11) as opener:
            opener.done()
        listener.done()
    outbound: Key = (*LOOPBACK, "outbound")
    inbound: Key = (*LOOPBACK, "inbound")
    return {
        client.sha256: Account(transmit={LOOPBACK: 11 * count}, connections={outbound: count}),
        server.sha256: Account(receive={LOOPBACK: 11 * count}, connections={inbound: count}),
    }


def test_second_exporter_is_refused_when_one_runs() -> None:
    with Exporter.start() as exporter:
        second = run(
            exporter,
            "run",
            f"--storage.path={exporter.folder / 'second'}",
            "--web.listen-address=127.0.0.1:0",
        )

        assert second.returncode == 1
        assert f"process {exporter.sensor_pid}" in second.stderr
        assert exporter.scrape().executables is not None


def test_detach_is_refused_when_an_exporter_runs() -> None:
    with Exporter.start() as exporter:
        refused = run(exporter, "detach")
        assert refused.returncode == 1
        assert f"process {exporter.sensor_pid}" in refused.stderr

        exporter.stop(signal.SIGTERM)
        assert exporter.pins.exists()
        assert run(exporter, "detach").returncode == 0
        assert not exporter.pins.exists()
        assert "nothing to remove" in run(exporter, "detach").stdout


def test_pins_are_removed_when_the_plan_of_the_configuration_cannot_be_had() -> None:
    with Exporter.start() as exporter:
        exporter.stop(signal.SIGTERM)
        exporter.configure({"bpf": {"plan": "bcc"}})

        assert run(exporter, "detach").returncode == 0
        assert not exporter.pins.exists()


def test_nothing_is_left_when_it_is_interrupted() -> None:
    with Exporter.start() as exporter:
        exporter.stop(signal.SIGINT)
        assert not exporter.pins.exists()


def test_nothing_is_left_when_terminated_without_keep_on_exit() -> None:
    with Exporter.start({"bpf": {"keep_on_exit": False}}) as exporter:
        exporter.stop(signal.SIGTERM)
        assert not exporter.pins.exists()


def test_programs_idle_and_the_gap_is_counted_when_nobody_reads_for_the_linger_time(
    shared_generator: Generator,
) -> None:
    sink, source = shared_generator.copy("sink"), shared_generator.copy("source")
    with Exporter.start(LINGER) as exporter:
        # A connection that is open all the time: what passes in the gap must not come later.
        with sink.start("many-server", count=3) as listener:
            port = listener.ready().port
            options = {"port": port, "count": 3, "size": 100, "busy": 1}
            with source.start("many-client", options) as sender:
                sender.ready()
                exporter.await_scrape(
                    lambda scrape: bool(scrape.account(sink.sha256).receive), "first bytes"
                )
                exporter.stop(signal.SIGTERM)
                stopped = time.monotonic()
                assert active(exporter.pins)
                assert poll(
                    lambda: churn(shared_generator) and not active(exporter.pins), seconds=9
                )
                uncounted = churn(shared_generator)
                idled = time.monotonic()
                # Two more of the connection's bytes' seconds.
                assert poll(lambda: time.monotonic() > idled + 2, seconds=9)
                exporter.launch()
                gap_seconds = time.monotonic() - stopped
                counted = churn(shared_generator)
                scrape = exporter.await_accounts(counted, nothing=uncounted)
                gap = scrape.value("kernel_gap_seconds_total")
                assert idled - stopped - 2 <= gap <= gap_seconds
                sender.close()
                moved = sender.done().sent
                listener.done()
        assert "kernel_was_idle" in exporter.said()
        shown = exporter.scrape()
        sent, received = (
            shown.account(source.sha256).sums()[0],
            shown.account(sink.sha256).sums()[1],
        )
        assert 0 < sent < moved
        assert 0 < received < moved
        assert abs(sent - received) <= 300


def test_programs_never_idle_when_the_linger_time_is_short(shared_generator: Generator) -> None:
    with Exporter.start(LINGER) as exporter:
        for _ in range(3):
            exporter.await_accounts(churn(shared_generator))
        assert not exporter.scrape().value("kernel_gap_seconds_total")


def test_programs_are_woken_when_the_sensor_was_stopped_for_longer(
    shared_generator: Generator,
) -> None:
    with Exporter.start(LINGER) as exporter:
        os.kill(exporter.sensor_pid, signal.SIGSTOP)
        try:
            assert poll(lambda: churn(shared_generator) and not active(exporter.pins), seconds=9)
        finally:
            os.kill(exporter.sensor_pid, signal.SIGCONT)
        assert poll(lambda: active(exporter.pins), seconds=9)
        scrape = exporter.await_accounts(churn(shared_generator))
        assert poll(lambda: exporter.scrape().value("kernel_gap_seconds_total"), seconds=9)
        assert not scrape.value("unattributed_bytes_total")
