"""The records that the BPF programs write, as `ebpf/picosnitch.h` lays them out.

Pure: bytes in, values out. Layouts are those of the C compiler on the machine (native byte order,
natural alignment), and `tests/contract/test_wire_layout.py` compares them with the BTF of the
built object.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum, IntFlag, auto

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import Direction, FileIdentity, ProcessKey

WIRE_VERSION = 3
COMM_BYTES = 16
CMDLINE_BYTES = 512
DNS_BYTES = 1232
LOOKUP_ADDRESSES = 48
LOOKUP_NAME_BYTES = 256
CGROUP_PATH_BYTES = 508


class RecordKind(IntEnum):
    """`enum record_kind`."""

    FLOW = 1
    PROCESS = 2
    DNS = 3
    UNSEEN = 4
    LOOKUP = 5


class FlowFlag(IntFlag):
    """`enum flow_flags`."""

    FINAL = 1
    PROVISIONAL = 2
    SHARED = 4
    KERNEL = 8


class ProcessFlag(IntFlag):
    """`enum process_flags`."""

    CMDLINE_CUT = 1
    CMDLINE_MISSING = 2
    CMDLINE_LATE = 4
    EXEC = 8
    UNWATCHED = 16
    KERNEL = 32


class DnsFlag(IntFlag):
    """`enum dns_flags`."""

    CUT = 1


class Counter(IntEnum):
    """`enum counter`: indexes of the counters map."""

    LOST_TRANSMIT_BYTES = 0
    LOST_RECEIVE_BYTES = auto()
    LOST_FINAL_RECORDS = auto()
    LOST_FINAL_TRANSMIT_BYTES = auto()
    LOST_FINAL_RECEIVE_BYTES = auto()
    FALLBACK_RECORDS = auto()
    STORAGE_FAILED = auto()
    FLOWS_FULL = auto()
    PROCESS_RECORDS_DELAYED = auto()
    LIVE_RECORDS_DELAYED = auto()
    DNS_RECORDS_LOST = auto()
    UNSEEN_RECORDS_LOST = auto()
    CGROUPS_LOST = auto()
    IDLED_CALLS = auto()


HEADER = struct.Struct("=HHIQ")
_KEY = "QQII"
_IDENTITY = "QII"
FLOW = struct.Struct(f"={HEADER.format[1:]}{_KEY}{_IDENTITY}QQQIIII16s16sHHHBBII")
PROCESS = struct.Struct(f"={HEADER.format[1:]}{_KEY}{_KEY}{_IDENTITY}QqQQIHBB{COMM_BYTES}s")
DNS = struct.Struct(f"={HEADER.format[1:]}QIHH")
UNSEEN = struct.Struct(f"={HEADER.format[1:]}{_KEY}{_IDENTITY}II")
LOOKUP = struct.Struct(f"={HEADER.format[1:]}{_KEY}IHH{LOOKUP_ADDRESSES * 16}s{LOOKUP_NAME_BYTES}s")
CGROUP_KEY = struct.Struct("=QII")
CGROUP_PATH = struct.Struct(f"=I{CGROUP_PATH_BYTES}s")

_KIND = struct.Struct("=H")
RING_HEADER = struct.Struct("=II")
RING_BUSY = 1 << 31
RING_DISCARDED = 1 << 30
DIRECTIONS = (Direction.UNKNOWN, Direction.OUTBOUND, Direction.INBOUND)
"""By the number in a flow record."""


# Not frozen: a frozen dataclass sets its fields through object.__setattr__, which made decoding 2.4
# times slower, and there can be 10,000 of these a second.
@dataclass(slots=True)
class FlowRecord:
    """What moved on a socket since the previous record of the same socket, owner and peer."""

    flags: FlowFlag
    # By its place: of calls with just 20 keywords CPython 3.11 keeps the first 2,000 tuples of
    # their names, 0.4 MB, and never takes one of them again (maybe_freelist_pop()).
    _: KW_ONLY
    time_ns: int
    owner: ProcessKey
    executable: FileIdentity
    cookie: int
    transmit_bytes: int
    receive_bytes: int
    transmit_calls: int
    receive_calls: int
    connections: int
    connect_failures: int
    local_address: bytes
    """16 bytes, IPv4 as ::ffff:a.b.c.d; all zero where there is none."""
    remote_address: bytes
    local_port: int
    remote_port: int
    protocol: int
    family: int
    direction: Direction
    netns: int
    uid: int


@dataclass(slots=True, kw_only=True)
class ProcessRecord:
    """One process of a lineage; `generation` 0 is the process itself, 1 its parent, and so on."""

    flags: ProcessFlag
    time_ns: int
    key: ProcessKey
    parent: ProcessKey
    executable: FileIdentity
    exec_ns: int
    changed_ns: int
    """Change time of the executable at its exec, as in `stamps`; 0 where it was not seen."""
    cgroup_id: int
    """In the v2 hierarchy."""
    cgroup1_id: int = 0
    """In the one of the v1 hierarchies that is read, 0 where there is none."""
    uid: int
    generation: int
    comm: bytes
    cmdline: bytes
    """NUL separated, as in /proc/PID/cmdline."""


@dataclass(slots=True, kw_only=True)
class DnsRecord:
    """A DNS answer as it arrived: the payload of UDP, or a segment of TCP's stream."""

    flags: DnsFlag
    time_ns: int
    cookie: int
    netns: int
    """0 where the kernel did not know it yet: that of the socket's flow records."""
    protocol: int
    payload: bytes


