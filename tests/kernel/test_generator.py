"""The generator's own counts agree, end to end: what other tests take for the truth."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.generator import (
    Generator,
    Options,
    Outcome,
    Program,
    TrafficError,
    UnsupportedError,
)

IO_URING = ("io_uring-sqpoll", "io_uring-async", "io_uring-splice")
# Ways that streams and datagrams share.
SEND = (
    *("write", "writev", "send", "sendto", "sendmsg", "sendmmsg", "splice", "zerocopy"),
    *("io_uring-send", "io_uring-write", "io_uring-sendmsg", "io_uring-send-zc", *IO_URING),
)
RECEIVE = (
    *("read", "readv", "recv", "recvfrom", "recvmsg", "recvmmsg", "splice"),
    *("peek", "trunc", "waitall"),
    *("io_uring-recv", "io_uring-read", "io_uring-recvmsg", "io_uring-multishot", *IO_URING),
)
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


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="raw and packet sockets, network namespaces: run as root"
)


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    name = f"traffic-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        range_file = "/proc/sys/net/ipv4/ping_group_range"
        subprocess.run([*inside, "sh", "-c", f"echo 0 0 >{range_file}"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


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


def run_pair(
    server: Program,
    client: Program,
    scenario: str,
    *,
    server_options: Options,
    client_options: Options,
) -> tuple[Outcome, Outcome]:
    try:
        with server.start(f"{scenario}-server", server_options) as sink:
            port = sink.ready().port
            with client.start(f"{scenario}-client", client_options, port=port) as source:
                return source.done(), sink.done()
    except UnsupportedError as error:
        pytest.skip(f"this kernel: {error}")


@pytest.mark.parametrize("via", [*SEND, "sendfile", "fastopen", "fastopen-connect"])
def test_stream_sums_agree_when_sent_by(server: Program, client: Program, via: str) -> None:
    sent, received = run_pair(
        server,
        client,
        "tcp",
        server_options={"via": via} if via.startswith("fastopen") else {},
        client_options={"bytes": 300_007, "via": via},
    )

    assert (sent.sent, received.received) == (300_007, 300_007)


@pytest.mark.parametrize("via", [*RECEIVE, "tcp_zerocopy_receive"])
def test_stream_sums_agree_when_received_by(server: Program, client: Program, via: str) -> None:
    sent, received = run_pair(
        server,
        client,
        "tcp",
        server_options={"via": via, "expect": 300_007, "hold": 1},
        client_options={"bytes": 300_007, "hold": 1},
    )

    assert (sent.sent, received.received) == (300_007, 300_007)


def test_zerocopy_receive_maps_pages_when_segments_are_whole(
    server: Program, client: Program
) -> None:
    segment = 4096 + 12
    _, received = run_pair(
        server,
        client,
        "tcp",
        server_options={"via": "tcp_zerocopy_receive", "maxseg": segment},
        client_options={"bytes": 65536, "size": 65536, "via": "splice", "maxseg": segment},
    )

    assert received.received == 65536
    assert received.notes["mapped"] > 0


@pytest.mark.parametrize("via", SEND)
def test_datagram_sums_agree_when_sent_by(server: Program, client: Program, via: str) -> None:
    sent, received = run_pair(
        server,
        client,
        "udp",
        server_options={"expect": 20_011},
        client_options={"bytes": 20_011, "via": via},
    )

    assert (sent.sent, received.received) == (20_011, 20_011)
    assert (sent.calls_sent, received.calls_received) == (20, 20)


@pytest.mark.parametrize("via", RECEIVE)
def test_datagram_sums_agree_when_received_by(server: Program, client: Program, via: str) -> None:
    sent, received = run_pair(
        server,
        client,
        "udp",
        server_options={"expect": 20_011, "via": via},
        client_options={"bytes": 20_011},
    )

    assert (sent.sent, received.received) == (20_011, 20_011)
    assert (sent.calls_sent, received.calls_received) == (20, 20)


@pytest.mark.parametrize("scenario", ["mptcp", "sctp", "udplite"])
def test_other_protocols_agree(server: Program, client: Program, scenario: str) -> None:
    sent, received = run_pair(
        server,
        client,
        scenario,
        server_options={"expect": 20_011},
        client_options={"bytes": 20_011},
    )

    assert (sent.sent, received.received) == (20_011, 20_011)


def test_kernel_tls_agrees(server: Program, client: Program) -> None:
    sent, received = run_pair(
        server,
        client,
        "tcp",
        server_options={"ktls": 1},
        client_options={"bytes": 100_003, "ktls": 1},
    )

    assert (sent.sent, received.received) == (100_003, 100_003)


def test_peers_are_told_apart_when_threads_share_a_socket(
    generator: Generator, client: Program
) -> None:
    echo = generator.copy("echo")
    with ExitStack() as stack:
        echoes = [stack.enter_context(echo.start("udp-server", mode="echo")) for _ in range(6)]
        ports = [echo.ready().port for echo in echoes]
        with client.start(
            "udp-many",
            to=",".join(f"127.0.0.1:{port}" for port in ports),
            mode="pingpong",
            threads=3,
            count=10,
            size=100,
        ) as talker:
            peers = {peer.port: peer for peer in talker.done().peers}
        for place, (port, running) in enumerate(zip(ports, echoes, strict=True)):
            running.close()
            expected = 10 * (100 + place)
            assert (peers[port].sent, peers[port].received) == (expected, expected)
            assert running.done().received == expected


def test_error_queue_returns_datagrams_that_are_not_received(client: Program) -> None:
    with client.start("udp-errqueue", count=3, size=500) as running:
        done = running.done()

    assert (done.sent, done.received, done.notes["errqueue_bytes"]) == (1500, 0, 1500)


def test_passed_connection_is_charged_to_who_moves_the_bytes(
    generator: Generator, server: Program, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    giver, taker = generator.copy("giver"), generator.copy("taker")
    with server.start("tcp-server") as sink, taker.start("pass-take", path=path, bytes=222) as took:
        took.ready()
        with giver.start("pass-give", path=path, port=sink.ready().port, bytes=111) as gave:
            assert gave.done().sent == 111
        assert took.done().sent == 222
        took.close()
        assert sink.done().received == 333


def test_inherited_connection_is_charged_to_the_new_program(
    generator: Generator, server: Program, client: Program
) -> None:
    heir = generator.copy("heir")
    with server.start("tcp-server") as sink:
        port = sink.ready().port
        with client.start(
            "inherit", port=port, bytes=111, exec=heir.path, next="stream bytes=222"
        ) as running:
            assert (running.handed().sent, running.done().sent) == (111, 222)
        assert sink.done().received == 333


def test_inetd_child_moves_the_bytes(
    generator: Generator, server: Program, client: Program
) -> None:
    child = generator.copy("child")
    with server.start("inetd", exec=child.path, next="stream mode=echo") as inetd:
        port = inetd.ready().port
        with client.start("tcp-client", port=port, bytes=555, mode="pingpong") as source:
            assert source.done().received == 555
        answered, listening = inetd.child(), inetd.done()

    assert (answered.received, answered.sent) == (555, 555)
    assert (listening.received, listening.notes["accepted"]) == (0, 1)


def test_many_sockets_send_on_each(server: Program, client: Program) -> None:
    _, received = run_pair(
        server,
        client,
        "many",
        server_options={"count": 500},
        client_options={"count": 500, "size": 7},
    )

    assert (received.received, received.notes["accepted"]) == (3500, 500)


def test_refused_connects_are_counted(client: Program) -> None:
    with client.start("refused", count=4) as running:
        assert running.done().notes["failed"] == 4


def test_idle_program_moves_nothing(client: Program) -> None:
    with client.start("idle") as running:
        running.ready()
        running.close()
        done = running.done()

    assert (done.sent, done.received, done.calls_sent, done.calls_received) == (0, 0, 0, 0)


@needs_root
@pytest.mark.parametrize("scenario", ["ping", "raw-ping"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_pings_are_answered(netns: str, client: Program, scenario: str, host: str) -> None:
    with client.start(scenario, netns=netns, host=host, count=3, size=100) as running:
        done = running.done()

    # A raw IPv4 socket receives the IP header as well.
    header = 20 if (scenario, host) == ("raw-ping", "127.0.0.1") else 0
    assert (done.sent, done.received) == (3 * 108, 3 * (108 + header))


@needs_root
@pytest.mark.parametrize(("host", "header"), [("127.0.0.1", 20), ("::1", 0)])
def test_raw_packets_arrive(
    netns: str, server: Program, client: Program, host: str, header: int
) -> None:
    with server.start("raw-server", netns=netns, bind=host, count=5) as sink:
        sink.ready()
        with client.start("raw-client", netns=netns, host=host, count=5, size=333) as source:
            assert source.done().sent == 5 * 333
        assert sink.done().received == 5 * (333 + header)


@needs_root
@pytest.mark.parametrize("kind", ["dgram", "raw"])
@pytest.mark.parametrize("sender", ["packet-send", "packet-tx-ring"])
def test_frames_arrive(
    netns: str, server: Program, client: Program, sender: str, kind: str
) -> None:
    with server.start("packet-receive", netns=netns, type=kind, count=9) as sink:
        sink.ready()
        with client.start(sender, netns=netns, type=kind, count=9, size=200) as source:
            sent = source.done().sent
        received = sink.done().received

    assert sent == received == 9 * (200 + (14 if kind == "raw" else 0))


@needs_root
def test_mapped_ring_receives_without_a_call(netns: str, server: Program, client: Program) -> None:
    with server.start("packet-rx-ring", netns=netns, count=9) as sink:
        sink.ready()
        with client.start("packet-send", netns=netns, count=9, size=200) as source:
            source.done()
        done = sink.done()

    assert (done.received, done.notes["ring_bytes"]) == (0, 1800)


@needs_root
def test_xdp_socket_moves_nothing_by_calls(netns: str, client: Program) -> None:
    try:
        with client.start("xdp", netns=netns, count=3) as running:
            assert running.done().sent == 0
    except UnsupportedError as error:
        pytest.skip(f"this kernel: {error}")


def test_unsupported_is_told_from_failure(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\necho \'{"event":"unsupported","pid":1,"reason":"no such thing"}\'\nexit 77\n'
    )
    script.chmod(0o755)

    with (
        pytest.raises(UnsupportedError, match="no such thing"),
        Program(path=script, sha256="").start("any") as running,
    ):
        running.done()


def test_deadline_ends_a_program_that_says_nothing(client: Program) -> None:
    with (
        pytest.raises(TrafficError, match="no 'done' in time"),
        client.start("idle") as running,
    ):
        running.done(timeout_seconds=0.1)

    assert running._process.returncode == -signal.SIGKILL


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
