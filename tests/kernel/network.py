"""Two network namespaces, joined by a veth pair, with addresses of every scope."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "veth0"
# By the scope that a peer with the address has; the last digit is 1 on the left, 2 on the right.
ADDRESSES = {
    "private": ("10.77.0.1/24", "10.77.0.2/24"),
    "private6": ("fd77::1/64", "fd77::2/64"),
    "public": ("8.77.0.1/24", "8.77.0.2/24"),
    "public6": ("2a01:77::1/64", "2a01:77::2/64"),
    "link_local": ("169.254.77.1/24", "169.254.77.2/24"),
    "link_local6": ("fe80::77:1/64", "fe80::77:2/64"),
}
_SYSCTLS = {
    # Ping sockets and both ends of Fast Open are off by default.
    "net.ipv4.ping_group_range": "0 0",
    "net.ipv4.tcp_fastopen": "3",
    "net.ipv6.conf.all.accept_dad": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The names of the namespaces; each has a loopback of its own as well."""

    left: str
    right: str


def address(scope: str, *, of_right: bool = False) -> str:
    """Without the prefix length; with the interface where that is needed."""
    plain = ADDRESSES[scope][of_right].partition("/")[0]
    return f"{plain}%{INTERFACE}" if scope == "link_local6" else plain


def run(*command: str, netns: str | None = None) -> str:
    """The output of a command, in a namespace if one is named."""
    inside = ("ip", "netns", "exec", netns) if netns else ()
    done = subprocess.run([*inside, *command], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def make_network(name: str) -> Iterator[Network]:
    """Both namespaces, for as long as the block runs."""
    network = Network(left=f"{name}-left-{os.getpid()}", right=f"{name}-right-{os.getpid()}")
    made: list[str] = []
    try:
        for one in (network.left, network.right):
            run("ip", "netns", "add", one)
            made.append(one)
            _set_up(one)
        run(
            *("ip", "-n", network.left, "link", "add", INTERFACE, "type", "veth"),
            *("peer", "name", INTERFACE, "netns", network.right),
        )
        for index, one in enumerate((network.left, network.right)):
            run("ip", "-n", one, "link", "set", INTERFACE, "up", "addrgenmode", "none")
            for pair in ADDRESSES.values():
                flags = ("nodad",) if ":" in pair[index] else ()
                run("ip", "-n", one, "address", "add", pair[index], "dev", INTERFACE, *flags)
        yield network
    finally:
        for one in made:
            run("ip", "netns", "delete", one)


def _set_up(netns: str) -> None:
    run("ip", "-n", netns, "link", "set", "lo", "up")
    for key, value in _SYSCTLS.items():
        path = f"/proc/sys/{key.replace('.', '/')}"
        run("sh", "-c", f"echo {value} >{path}", netns=netns)