@dataclass(slots=True, kw_only=True)
class UnseenRecord:
    """A socket whose bytes no hook can see."""

    time_ns: int
    owner: ProcessKey
    executable: FileIdentity
    family: int
    netns: int


@dataclass(slots=True, kw_only=True)
class LookupRecord:
    """What getaddrinfo() has answered to a process."""

    time_ns: int
    owner: ProcessKey
    netns: int
    name: bytes
    addresses: tuple[bytes, ...]
    """Of 16 bytes, IPv4 as ::ffff:a.b.c.d; zero, or there already, where there is no other."""


Record = FlowRecord | ProcessRecord | DnsRecord | UnseenRecord | LookupRecord


def split_ring(data: bytes) -> Iterator[bytes]:
    """Records between two positions of a BPF ring buffer, discarded ones left out.

    `data` begins at a record's header. Stops before a record that is still being written.
    Source: kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr.

    Raises
    ------
    WireError
        if a length points beyond the data.
    """
    offset = 0
    while offset + 8 <= len(data):
        word, _page = RING_HEADER.unpack_from(data, offset)
        if word & RING_BUSY:
            return
        length = word & ~(RING_BUSY | RING_DISCARDED)
        start = offset + 8
        if start + length > len(data):
            raise WireError(
                f"ring record of {length} bytes at {offset} ends beyond the {len(data)} read"
            )
        if not word & RING_DISCARDED:
            yield data[start : start + length]
        offset = start + (length + 7) // 8 * 8


def join_processes(data: bytes, limit: int) -> Iterator[bytes]:
    """Whole process records as pieces of a ring, of at most `limit` bytes each."""
    size = PROCESS.size + CMDLINE_BYTES
    pieces: list[bytes] = []
    length = 0
    for offset in range(0, len(data) - size + 1, size):
        used = PROCESS.size + min(PROCESS.unpack_from(data, offset)[-4], CMDLINE_BYTES)
        piece = RING_HEADER.pack(used, 0) + data[offset : offset + used] + bytes(-used % 8)
        if length + len(piece) > limit:
            yield b"".join(pieces)
            pieces.clear()
            length = 0
        pieces.append(piece)
        length += len(piece)
    if pieces:
        yield b"".join(pieces)


def decode(record: bytes) -> Record:
    """One record as a value.

    Raises
    ------
    WireError
        if its kind is unknown or its size is not the kind's.
    """
    if len(record) < HEADER.size:
        raise WireError(f"record of {len(record)} bytes is shorter than a header")
    kind = _KIND.unpack_from(record)[0]
    try:
        return _DECODERS[kind](record)
    except KeyError as error:
        raise WireError(f"record of unknown kind {kind}") from error
    except struct.error as error:
        raise WireError(f"record of kind {kind} has {len(record)} bytes: {error}") from error


