"""`Log ignore`: which rows are left out of the logs.

Rules match the real values of a row, before any address or port is hidden.
"""

import ipaddress
import re
from collections.abc import Iterable

from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.model import LogRow

_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)*", re.IGNORECASE)
_MAX_PORT = 65_535
_CACHED_ADDRESSES = 16_384

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class IgnoreRules:
    """The rules, compiled once.

    A rule is a port (a number), a SHA-256, an address or subnet, or a domain in reversed notation.

    Raises
    ------
    ConfigurationError
        if one is none of these; the message names it.
    """

    def __init__(self, rules: Iterable[str | int]) -> None:
        self._ports: set[int] = set()
        self._hashes: set[str] = set()
        self._domains: set[str] = set()
        self._networks: list[_Network] = []
        self._addresses: dict[str, bool] = {}
        for rule in rules:
            self._add(rule)
        self.is_empty = not (self._ports or self._hashes or self._domains or self._networks)
        """Nothing is ever left out."""

    def matches(self, row: LogRow) -> bool:
        """Whether any rule matches the row."""
        if self.is_empty:
            return False
        return (
            row.local_port in self._ports
            or row.remote_port in self._ports
            or row.program.sha256 in self._hashes
            or self._matches_domain(row.domain)
            or self._matches_address(row.remote_address)
            or self._matches_address(row.local_address)
        )

    def _add(self, rule: str | int) -> None:
        # bool is an int, and True would be port 1.
        if isinstance(rule, int) and not isinstance(rule, bool):
            if not 0 <= rule <= _MAX_PORT:
                raise ConfigurationError(f"log.ignore: {rule} is not a port (0 to {_MAX_PORT})")
            self._ports.add(rule)
            return
        text = str(rule).strip()
        if _SHA256.fullmatch(text):
            self._hashes.add(text.lower())
            return
        # Before the subnets: to ip_network() a number is an address.
        if text.isascii() and text.isdigit() and int(text) <= _MAX_PORT:
            self._ports.add(int(text))
            return
        try:
            self._networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            if isinstance(rule, bool) or not _DOMAIN.fullmatch(text.strip(".")):
                raise ConfigurationError(
                    f"log.ignore: {rule!r} is not a port, a SHA-256, an address, a subnet "
                    "or a domain in reversed notation (com.example)",
                ) from error
            self._domains.add(text.strip(".").lower())

    def _matches_domain(self, domain: str) -> bool:
        if not domain or not self._domains:
            return False
        name = domain.lower().strip(".")
        while name:
            if name in self._domains:
                return True
            name = name.rpartition(".")[0]
        return False

    def _matches_address(self, address: str) -> bool:
        if not address or not self._networks:
            return False
        known = self._addresses.get(address)
        if known is None:
            if len(self._addresses) >= _CACHED_ADDRESSES:
                self._addresses.clear()
            known = self._addresses[address] = self._is_in_network(address)
        return known

    def _is_in_network(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return any(
            candidate in network
            for network in self._networks
            for candidate in (parsed, mapped)
            if candidate is not None and candidate.version == network.version
        )
