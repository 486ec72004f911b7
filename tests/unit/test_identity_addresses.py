import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picosnitch_exporter.identity.addresses import (
    UNSPECIFIED,
    address_text,
    protocol_name,
    scope_of,
)
from picosnitch_exporter.model import Scope

MAPPED = bytes(10) + b"\xff\xff"
NETWORKS = (
    (Scope.LOOPBACK, ("127.0.0.0/8", "::1/128")),
    (Scope.MULTICAST, ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8")),
    (Scope.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
    (
        Scope.PRIVATE,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    ),
)
EDGES = tuple(
    edge
    for _scope, networks in NETWORKS
    for text in networks
    for network in (ipaddress.ip_network(text),)
    for first, last in ((int(network.network_address), int(network.broadcast_address)),)
    for edge in (
        type(network.network_address)(max(first - 1, 0)),
        network.network_address,
        network.broadcast_address,
        type(network.network_address)(min(last + 1, 2**network.max_prefixlen - 1)),
    )
)


def sixteen(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return MAPPED + address.packed if address.version == 4 else address.packed


def expected(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Scope:
    if address.is_unspecified:
        return Scope.UNKNOWN
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
        if address.is_unspecified:
            return Scope.UNKNOWN
    for scope, networks in NETWORKS:
        if any(address in ipaddress.ip_network(text) for text in networks):
            return scope
    return Scope.PUBLIC


@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_scope_is_the_networks_when_at_its_edge(
    edge: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert expected(edge) == scope_of(sixteen(edge))


@given(st.ip_addresses())
@example(ipaddress.ip_address("::ffff:10.0.0.1"))
@example(ipaddress.ip_address("::ffff:0.0.0.0"))
def test_scope_is_that_of_the_registries_when_any_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert expected(address) == scope_of(sixteen(address))


@given(st.ip_addresses(v=4).filter(lambda address: not address.is_unspecified))
def test_text_is_ipv4_when_the_address_is_mapped(address: ipaddress.IPv4Address) -> None:
    assert str(address) == address_text(MAPPED + address.packed)


@given(st.binary(min_size=16, max_size=16).filter(lambda raw: raw[:12] != MAPPED and any(raw)))
def test_text_reads_back_when_ipv6(raw: bytes) -> None:
    assert raw == ipaddress.IPv6Address(address_text(raw)).packed


def test_text_is_empty_when_there_is_no_address() -> None:
    assert address_text(UNSPECIFIED) == ""
    assert scope_of(UNSPECIFIED) is Scope.UNKNOWN


@pytest.mark.parametrize(
    ("protocol", "family", "name"),
    [
        (1, 2, "icmp"),
        (2, 2, "igmp"),
        (6, 10, "tcp"),
        (17, 2, "udp"),
        (58, 10, "icmpv6"),
        (132, 2, "sctp"),
        (136, 10, "udplite"),
        (253, 2, "253"),
        (255, 2, "raw"),
        (262, 10, "tcp"),
        (0, 17, "packet"),
        (0, 40, "vsock"),
        (0, 44, "xdp"),
        (0, 99, "af-99"),
    ],
)
def test_protocol_is_its_keyword_when_it_has_one(protocol: int, family: int, name: str) -> None:
    assert name == protocol_name(protocol, family=family)
