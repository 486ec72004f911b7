"""What ran, and what was connected, before the exporter was started."""

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.oneshot import sent, sink
from tests.kernel.scrape import Account


def test_programs_are_known_when_they_were_started_before_the_exporter(
    shared_generator: Generator,
    privileges: None,  # noqa: ARG001 - before it is started
) -> None:
    before, deleted = shared_generator.copy("before"), shared_generator.copy("deleted")
    count = 20
    with sink(shared_generator) as port:
        waiting = [
            program.start("oneshot", port=port, bytes=10, start="stdin")
            for program in [before] * count + [deleted]
        ]
        try:
            for running in waiting:
                running.ready()
            deleted.path.unlink()
            with Exporter.start() as exporter:
                for running in waiting:
                    running.go()
                for running in waiting:
                    running.done()
                exporter.await_accounts(
                    {before.sha256: sent(10 * count, count), deleted.sha256: sent(10)}
                )
        finally:
            for running in waiting:
                running.kill()


def test_bytes_count_from_the_start_when_a_connection_was_open_before_the_exporter(
    shared_generator: Generator,
    privileges: None,  # noqa: ARG001 - before it is started
) -> None:
    server, client = shared_generator.copy("server"), shared_generator.copy("client")
    with (
        server.start("tcp-server", mode="echo") as echo,
        client.start(
            "tcp-client", port=echo.ready().port, mode="pingpong", bytes=100_003, start="stdin"
        ) as source,
    ):
        source.ready()
        with Exporter.start() as exporter:
            source.go()
            source.done()
            tcp = ("tcp", "loopback")
            moved = Account(transmit={tcp: 100_003}, receive={tcp: 100_003})
            exporter.await_accounts({server.sha256: moved, client.sha256: moved})
