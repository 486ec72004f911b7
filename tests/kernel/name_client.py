"""Asks for a name, then connects: `name_client.py HOW NAME ADDRESS PORT`.

HOW is `getaddrinfo`, or the resolver's address and `/udp` or `/tcp`: then the query is made by hand
on a socket, as a static binary with a resolver of its own does. Says `asked`, connects once it has
read a line, and sends one byte to ADDRESS.
"""

import socket
import struct
import sys

TIMEOUT_SECONDS = 20.0


def ask_by_hand(resolver: str, name: str) -> None:
    """A query for an A record, and whatever comes back."""
    host, _slash, transport = resolver.partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!B2H", 0, 1, 1)
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as asking:
        asking.settimeout(TIMEOUT_SECONDS)
        if transport == "tcp":
            asking.connect((host, 53))
            asking.sendall(struct.pack("!H", len(query)) + query)
            with asking.makefile("rb") as answer:
                answer.read(struct.unpack("!H", answer.read(2))[0])
        else:
            # Not connected, as musl does it.
            asking.sendto(query, (host, 53))
            asking.recvfrom(4096)


def main() -> None:
    """Asks, waits, connects."""
    how, name, address, port = sys.argv[1:]
    if how == "getaddrinfo":
        found = socket.getaddrinfo(name, int(port), socket.AF_INET, socket.SOCK_STREAM)
        assert address in [str(one[4][0]) for one in found]
    else:
        ask_by_hand(how, name)
    print("asked", flush=True)  # noqa: T201
    sys.stdin.readline()
    with socket.create_connection((address, int(port)), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(b"x")


if __name__ == "__main__":
    main()
