"""Every way to move bytes that the generator knows, as cases."""

from collections.abc import Iterable

from tests.kernel.cases import Case, End, pair
from tests.kernel.network import INTERFACE, address

IO_URING = ("io_uring-sqpoll", "io_uring-async", "io_uring-splice")
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
STREAM_BYTES, DATAGRAM_BYTES = 300_007, 20_011


def families() -> Iterable[Case]:
    for family, host in LOOPBACK.items():
        yield pair(
            f"tcp-{family}",
            "tcp",
            host=host,
            server={"mode": "echo"},
            client={"mode": "pingpong", "bytes": 100_003},
        )
        for connected in (0, 1):
            yield pair(
                f"udp-{family}-connected={connected}",
                "udp",
                host=host,
                server={"mode": "echo"},
                client={"mode": "pingpong", "bytes": 10_007, "connected": connected},
            )
    yield pair(
        "tcp-one-after-the-other", "tcp", both={"count": 5}, client={"bytes": 11}, connections=5
    )


def ways() -> Iterable[Case]:
    for via in (*SEND, "sendfile"):
        yield pair(f"tcp-send-by-{via}", "tcp", client={"bytes": STREAM_BYTES, "via": via})
    for via in ("fastopen", "fastopen-connect"):
        yield pair(
            f"tcp-send-by-{via}",
            "tcp",
            server={"via": via},
            client={"bytes": STREAM_BYTES, "via": via},
            place="left",
        )
    for via in (*RECEIVE, "tcp_zerocopy_receive"):
        yield pair(
            f"tcp-receive-by-{via}",
            "tcp",
            server={"via": via, "expect": STREAM_BYTES},
            client={"bytes": STREAM_BYTES},
        )
    for via in SEND:
        yield pair(
            f"udp-send-by-{via}",
            "udp",
            server={"expect": DATAGRAM_BYTES, "receive_via": "recvfrom"},
            client={"bytes": DATAGRAM_BYTES, "via": via},
        )
    for via in RECEIVE:
        yield pair(
            f"udp-receive-by-{via}",
            "udp",
            server={"expect": DATAGRAM_BYTES, "via": via},
            client={"bytes": DATAGRAM_BYTES},
        )
    for via in ("sendto", "sendmsg", "sendmmsg", "zerocopy", "io_uring-sendmsg"):
        yield pair(
            f"udp-unconnected-send-by-{via}",
            "udp",
            server={"expect": DATAGRAM_BYTES, "receive_via": "recvfrom"},
            client={"bytes": DATAGRAM_BYTES, "via": via, "connected": 0},
        )
    segment = 4096 + 12
    yield pair(
        "tcp-mapped-pages",
        "tcp",
        server={"via": "tcp_zerocopy_receive", "maxseg": segment},
        client={"bytes": 65536, "size": 65536, "via": "splice", "maxseg": segment},
    )


def protocols() -> Iterable[Case]:
    for scenario, protocol in (("mptcp", "tcp"), ("sctp", "sctp")):
        yield pair(scenario, scenario, protocol=protocol, client={"bytes": STREAM_BYTES})
    yield pair(
        "udplite", "udplite", server={"expect": DATAGRAM_BYTES}, client={"bytes": DATAGRAM_BYTES}
    )
    yield pair("ktls", "tcp", both={"ktls": 1}, client={"bytes": 100_003})
    yield pair("tcp-threads", "tcp", client={"bytes": STREAM_BYTES, "threads": 4})
    yield pair("udp-empty-datagrams", "udp", both={"count": 5, "size": 0})
    yield pair(
        "udp-gso-gro",
        "udp",
        server={"expect": 48_000, "gro": 1},
        client={"bytes": 48_000, "size": 12_000, "gso": 1200},
    )
    yield Case(
        name="udp-errqueue",
        protocol="udp",
        client=End(scenario="udp-errqueue", options={"count": 3, "size": 500}),
    )


