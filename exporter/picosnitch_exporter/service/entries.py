"""What stands in the journal: frames as they came, hashes, and flows carried into a new segment.

An entry begins with its kind and the difference between wall clock and CLOCK_BOOTTIME when it was
written, so that times come out right when it is replayed after a restart or a reboot.
"""

import json
import os
import struct
from dataclasses import dataclass

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import FileIdentity, KnownFile, Sha256
from picosnitch_exporter.stream import Frame, decode, encode

_ENTRY = struct.Struct("=Bq")
_SEGMENT = struct.Struct("=Q")
_FRAME, _HASHED, _CARRIED = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Flows that waited for a hash when a segment was closed, in the layout of the ring.

    They stand in that segment as well, so they count only once it is part of a commit.
    """

    segment: int
    data: bytes


Entry = Frame | KnownFile | Carried


def pack(entry: Entry, offset_ns: int) -> bytes:
    """An entry as the journal's bytes."""
    if isinstance(entry, KnownFile):
        return _ENTRY.pack(_HASHED, offset_ns) + _pack_file(entry)
    if isinstance(entry, Carried):
        return _ENTRY.pack(_CARRIED, offset_ns) + _SEGMENT.pack(entry.segment) + entry.data
    return _ENTRY.pack(_FRAME, offset_ns) + encode(entry)


def unpack(data: bytes) -> tuple[Entry, int]:
    """The entry and its clock offset in nanoseconds.

    Raises
    ------
    WireError
        if it is none.
    """
    try:
        kind, offset_ns = _ENTRY.unpack_from(data)
        body = data[_ENTRY.size :]
        if kind == _HASHED:
            return _unpack_file(body), offset_ns
        if kind == _CARRIED:
            (segment,) = _SEGMENT.unpack_from(body)
            return Carried(segment=segment, data=body[_SEGMENT.size :]), offset_ns
    except (struct.error, ValueError, TypeError) as error:
        raise WireError(f"malformed entry of the journal: {error}") from error
    if kind != _FRAME:
        raise WireError(f"entry of unknown kind {kind} in the journal")
    return decode(body), offset_ns


def _pack_file(file: KnownFile) -> bytes:
    identity = file.identity
    fields = [
        identity.device,
        identity.inode,
        identity.generation,
        file.size_bytes,
        file.modified_ns,
        file.changed_ns,
        file.sha256,
        os.fsencode(file.path).hex(),
        file.is_racy,
    ]
    return json.dumps(fields).encode("ascii")


def _unpack_file(body: bytes) -> KnownFile:
    device, inode, generation, size_bytes, modified_ns, changed_ns, sha256, path, is_racy = (
        json.loads(body)
    )
    return KnownFile(
        identity=FileIdentity(device=device, inode=inode, generation=generation),
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        changed_ns=changed_ns,
        sha256=Sha256(sha256),
        path=os.fsdecode(bytes.fromhex(path)),
        is_racy=bool(is_racy),
    )
