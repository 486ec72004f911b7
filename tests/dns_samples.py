"""DNS messages, and records of them, for the tests."""

import struct

import dns.flags
import dns.message
import dns.name
import dns.rrset

from picosnitch_exporter.model import Direction, FileIdentity, ProcessKey
from picosnitch_exporter.wire import DnsFlag, DnsRecord, FlowFlag, FlowRecord

UDP, TCP = 17, 6
NETNS = 4_026_531_840

ResourceRecord = tuple[str, int, str, str]
"""Owner, TTL, type, data: as in a zone file."""


def answer(name: str, *records: ResourceRecord, kind: str = "A") -> bytes:
    """A resolver's answer, names compressed."""
    response = dns.message.make_response(dns.message.make_query(name, kind))
    response.flags |= dns.flags.RA
    for owner, ttl, record_kind, data in records:
        response.answer.append(
            dns.rrset.from_text(dns.name.from_text(owner), ttl, "IN", record_kind, data)
        )
    return response.to_wire()


def simple_answer(name: str = "www.example.com", address: str = "192.0.2.1") -> bytes:
    kind = "AAAA" if ":" in address else "A"
    return answer(name, (name, 60, kind, address), kind=kind)


def framed(message: bytes) -> bytes:
    """As TCP carries it."""
    return struct.pack("!H", len(message)) + message


def dns_record(  # noqa: PLR0913 - each is a thing in which records differ
    payload: bytes,
    *,
    cookie: int = 100,
    seconds: float = 0,
    netns: int = NETNS,
    protocol: int = UDP,
    is_cut: bool = False,
) -> DnsRecord:
    return DnsRecord(
        flags=DnsFlag.CUT if is_cut else DnsFlag(0),
        time_ns=int(seconds * 1e9),
        cookie=cookie,
        netns=netns,
        protocol=protocol,
        payload=payload,
    )


def resolver_flow(
    *, owner: ProcessKey, cookie: int = 100, port: int = 53, netns: int = NETNS
) -> FlowRecord:
    """What the kernel says of the socket that a process asks its resolver with."""
    return FlowRecord(
        flags=FlowFlag.FINAL,
        time_ns=0,
        owner=owner,
        executable=FileIdentity(device=1, inode=2, generation=3),
        cookie=cookie,
        transmit_bytes=30,
        receive_bytes=60,
        transmit_calls=1,
        receive_calls=1,
        connections=1,
        connect_failures=0,
        local_address=bytes(16),
        remote_address=bytes(10) + b"\xff\xff\x7f\x00\x00\x35",
        local_port=40_000,
        remote_port=port,
        protocol=UDP,
        family=2,
        direction=Direction.OUTBOUND,
        netns=netns,
        uid=0,
    )