def _decode_flow(record: bytes) -> FlowRecord:
    fields = FLOW.unpack(record)
    direction = fields[24]
    if direction >= len(DIRECTIONS):
        raise WireError(f"flow record with unknown direction {direction}")
    return FlowRecord(
        FlowFlag(fields[1]),
        time_ns=fields[3],
        owner=ProcessKey(start_ns=fields[4], exec_id=fields[5], tgid=fields[6]),
        executable=FileIdentity(inode=fields[8], device=fields[9], generation=fields[10]),
        cookie=fields[11],
        transmit_bytes=fields[12],
        receive_bytes=fields[13],
        transmit_calls=fields[14],
        receive_calls=fields[15],
        connections=fields[16],
        connect_failures=fields[17],
        local_address=fields[18],
        remote_address=fields[19],
        local_port=fields[20],
        remote_port=fields[21],
        protocol=fields[22],
        family=fields[23],
        direction=DIRECTIONS[direction],
        netns=fields[25],
        uid=fields[26],
    )


def encode_flow(record: FlowRecord) -> bytes:
    """A flow record as it would stand in the ring, with the ring's header before it."""
    owner, executable = record.owner, record.executable
    data = FLOW.pack(
        RecordKind.FLOW,
        record.flags,
        0,
        record.time_ns,
        owner.start_ns,
        owner.exec_id,
        owner.tgid,
        0,
        executable.inode,
        executable.device,
        executable.generation,
        record.cookie,
        record.transmit_bytes,
        record.receive_bytes,
        record.transmit_calls,
        record.receive_calls,
        record.connections,
        record.connect_failures,
        record.local_address,
        record.remote_address,
        record.local_port,
        record.remote_port,
        record.protocol,
        record.family,
        DIRECTIONS.index(record.direction),
        record.netns,
        record.uid,
    )
    return RING_HEADER.pack(len(data), 0) + data


def decode_process(record: bytes) -> ProcessRecord:
    """A process record as a value; raises as `decode` does."""
    fields = PROCESS.unpack_from(record)
    cmdline_bytes = fields[20]
    if PROCESS.size + cmdline_bytes != len(record):
        raise WireError(
            f"process record of {len(record)} bytes with a command line of {cmdline_bytes}"
        )
    return ProcessRecord(
        flags=ProcessFlag(fields[1]),
        time_ns=fields[3],
        key=ProcessKey(start_ns=fields[4], exec_id=fields[5], tgid=fields[6]),
        parent=ProcessKey(start_ns=fields[8], exec_id=fields[9], tgid=fields[10]),
        executable=FileIdentity(inode=fields[12], device=fields[13], generation=fields[14]),
        exec_ns=fields[15],
        changed_ns=fields[16],
        cgroup_id=fields[17],
        cgroup1_id=fields[18],
        uid=fields[19],
        generation=fields[21],
        comm=fields[23].split(b"\0", 1)[0],
        cmdline=record[PROCESS.size :],
    )


def _decode_dns(record: bytes) -> DnsRecord:
    fields = DNS.unpack_from(record)
    if DNS.size + fields[6] != len(record):
        raise WireError(f"DNS record of {len(record)} bytes with a payload of {fields[6]}")
    return DnsRecord(
        flags=DnsFlag(fields[1]),
        time_ns=fields[3],
        cookie=fields[4],
        netns=fields[5],
        protocol=fields[7],
        payload=record[DNS.size :],
    )


def _decode_unseen(record: bytes) -> UnseenRecord:
    fields = UNSEEN.unpack(record)
    return UnseenRecord(
        time_ns=fields[3],
        owner=ProcessKey(start_ns=fields[4], exec_id=fields[5], tgid=fields[6]),
        executable=FileIdentity(inode=fields[8], device=fields[9], generation=fields[10]),
        family=fields[11],
        netns=fields[12],
    )


def _decode_lookup(record: bytes) -> LookupRecord:
    fields = LOOKUP.unpack(record)
    count, name_bytes = fields[9], fields[10]
    if count > LOOKUP_ADDRESSES or name_bytes > LOOKUP_NAME_BYTES:
        raise WireError(f"lookup record with {count} addresses and {name_bytes} bytes of name")
    return LookupRecord(
        time_ns=fields[3],
        owner=ProcessKey(start_ns=fields[4], exec_id=fields[5], tgid=fields[6]),
        netns=fields[8],
        name=fields[12][:name_bytes],
        addresses=tuple(fields[11][16 * index : 16 * index + 16] for index in range(count)),
    )


_DECODERS: dict[int, Callable[[bytes], Record]] = {
    RecordKind.FLOW: _decode_flow,
    RecordKind.PROCESS: decode_process,
    RecordKind.DNS: _decode_dns,
    RecordKind.UNSEEN: _decode_unseen,
    RecordKind.LOOKUP: _decode_lookup,
}
