import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.log.ignore import IgnoreRules
from picosnitch_exporter.model import Sha256
from tests.log_samples import CURL, row

LABEL = st.text(alphabet="abcxyz019-", min_size=1, max_size=8)
DOMAIN = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


def is_ignored(*rules: str | int, **changes: str | int) -> bool:
    return IgnoreRules(rules).matches(replace(row(), **changes))  # type: ignore[arg-type]


def test_nothing_matches_when_there_are_no_rules() -> None:
    assert not is_ignored()


@pytest.mark.parametrize("port", [443, 50_000, "443", "50000"])
def test_ports_match_when_local_or_remote(port: int | str) -> None:
    assert is_ignored(port)


def test_port_is_no_address_when_given_as_number() -> None:
    assert not is_ignored(22, remote_address="0.0.0.22")


def test_hash_matches_only_exactly_when_case_differs() -> None:
    assert is_ignored(CURL.sha256.upper())
    assert not is_ignored("ac" * 32)
    program = replace(CURL, sha256=Sha256(""))
    assert not IgnoreRules([CURL.sha256]).matches(row(program=program))


@pytest.mark.parametrize(
    ("rule", "domain", "expected"),
    [
        ("com.example", "com.example", True),
        ("com.example", "com.example.a.b", True),
        ("com.example", "com.examples", False),
        ("com.example", "community.example", False),
        ("com.example", "com", False),
        ("com.goo", "com.google", False),
        ("com.example.", "COM.Example.www", True),
        ("com", "com.example", True),
        ("com.example", "", False),
    ],
)
def test_domain_matches_itself_and_subdomains(rule: str, domain: str, *, expected: bool) -> None:
    assert is_ignored(rule, domain=domain) is expected


@pytest.mark.parametrize(
    ("rule", "address", "expected"),
    [
        ("93.184.0.0/16", "93.184.216.34", True),
        ("93.184.216.34", "93.184.216.34", True),
        ("93.184.216.1/24", "93.184.216.34", True),
        ("93.185.0.0/16", "93.184.216.34", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "93.184.216.34", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("0.0.0.0/0", "not an address", False),
        ("0.0.0.0/0", "", False),
    ],
)
def test_subnet_matches_addresses_in_it(rule: str, address: str, *, expected: bool) -> None:
    assert is_ignored(rule, remote_address=address, local_address="") is expected
    assert is_ignored(rule, remote_address="", local_address=address) is expected


@pytest.mark.parametrize(
    "rule", [True, -1, 65_536, "", "a b", "10.0.0.0/33", "*.example.com", "[]"]
)
def test_rule_is_refused_by_name_when_it_is_none(rule: str | int) -> None:
    with pytest.raises(ConfigurationError, match=r"log\.ignore"):
        IgnoreRules([rule])


@given(rule=DOMAIN, labels=st.lists(LABEL, max_size=3))
def test_every_subdomain_matches_when_the_domain_is_a_rule(rule: str, labels: list[str]) -> None:
    rules = IgnoreRules([f"{rule}.x-"])
    assert rules.matches(replace(row(), domain=".".join([rule, "x-", *labels])))
    assert not rules.matches(replace(row(), domain=f"{rule}.x-tail"))


@given(
    network=st.one_of(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
        st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
    ),
    address=st.ip_addresses(),
)
def test_subnets_match_as_the_library_says(
    network: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    subnet = ipaddress.ip_network(network, strict=False)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    expected = address in subnet or (mapped is not None and mapped in subnet)
    assert expected is is_ignored(str(subnet), remote_address=str(address), local_address="")
