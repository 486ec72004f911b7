"""DNS messages: which name an answer gives to which addresses.

Names are taken apart by dnspython (see `dns_names`), which is imported with the first answer: on a
machine that asks no name server, 2.7 MB and 20 ms of the start would be for nothing.
Sources: RFC 1035 (4.1), RFC 3596 (AAAA), RFC 2181 (8, TTL).
"""

import ipaddress
import re
import struct
from dataclasses import dataclass

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.identity.addresses import address_text

MAX_RECORDS = 64
"""Read of one answer: what comes after is left unread. No resolver sends that many addresses."""

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")
_IS_ANSWER = 0x8000
_IS_CUT = 0x0200
_OPCODE_AND_RCODE = 0x780F
_IN = 1
_A, _CNAME, _AAAA = 1, 5, 28
_ADDRESS_PREFIXES = {(_A, 4): bytes(10) + b"\xff\xff", (_AAAA, 16): b""}
"""By type and length: what makes 16 bytes of it, IPv4 as ::ffff:a.b.c.d."""
_NOWHERE = ("", "0.0.0.0")  # noqa: S104  (nobody binds it: filters answer with it)
_MAX_TTL = 1 << 31
_MAX_NAME_BYTES = 255
_PLAIN = re.compile(rb"[a-z0-9_-]*")

_Labels = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The name that was asked for, reversed, and its addresses as text with their TTL."""

    domain: str
    addresses: tuple[tuple[str, int], ...]


def parse(message: bytes, *, is_cut: bool = False) -> Answer | None:
    """The addresses that a message gives for the name it was asked for, CNAMEs followed.

    None where there are none: a query, a negative answer, another type. `is_cut` says that the
    message may end early: then what is there counts.

    Raises
    ------
    WireError
        if it is no DNS message.
    """
    try:
        return _parse(message, is_cut=is_cut)
    except struct.error as error:
        raise WireError(f"malformed DNS answer of {len(message)} bytes: {error}") from error


def reverse(labels: _Labels) -> str:
    r"""A name in reversed notation and lower case: `com.example.www`.

    Everything in a label but letters, digits, hyphens and underscores becomes `\DDD` (decimal, RFC
    1035, 5.1), dots within it included, so that no answer can put anything else into a log. IDNA
    stays as it is on the wire (`xn--...`).
    """
    return ".".join(_label_text(label) for label in reversed(labels) if label)


def reverse_text(name: bytes) -> str:
    """The same of a name as text; empty for an address, and for what can't be a name."""
    try:
        ipaddress.ip_address(name.decode("ascii").partition("%")[0])
    except ValueError:
        return reverse(tuple(name.split(b"."))) if len(name) <= _MAX_NAME_BYTES else ""
    return ""


def _label_text(label: bytes) -> str:
    label = label.lower()
    if _PLAIN.fullmatch(label):
        return label.decode("ascii")
    return "".join(
        chr(byte) if _PLAIN.fullmatch(bytes((byte,))) else f"\\{byte:03d}" for byte in label
    )


def _parse(message: bytes, *, is_cut: bool) -> Answer | None:
    _id, flags, questions, answers, _authorities, _additionals = _HEADER.unpack_from(message)
    if not flags & _IS_ANSWER or flags & _OPCODE_AND_RCODE or questions != 1 or not answers:
        return None
    name, offset = _read_name(message, _HEADER.size)
    _QUESTION.unpack_from(message, offset)
    offset += _QUESTION.size
    aliases: dict[_Labels, _Labels] = {}
    found: list[tuple[_Labels, str, int]] = []
    try:
        for _ in range(min(answers, MAX_RECORDS)):
            offset = _read_record(message, offset, aliases, found)
    except struct.error:
        if not (is_cut or flags & _IS_CUT):
            raise
    names = _chain(name, aliases)
    addresses = tuple((address, ttl) for owner, address, ttl in found if owner in names)
    domain = reverse(name)
    return Answer(domain=domain, addresses=addresses) if domain and addresses else None


def _read_record(
    message: bytes,
    offset: int,
    aliases: dict[_Labels, _Labels],
    found: list[tuple[_Labels, str, int]],
) -> int:
    """Adds one record to what it is about; where the next one begins."""
    owner, offset = _read_name(message, offset)
    kind, network_class, ttl, length = _RECORD.unpack_from(message, offset)
    start = offset + _RECORD.size
    end: int = start + length
    if end > len(message):
        raise struct.error("a record ends beyond the message")
    if network_class != _IN:
        return end
    prefix = _ADDRESS_PREFIXES.get((kind, length))
    if prefix is not None:
        address = address_text(prefix + message[start:end])
        if address not in _NOWHERE:
            found.append((owner, address, ttl if ttl < _MAX_TTL else 0))
    elif kind == _CNAME:
        aliases[owner], _end = _read_name(message, start)
    return end


def _read_name(message: bytes, offset: int) -> tuple[_Labels, int]:
    """The labels of a name in lower case, and where it ends."""
    if offset >= len(message):
        raise struct.error("a name begins beyond the message")
    from picosnitch_exporter.log import dns_names

    labels, length = dns_names.read_name(message, offset)
    return tuple(label.lower() for label in labels), offset + length


def _chain(name: _Labels, aliases: dict[_Labels, _Labels]) -> set[_Labels]:
    """The name and all that it is an alias for, in whichever order the records came."""
    names: set[_Labels] = set()
    current: _Labels | None = name
    while current is not None and current not in names:
        names.add(current)
        current = aliases.get(current)
    return names