def raw_sockets() -> Iterable[Case]:
    for family, host, icmp in (("v4", "127.0.0.1", "icmp"), ("v6", "::1", "icmpv6")):
        for scenario in ("ping", "raw-ping"):
            for connected in (0, 1):
                yield Case(
                    name=f"{scenario}-{family}-connected={connected}",
                    protocol=icmp,
                    place="left",
                    client=End(
                        scenario=scenario,
                        options={"host": host, "count": 3, "size": 100, "connected": connected},
                    ),
                )
        yield Case(
            name=f"raw-{family}",
            protocol="253",
            place="left",
            with_port=False,
            server=End(scenario="raw-server", options={"bind": host, "count": 5, "proto": 253}),
            client=End(
                scenario="raw-client",
                options={"host": host, "count": 5, "size": 333, "proto": 253},
            ),
        )
    yield Case(
        name="raw-own-headers",
        protocol="254",
        place="left",
        with_port=False,
        server=End(scenario="raw-server", options={"count": 5, "proto": 254}),
        client=End(
            scenario="raw-client",
            options={"count": 5, "size": 333, "proto": 254, "hdrincl": 1},
            protocol="raw",
        ),
    )


def packet_sockets() -> Iterable[Case]:
    for kind in ("dgram", "raw"):
        for sender in ("packet-send", "packet-tx-ring"):
            yield Case(
                name=f"{sender}-{kind}",
                protocol="packet",
                place="veth",
                with_port=False,
                server=End(
                    scenario="packet-receive",
                    options={"interface": INTERFACE, "type": kind, "count": 9},
                    scope="unknown",
                ),
                client=End(
                    scenario=sender,
                    options={"interface": INTERFACE, "type": kind, "count": 9, "size": 200},
                    scope="unknown",
                ),
            )


def scopes() -> Iterable[Case]:
    for scope in ("private", "public", "link_local", "private6", "public6", "link_local6"):
        host = address(scope, of_right=True)
        label = scope.rstrip("6")
        yield pair(
            f"tcp-{scope}",
            "tcp",
            host=host,
            scope=label,
            place="veth",
            server={"mode": "echo"},
            client={"mode": "pingpong", "bytes": 100_003},
        )
        for connected in (0, 1):
            yield pair(
                f"udp-{scope}-connected={connected}",
                "udp",
                host=host,
                scope=label,
                place="veth",
                server={"mode": "echo"},
                client={"mode": "pingpong", "bytes": 10_007, "connected": connected},
            )
        yield Case(
            name=f"raw-ping-{scope}",
            protocol="icmpv6" if scope.endswith("6") else "icmp",
            place="veth",
            client=End(
                scenario="raw-ping", options={"host": host, "count": 3, "size": 100}, scope=label
            ),
        )


def groups() -> Iterable[Case]:
    for name, group, scope in (
        ("multicast-v4", "239.77.0.1", "private"),
        ("multicast-v6", "ff15::77", "private"),
    ):
        bind = address("private6" if ":" in group else "private")
        for connected in (0, 1):
            yield Case(
                name=f"{name}-connected={connected}",
                protocol="udp",
                place="veth",
                server=End(
                    scenario="udp-server",
                    options={
                        "group": group,
                        "interface": INTERFACE,
                        "expect": DATAGRAM_BYTES,
                        "via": "recvfrom",
                    },
                    scope=scope,
                ),
                client=End(
                    scenario="udp-client",
                    options={
                        "host": group,
                        "bind": bind,
                        "interface": INTERFACE,
                        "bytes": DATAGRAM_BYTES,
                        "connected": connected,
                        "via": "send" if connected else "sendto",
                    },
                    scope="multicast",
                ),
            )
    yield Case(
        name="broadcast",
        protocol="udp",
        place="veth",
        server=End(
            scenario="udp-server",
            options={
                "bind": "0.0.0.0",
                "broadcast": 1,
                "expect": DATAGRAM_BYTES,
                "via": "recvfrom",
            },
            scope="private",
        ),
        client=End(
            scenario="udp-client",
            options={
                "host": "255.255.255.255",
                "bind": address("private"),
                "interface": INTERFACE,
                "broadcast": 1,
                "bytes": DATAGRAM_BYTES,
            },
            scope="multicast",
        ),
    )


CASES: list[Case] = [
    *families(),
    *ways(),
    *protocols(),
    *raw_sockets(),
    *packet_sockets(),
    *scopes(),
    *groups(),
]
