"""The generator's own counts agree, end to end: what other tests take for the truth."""

import hashlib
from pathlib import Path

import pytest

from tests.kernel.generator import Generator, Program, TrafficError

LOOPBACK = {"v4": "127.0.0.1", "v6": "::1", "v4-mapped": "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator.build(tmp_path_factory.mktemp("traffic"))


@pytest.fixture(scope="module")
def server(generator: Generator) -> Program:
    return generator.copy("server")


@pytest.fixture(scope="module")
def client(generator: Generator) -> Program:
    return generator.copy("client")


def test_copies_have_hashes_of_their_own(generator: Generator) -> None:
    first, second = generator.copy("same"), generator.copy("same")

    assert first.sha256 != second.sha256
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("family", LOOPBACK)
def test_tcp_sums_agree(server: Program, client: Program, family: str) -> None:
    bind = LOOPBACK[family]
    with server.start("tcp-server", bind=bind) as sink:
        port = sink.ready().port
        with client.start("tcp-client", host=bind, port=port, bytes=1_000_003) as source:
            sent = source.done()
        received = sink.done()

    assert (sent.sent, sent.received) == (1_000_003, 0)
    assert (received.sent, received.received) == (0, 1_000_003)


def test_tcp_moves_nothing_before_go(server: Program, client: Program) -> None:
    with server.start("tcp-server", expect=10, hold=1) as sink:
        port = sink.ready().port
        with client.start("tcp-client", port=port, bytes=10, start="stdin") as source:
            assert source.ready().port > 0
            source.go()
            assert source.done().sent == 10
            assert sink.done().received == 10


@pytest.mark.parametrize("connected", [0, 1])
@pytest.mark.parametrize("family", LOOPBACK)
def test_udp_echo_sums_agree(server: Program, client: Program, family: str, connected: int) -> None:
    bind = LOOPBACK[family]
    with server.start("udp-server", bind=bind, mode="echo") as echo:
        port = echo.ready().port
        with client.start(
            "udp-client",
            host=bind,
            port=port,
            bytes=10_007,
            mode="pingpong",
            connected=connected,
        ) as source:
            sent = source.done()
        echo.close()
        echoed = echo.done()

    assert (sent.sent, sent.received) == (10_007, 10_007)
    assert (echoed.sent, echoed.received) == (10_007, 10_007)
    assert sent.calls_sent == echoed.calls_received == 10


def test_parent_and_child_count_for_themselves(server: Program, client: Program) -> None:
    with server.start("tcp-server") as sink:
        port = sink.ready().port
        with client.start("fork", port=port, bytes=70_000, child_bytes=123_456) as parent:
            sent = parent.done(), parent.child()
        received = sink.done()

    assert [outcome.sent for outcome in sent] == [70_000, 123_456]
    assert received.received == 193_456


def test_churn_counts_connections(server: Program, client: Program) -> None:
    with server.start("churn-server", count=300) as listener:
        port = listener.ready().port
        with client.start("churn-client", port=port, count=300, bytes=11) as opener:
            opened = opener.done()
        accepted = listener.done()

    assert 300 == opened.notes["connected"] == accepted.notes["accepted"]
    assert 3300 == opened.sent == accepted.received


def test_oneshots_reach_a_sink_also_unlinked(generator: Generator, server: Program) -> None:
    with server.start("udp-server", expect=3 * 55) as sink:
        port = sink.ready().port
        shots = [generator.copy("shot") for _ in range(3)]
        for shot in shots:
            with shot.start("oneshot", port=port, bytes=55, unlink=1) as running:
                assert running.done().sent == 55
        received = sink.done()

    assert received.received == 165
    assert not any(shot.path.exists() for shot in shots)


def test_failure_names_the_command_and_the_reason(client: Program) -> None:
    with (
        pytest.raises(TrafficError, match=r"no-such-scenario.*exited with 2: .*no such scenario"),
        client.start("no-such-scenario") as running,
    ):
        running.done()


def test_compiler_errors_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.c").write_text("int main(void) { return oops; }\n")
    monkeypatch.setattr("tests.kernel.generator.SOURCE", tmp_path)

    with pytest.raises(TrafficError, match="oops"):
        Generator.build(tmp_path)
