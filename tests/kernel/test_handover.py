"""A socket that several programs use: each is charged for what it moves itself."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account, Key

TCP = ("tcp", "loopback")
UDP = ("udp", "loopback")


def outbound(protocol: Key, count: int = 1) -> dict[Key, int]:
    return {(*protocol, "outbound"): count}


def inbound(protocol: Key, count: int = 1) -> dict[Key, int]:
    return {(*protocol, "inbound"): count}


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_both_count_for_their_program_when_a_child_sends_as_well(
    exporter: Exporter, shared_generator: Generator, proto: str
) -> None:
    server, client = shared_generator.copy("server"), shared_generator.copy("forker")
    key = (proto, "loopback")
    sent = 70_000 + 123_456
    with server.start(f"{proto}-server", expect=sent) as sink:
        port = sink.ready().port
        with client.start(
            "fork", proto=proto, port=port, bytes=70_000, child_bytes=123_456, size=1000
        ) as parent:
            moved = (parent.done().sent, parent.child().sent)
        sink.done()

    assert moved == (70_000, 123_456)
    exporter.await_accounts(
        {
            client.sha256: Account(transmit={key: sent}, connections=outbound(key)),
            server.sha256: Account(receive={key: sent}, connections=inbound(key)),
        }
    )


def test_each_counts_its_own_when_a_connection_is_passed_on(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    server, giver, taker = (shared_generator.copy(name) for name in ("server", "giver", "taker"))
    path = tmp_path / "socket"
    with server.start("tcp-server") as sink, taker.start("pass-take", path=path, bytes=222) as took:
        took.ready()
        with giver.start("pass-give", path=path, port=sink.ready().port, bytes=111) as gave:
            gave.done()
        took.done()
        took.close()
        assert sink.done().received == 333

    exporter.await_accounts(
        {
            giver.sha256: Account(transmit={TCP: 111}, connections=outbound(TCP)),
            taker.sha256: Account(transmit={TCP: 222}),
            server.sha256: Account(receive={TCP: 333}, connections=inbound(TCP)),
        }
    )


def test_each_receives_its_own_when_a_connection_is_passed_on(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    server, giver, taker = (shared_generator.copy(name) for name in ("server", "giver", "taker"))
    path = tmp_path / "socket"
    with (
        server.start("tcp-server", mode="source", bytes=1000) as source,
        taker.start("pass-take", path=path, mode="sink", expect=600) as took,
    ):
        took.ready()
        with giver.start(
            "pass-give", path=path, port=source.ready().port, mode="sink", expect=400
        ) as gave:
            assert gave.done().received == 400
        assert took.done().received == 600
        took.close()

    exporter.await_accounts(
        {
            giver.sha256: Account(receive={TCP: 400}, connections=outbound(TCP)),
            taker.sha256: Account(receive={TCP: 600}),
            server.sha256: Account(transmit={TCP: 1000}, connections=inbound(TCP)),
        }
    )


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_each_counts_its_own_when_a_program_becomes_another(
    exporter: Exporter, shared_generator: Generator, proto: str
) -> None:
    server, client, heir = (shared_generator.copy(name) for name in ("server", "client", "heir"))
    key = (proto, "loopback")
    following = "stream bytes=222" if proto == "tcp" else "udp-client bytes=222"
    with server.start(f"{proto}-server", expect=333) as sink:
        with client.start(
            "inherit",
            proto=proto,
            port=sink.ready().port,
            bytes=111,
            exec=heir.path,
            next=following,
        ) as running:
            assert (running.handed().sent, running.done().sent) == (111, 222)
        sink.done()

    exporter.await_accounts(
        {
            client.sha256: Account(transmit={key: 111}, connections=outbound(key)),
            heir.sha256: Account(transmit={key: 222}),
            server.sha256: Account(receive={key: 333}, connections=inbound(key)),
        }
    )


def test_the_child_has_the_bytes_when_an_inetd_accepts(
    exporter: Exporter, shared_generator: Generator
) -> None:
    """And the connection: accepting it is all that the parent does."""
    inetd, child, client = (shared_generator.copy(name) for name in ("inetd", "child", "client"))
    with inetd.start("inetd", exec=child.path, next="stream mode=echo", count=3) as listener:
        port = listener.ready().port
        with client.start("tcp-client", port=port, bytes=555, mode="pingpong", count=3) as source:
            source.done()
        answered = [listener.child() for _ in range(3)]
        listener.done()

    assert {(555, 555)} == {(one.sent, one.received) for one in answered}
    scrape = exporter.await_scrape(
        lambda shown: shown.account(child.sha256).sums() == (1665, 1665), "the children's bytes"
    )
    assert scrape.account(client.sha256) == Account(
        transmit={TCP: 1665}, receive={TCP: 1665}, connections=outbound(TCP, 3)
    )
    assert scrape.account(inetd.sha256).sums() == (0, 0)
    # Whether parent or child is the first to use it is a race; it is counted once.
    by_both = (scrape.account(one.sha256).connections for one in (inetd, child))
    assert sum(sum(one.values()) for one in by_both) == 3


def move_in(command: list[str], *, generator: Generator) -> dict[str, Account]:
    """A TCP echo whose client is started by a command that changes where it is."""
    server, client = generator.copy("server"), generator.copy("client")
    with server.start("tcp-server", mode="echo") as echo:
        port = echo.ready().port
        done = subprocess.run(
            [*command, client.path, "tcp-client", f"port={port}", "bytes=777", "mode=pingpong"],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        assert b'"done"' in done.stdout
        echo.done()
    return {
        client.sha256: Account(transmit={TCP: 777}, receive={TCP: 777}, connections=outbound(TCP)),
        server.sha256: Account(transmit={TCP: 777}, receive={TCP: 777}, connections=inbound(TCP)),
    }


@pytest.mark.parametrize("kind", ["--cgroup", "--pid", "--ipc", "--uts", "--user", "--mount"])
def test_bytes_are_counted_when_a_program_has_a_namespace_of_its_own(
    exporter: Exporter, shared_generator: Generator, kind: str
) -> None:
    fork = ["--fork"] if kind == "--pid" else []
    expected = move_in(["unshare", kind, *fork], generator=shared_generator)

    exporter.await_accounts(expected)


def test_bytes_are_counted_when_a_program_is_in_a_deep_cgroup(
    exporter: Exporter, shared_generator: Generator
) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")
    deep = root / f"picosnitch-test-{os.getpid()}" / "a" / "b"
    deep.mkdir(parents=True)
    try:
        enter = f'echo $$ >{deep}/cgroup.procs && exec unshare --cgroup "$@"'
        expected = move_in(["sh", "-c", enter, "sh"], generator=shared_generator)
        exporter.await_accounts(expected)
    finally:
        for folder in (deep, deep.parent, deep.parent.parent):
            folder.rmdir()
