"""Names of peers in the log: real answers, in a network namespace with a resolver of its own."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.kernel.exporter import Exporter, Settings, poll
from tests.kernel.machine import PLAN
from tests.kernel.network import run

HERE = Path(__file__).parent
PORT = 7700
WAIT_SECONDS = 20.0
RESOLV_CONF = "nameserver 127.0.0.53\noptions timeout:5\n"
HOSTS = "127.0.77.50 Own.Hosts.test\n10.77.0.2 far.hosts.test\n"


@contextmanager
def program(netns: str, script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A script in the namespace, from its first line of output until it has ended by itself."""
    command = ["ip", "netns", "exec", netns, sys.executable, str(HERE / script), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout
            assert running.stdout.readline().strip() in ("ready", "asked")
            yield running
            running.communicate("\n", timeout=WAIT_SECONDS)
        finally:
            running.kill()
    assert running.returncode == 0


@pytest.fixture(scope="module")
def netns(privileges: None) -> Iterator[str]:  # noqa: ARG001 - before anything is made
    name = f"picosnitch-names-{os.getpid()}"
    # `ip netns exec` mounts it over /etc/resolv.conf.
    folder = Path("/etc/netns") / name
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(RESOLV_CONF)
        (folder / "hosts").write_text(HOSTS)
        run("ip", "netns", "add", name)
        try:
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "address", "add", "10.77.0.2/32", "dev", "lo")
            with program(name, "name_server.py", str(PORT)):
                yield name
        finally:
            run("ip", "netns", "delete", name)
    finally:
        shutil.rmtree(folder)
        with suppress(OSError):
            folder.parent.rmdir()


@pytest.fixture(scope="module")
def logging(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    with Exporter.start({"log": {"write_limit_seconds": 1}}) as running:
        yield running


def domains_in_log(exporter: Exporter, address: str, *, rows: int = 1) -> list[tuple[str, str]]:
    """Executable and domain of the outgoing connections to an address, once there are so many."""

    def read() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(f"file:{exporter.storage}/snitch.db?mode=ro", uri=True)) as db:
            found = db.execute(
                "SELECT cmdline, domain FROM connection_log "
                "WHERE raddr = ? AND rport = ? AND direction = 'outbound' ORDER BY rowid",
                (address, PORT),
            ).fetchall()
        return found if len(found) >= rows else []

    return poll(read, seconds=WAIT_SECONDS)


def await_questions(exporter: Exporter, names: Sequence[str]) -> None:
    """Until it is known who asked: a datagram's peer is reported by the next drain."""

    def have_asked() -> bool:
        with closing(sqlite3.connect(f"file:{exporter.storage}/snitch.db?mode=ro", uri=True)) as db:
            asked = db.execute("SELECT cmdline FROM connection_log WHERE rport = 53").fetchall()
        return all(any(name in cmdline for (cmdline,) in asked) for name in names)

    assert poll(have_asked, seconds=WAIT_SECONDS)


@pytest.mark.parametrize(
    ("number", "how", "name", "domain"),
    [
        (1, "127.0.0.53/udp", "www1.example.test", "test.example.www1"),
        (2, "127.0.0.53/tcp", "www2.example.test", "test.example.www2"),
        (3, "::1/udp", "www3.example.test", "test.example.www3"),
        (4, "::1/tcp", "www4.example.test", "test.example.www4"),
        (5, "getaddrinfo", "www5.example.test", "test.example.www5"),
        (6, "127.0.0.53/udp", "alias6.example.test", "test.example.alias6"),
        (7, "127.0.0.53/udp", "many7.example.test", "test.example.many7"),
        (8, "127.0.0.53/tcp", "many8.example.test", "test.example.many8"),
        (9, "127.0.0.53/udp", "MiXeD9.Example.test", "test.example.mixed9"),
    ],
)
def test_log_has_the_name_when_it_was_asked_for(  # noqa: PLR0913, PLR0917 - pytest's
    logging: Exporter, netns: str, number: int, how: str, name: str, domain: str
) -> None:
    address = f"127.0.77.{number}"
    with program(netns, "name_client.py", how, name, address, str(PORT)):
        pass

    assert [domain] == [found for _cmdline, found in domains_in_log(logging, address)]


def test_own_name_is_in_the_log_when_another_process_asked_later(
    logging: Exporter, netns: str
) -> None:
    address = "127.0.77.20"
    names = ("mine20.example.test", "theirs20.example.test")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(
                program(netns, "name_client.py", "127.0.0.53/udp", name, address, str(PORT))
            )
        await_questions(logging, names)

    found = {
        cmdline.split()[3]: domain for cmdline, domain in domains_in_log(logging, address, rows=2)
    }
    assert dict(zip(names, ("test.example.mine20", "test.example.theirs20"), strict=True)) == found


def test_name_is_in_the_log_when_another_process_asked(logging: Exporter, netns: str) -> None:
    """As with a resolver that asks in the name of others."""
    address = "127.0.77.30"
    with program(netns, "name_client.py", "getaddrinfo", "www30.test", address, str(PORT)):
        code = f"import socket; socket.create_connection(({address!r}, {PORT})).sendall(b'x')"
        run(sys.executable, "-c", code, netns=netns)

    expected = ["test.www30"] * 2
    assert expected == [domain for _cmdline, domain in domains_in_log(logging, address, rows=2)]


def test_name_is_not_in_the_log_when_asked_for_in_another_namespace(
    logging: Exporter, netns: str
) -> None:
    address = "127.0.77.40"
    with program(netns, "name_client.py", "getaddrinfo", "www40.test", address, str(PORT)):
        code = (
            "import socket; "
            f"server = socket.create_server(({address!r}, {PORT})); "
            f"socket.create_connection(({address!r}, {PORT})).sendall(b'x')"
        )
        run(sys.executable, "-c", code)

    expected = {"": True, "test.www40": False}
    found = domains_in_log(logging, address, rows=2)
    assert expected == {domain: "create_server" in cmdline for cmdline, domain in found}


@pytest.fixture(scope="module")
def watching(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    settings: Settings = {"log": {"write_limit_seconds": 1}, "bpf": {"getaddrinfo": True}}
    with Exporter.start(settings) as running:
        yield running


@pytest.mark.skipif(PLAN == "bcc", reason="this plan: no getaddrinfo")
@pytest.mark.parametrize(
    ("address", "name", "domain", "of_others"),
    [
        ("127.0.77.50", "Own.Hosts.test", "test.hosts.own", ""),
        ("10.77.0.2", "far.hosts.test", "test.hosts.far", "test.hosts.far"),
    ],
)
def test_log_has_the_name_when_no_resolver_was_asked(  # noqa: PLR0913, PLR0917 - pytest's
    watching: Exporter, netns: str, address: str, name: str, domain: str, of_others: str
) -> None:
    """As with an encrypted one: the C library has it from /etc/hosts."""
    with program(netns, "name_client.py", "getaddrinfo", name, address, str(PORT)):
        code = f"import socket; socket.create_connection(({address!r}, {PORT})).sendall(b'x')"
        run(sys.executable, "-c", code, netns=netns)

    found = domains_in_log(watching, address, rows=2)
    assert {"name_client.py": domain, "-c": of_others} == {
        "name_client.py" if "name_client.py" in cmdline else "-c": domain
        for cmdline, domain in found
    }
