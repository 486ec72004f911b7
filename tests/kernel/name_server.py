"""A resolver and a service, for one network namespace: `name_server.py PORT`.

Answers for every name below `test.`: the number that its first label ends in is the last part of
the address. Says `ready` once it listens, ends with its input.
"""

import re
import selectors
import socket
import struct
import sys

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

RESOLVERS = ("127.0.0.53", "::1")
MANY = 90
"""Addresses of a name that begins with `many`: more than a record of the ring takes."""
_NUMBER = re.compile(r"[a-z-]*(\d+)\.", re.IGNORECASE)


def respond(query: bytes) -> bytes:
    """An answer to a query."""
    asked = dns.message.from_wire(query)
    question = asked.question[0]
    response = dns.message.make_response(asked)
    response.flags |= dns.flags.RA
    found = _NUMBER.match(question.name.to_text())
    if found and question.rdtype == dns.rdatatype.A:
        name, number = question.name, int(found[1])
        if name.labels[0].startswith(b"alias"):
            target = dns.name.from_text("real.cdn.test.")
            response.answer.append(dns.rrset.from_text(name, 30, "IN", "CNAME", target.to_text()))
            name = target
        response.answer.append(dns.rrset.from_text(name, 30, "IN", "A", f"127.0.77.{number}"))
        if name.labels[0].startswith(b"many"):
            # A set of its own, as the order within a set is left to chance.
            others = [f"127.0.78.{other}" for other in range(1, MANY)]
            response.answer.append(dns.rrset.from_text(name, 30, "IN", "A", *others))
    return response.to_wire()


def main() -> None:
    """Serves until standard input ends."""
    watched = selectors.DefaultSelector()
    listening = [socket.create_server(("0.0.0.0", int(sys.argv[1])))]
    for address in RESOLVERS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        by_udp = socket.socket(family, socket.SOCK_DGRAM)
        by_udp.bind((address, 53))
        watched.register(by_udp, selectors.EVENT_READ, "udp")
        by_tcp = socket.create_server((address, 53), family=family)
        watched.register(by_tcp, selectors.EVENT_READ, "tcp")
        listening += [by_udp, by_tcp]
    watched.register(listening[0], selectors.EVENT_READ, "service")
    watched.register(sys.stdin, selectors.EVENT_READ, "end")
    print("ready", flush=True)  # noqa: T201
    while True:
        for key, _events in watched.select():
            if key.data == "end":
                return
            one = key.fileobj
            assert isinstance(one, socket.socket)
            if key.data == "udp":
                query, peer = one.recvfrom(4096)
                one.sendto(respond(query), peer)
                continue
            connection, _peer = one.accept()
            with connection:
                if key.data == "service":
                    while connection.recv(4096):
                        pass
                    continue
                size = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
                answer = respond(connection.recv(size, socket.MSG_WAITALL))
                # In two segments, the length torn apart.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                framed = struct.pack("!H", len(answer)) + answer
                connection.sendall(framed[:1])
                connection.sendall(framed[1:])


if __name__ == "__main__":
    main()
