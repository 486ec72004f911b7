"""Which rows of the log are asked for, as conditions on the table of connections."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from picosnitch_exporter.errors import UsageError

_SHA256_PART: Final = re.compile(r"[0-9a-f]{1,64}", re.IGNORECASE)
_GLOB: Final = re.compile(r"[*?\[]")
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is empty or None selects everything.

    `executable` is a path, a name, or a pattern of either; `sha256` the beginning of a hash;
    `domain` a name in either notation, with its subdomains; `address` an address or a subnet;
    `port` local or remote; `container` the beginning of an id.
    """

    since: int | None = None
    """Unix seconds, inclusive; `until` is exclusive."""
    until: int | None = None
    executable: str = ""
    sha256: str = ""
    domain: str = ""
    address: str = ""
    port: int | None = None
    uid: int | None = None
    container: str = ""

    @property
    def is_by_executable(self) -> bool:
        """Whether only times, executables and hashes select."""
        return not (self.domain or self.address or self.container) and (
            self.port is None and self.uid is None
        )


@dataclass(slots=True)
class Conditions:
    """Conditions of SQL, and the values of their marks."""

    parts: list[str] = field(default_factory=list)
    values: list[str | int] = field(default_factory=list)

    def add(self, part: str, *values: str | int) -> None:
        """Adds one that has to hold as well."""
        self.parts.append(part)
        self.values += values

    def where(self) -> str:
        """The clause, empty where there is no condition."""
        return f" WHERE {' AND '.join(self.parts)}" if self.parts else ""


def of_executables(selection: Selection, *, identifier: str) -> Conditions:
    """Conditions on a column that has the id of an executable."""
    conditions = Conditions()
    if selection.sha256:
        if not _SHA256_PART.fullmatch(selection.sha256):
            raise UsageError(f"--sha256: {selection.sha256!r} is not the beginning of a hash")
        _add_executables(conditions, identifier, "sha256 GLOB ?", f"{selection.sha256.lower()}*")
    if selection.executable:
        pattern = _pattern(selection.executable)
        if "/" in selection.executable:
            _add_executables(conditions, identifier, "exe GLOB ?", pattern)
        else:
            _add_executables(
                conditions,
                identifier,
                "(exe GLOB ? OR id IN (SELECT executable_id FROM programs WHERE name GLOB ?))",
                f"*/{pattern}",
                pattern,
            )
    return conditions


def of_connections(selection: Selection) -> Conditions:
    """Conditions on the table of connections, but those on the time."""
    conditions = Conditions()
    executables = of_executables(selection, identifier="executable_id")
    if executables.parts:
        conditions.add(
            "source_id IN (SELECT s.id FROM sources s"  # noqa: S608 as written below
            " JOIN programs p ON p.id = s.program_id"
            f"{executables.where()})",
            *executables.values,
        )
    if selection.domain:
        conditions.add(*_domain_condition(selection.domain))
    if selection.address:
        conditions.add(*_address_condition(selection.address))
    if selection.port is not None:
        if not -1 <= selection.port <= _MAX_PORT:
            raise UsageError(f"--port: {selection.port} is not a port (0 to {_MAX_PORT})")
        conditions.add("(lport = ? OR rport = ?)", selection.port, selection.port)
    if selection.uid is not None:
        conditions.add("source_id IN (SELECT id FROM sources WHERE uid = ?)", selection.uid)
    if selection.container:
        conditions.add(
            "source_id IN (SELECT id FROM sources WHERE container GLOB ?)",
            f"{_pattern(selection.container)}*",
        )
    return conditions


def is_in_network(address: str, network: str) -> bool:
    """Whether an address of the log is in a subnet; the function IN_NETWORK of queries."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _add_executables(conditions: Conditions, identifier: str, part: str, *values: str) -> None:
    conditions.add(f"{identifier} IN (SELECT id FROM executables WHERE {part})", *values)  # noqa: S608 as written above


def _domain_condition(domain: str) -> tuple[str, str, str, str, str]:
    name = domain.strip(".").lower()
    if not name:
        raise UsageError("--domain: empty")
    reversed_name = ".".join(reversed(name.split(".")))
    part = (
        "domain_id IN (SELECT id FROM domains WHERE lower(domain) IN (?, ?)"
        " OR lower(domain) GLOB ? OR lower(domain) GLOB ?)"
    )
    below = tuple(f"{_escape(each)}.*" for each in (name, reversed_name))
    return (part, name, reversed_name, below[0], below[1])


def _address_condition(address: str) -> tuple[str, str, str]:
    try:
        network = str(ipaddress.ip_network(address, strict=False))
    except ValueError as error:
        raise UsageError(f"--address: {address!r} is not an address or a subnet") from error
    chosen = "SELECT id FROM addresses WHERE in_network(address, ?)"
    return (f"(raddr_id IN ({chosen}) OR laddr_id IN ({chosen}))", network, network)


def _pattern(text: str) -> str:
    """What GLOB takes: patterns as they are, and anything else as itself."""
    return text if _GLOB.search(text) else _escape(text)


def _escape(text: str) -> str:
    return re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", text)
