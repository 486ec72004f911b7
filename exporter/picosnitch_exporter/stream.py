"""The stream between the sensor (privileged) and the exporter (not): typed frames and descriptors.

One frame is one message of a SOCK_SEQPACKET socket pair; an open descriptor travels with the
frame that speaks of it. The exporter answers with `Resume` once and `Acknowledge` afterwards,
nothing else. Both sides treat what they receive as hostile: version, kind, length and every field
are checked before they are used.
"""

import array
import contextlib
import json
import os
import socket
import struct
from dataclasses import dataclass

from picosnitch_exporter.errors import PeerGoneError, WireError
from picosnitch_exporter.model import FileIdentity, ProcessKey

VERSION = 1
MAX_RECORD_BYTES = 128 * 1024
"""Of ring data in one frame. Well below the send buffer, so that a frame always fits."""
SEND_BUFFER_BYTES = 1024 * 1024
_MAX_FRAME_BYTES = MAX_RECORD_BYTES + 4096
_PATH_BYTES = 4096
_MAX_DESCRIPTORS = 1

_HEADER = struct.Struct("=HHI")
_RECORDS = struct.Struct("=QQQ")
_POSITION = struct.Struct("=QQ")
_EXECUTABLE = struct.Struct("=QIIIQQqqqH16s")
_COMMAND_LINE = struct.Struct("=QQI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame of the sensor: what it attached to, and which ring its positions mean."""

    wire_version: int
    instance: int
    plan: str
    hooks: tuple[str, ...]
    kernel_release: str
    adopted: bool
    """True where pinned programs were taken over, which have counted in between."""
    idle: bool
    """True where those had stopped counting because nobody had read for the linger time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Bytes of the ring from position `start` to `end` (monotonic, in bytes)."""

    instance: int
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutableSeen:
    """An executable and, where it could be opened, its descriptor with the frame.

    The stamps are those of the descriptor when the sensor opened it. `reason` is empty with a
    descriptor, otherwise it says why there is none (a label value: gone, denied, mismatch, ...).
    """

    identity: FileIdentity
    tgid: int
    """Who ran it when it was seen."""
    seen_ns: int
    """CLOCK_BOOTTIME from which on this content may have run."""
    size_bytes: int
    modified_ns: int
    changed_ns: int
    links: int
    path: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The command line of a process that was not seen starting, from /proc."""

    key: ProcessKey
    cmdline: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MapUse:
    """How full a kernel map is."""

    name: str
    entries: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramUse:
    """What a BPF program has cost since it was loaded; 0 where kernel.bpf_stats_enabled is off."""

    name: str
    runs: int
    run_time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStatus:
    """Counters of the kernel side, by index of `wire.Counter`, and sizes."""

    counters: tuple[int, ...]
    maps: tuple[MapUse, ...]
    programs: tuple[ProgramUse, ...]
    drain_seconds: tuple[float, ...]
    """One for each drain since the previous status."""
    sensor_lost: tuple[tuple[str, str, int], ...]
    """(stage, reason, count) of what the sensor itself could not do, monotonic."""
    open_descriptors: int
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The hooks count, and what ran before has been handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Last frame: the exporter commits what it has and ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where the exporter's books end; `instance` 0 where it has none."""

    instance: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """Everything before `position` is safe: the ring may forget it."""

    instance: int
    position: int


Frame = (
    Hello
    | Records
    | ExecutableSeen
    | CommandLine
    | KernelStatus
    | Ready
    | Stopping
    | Resume
    | Acknowledge
)
FROM_SENSOR = (Hello, Records, ExecutableSeen, CommandLine, KernelStatus, Ready, Stopping)
FROM_EXPORTER = (Resume, Acknowledge)

_KINDS: tuple[type[Frame], ...] = (*FROM_SENSOR, *FROM_EXPORTER)


def encode(frame: Frame) -> bytes:
    """A frame as the bytes of one message."""
    body = _encode_body(frame)
    return _HEADER.pack(VERSION, _KINDS.index(type(frame)) + 1, len(body)) + body


def _encode_body(frame: Frame) -> bytes:
    match frame:
        case Records():
            return _RECORDS.pack(frame.instance, frame.start, frame.end) + frame.data
        case ExecutableSeen():
            identity = frame.identity
            path = frame.path[:_PATH_BYTES]
            fixed = _EXECUTABLE.pack(
                identity.inode,
                identity.device,
                identity.generation,
                frame.tgid,
                frame.seen_ns,
                frame.size_bytes,
                frame.modified_ns,
                frame.changed_ns,
                frame.links,
                len(path),
                frame.reason.encode("ascii"),
            )
            return fixed + path
        case CommandLine():
            key = frame.key
            return _COMMAND_LINE.pack(key.start_ns, key.exec_id, key.tgid) + frame.cmdline
        case Resume() | Acknowledge():
            return _POSITION.pack(frame.instance, frame.position)
        case Hello():
            return _to_json(
                [
                    frame.wire_version,
                    frame.instance,
                    frame.plan,
                    frame.hooks,
                    frame.kernel_release,
                    frame.adopted,
                    frame.idle,
                ],
            )
        case KernelStatus():
            return _to_json(
                [
                    frame.counters,
                    [(use.name, use.entries, use.capacity) for use in frame.maps],
                    [(use.name, use.runs, use.run_time_ns) for use in frame.programs],
                    frame.drain_seconds,
                    frame.sensor_lost,
                    frame.open_descriptors,
                    frame.resident_bytes,
                ],
            )
        case Ready() | Stopping():
            return b""


def decode(message: bytes) -> Frame:
    """A message as a frame.

    Raises
    ------
    WireError
        if version, kind, length or a field is not what it has to be.
    """
    if len(message) < _HEADER.size:
        msg = f"frame of {len(message)} bytes is shorter than a header"
        raise WireError(msg)
    version, kind, length = _HEADER.unpack_from(message)
    if version != VERSION:
        msg = f"frame of version {version}, this is version {VERSION}: restart both processes"
        raise WireError(msg)
    if not 1 <= kind <= len(_KINDS):
        msg = f"frame of unknown kind {kind}"
        raise WireError(msg)
    body = message[_HEADER.size :]
    if length != len(body):
        msg = f"frame of kind {kind} says {length} bytes and has {len(body)}"
        raise WireError(msg)
    frame_type = _KINDS[kind - 1]
    try:
        return _decode_body(frame_type, body)
    except (struct.error, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        msg = f"malformed {frame_type.__name__} frame: {error}"
        raise WireError(msg) from error


def _decode_body(frame_type: type[Frame], body: bytes) -> Frame:
    if frame_type is Records:
        instance, start, end = _RECORDS.unpack_from(body)
        data = body[_RECORDS.size :]
        if end - start != len(data):
            msg = f"{len(data)} bytes for positions {start} to {end}"
            raise ValueError(msg)
        return Records(instance=instance, start=start, end=end, data=data)
    if frame_type is ExecutableSeen:
        return _decode_executable(body)
    if frame_type is CommandLine:
        start_ns, exec_id, tgid = _COMMAND_LINE.unpack_from(body)
        return CommandLine(
            key=ProcessKey(start_ns=start_ns, exec_id=exec_id, tgid=tgid),
            cmdline=body[_COMMAND_LINE.size :],
        )
    if frame_type is Resume:
        instance, position = _POSITION.unpack(body)
        return Resume(instance=instance, position=position)
    if frame_type is Acknowledge:
        instance, position = _POSITION.unpack(body)
        return Acknowledge(instance=instance, position=position)
    if frame_type is Hello:
        return _decode_hello(body)
    if frame_type is KernelStatus:
        return _decode_status(body)
    if body:
        msg = f"{len(body)} bytes too many"
        raise ValueError(msg)
    return Ready() if frame_type is Ready else Stopping()


def _decode_executable(body: bytes) -> ExecutableSeen:
    (
        inode,
        device,
        generation,
        tgid,
        seen_ns,
        size_bytes,
        modified_ns,
        changed_ns,
        links,
        path_bytes,
        reason,
    ) = _EXECUTABLE.unpack_from(body)
    path = body[_EXECUTABLE.size :]
    if len(path) != path_bytes:
        msg = f"path of {len(path)} bytes, not {path_bytes}"
        raise ValueError(msg)
    return ExecutableSeen(
        identity=FileIdentity(inode=inode, device=device, generation=generation),
        tgid=tgid,
        seen_ns=seen_ns,
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        changed_ns=changed_ns,
        links=links,
        path=path,
        reason=reason.rstrip(b"\0").decode("ascii"),
    )


def _decode_hello(body: bytes) -> Hello:
    wire_version, instance, plan, hooks, kernel_release, adopted, idle = _from_json(body)
    return Hello(
        wire_version=int(wire_version),
        instance=int(instance),
        plan=str(plan),
        hooks=tuple(str(hook) for hook in hooks),
        kernel_release=str(kernel_release),
        adopted=bool(adopted),
        idle=bool(idle),
    )


def _decode_status(body: bytes) -> KernelStatus:
    counters, maps, programs, drain_seconds, lost, descriptors, resident = _from_json(body)
    return KernelStatus(
        counters=tuple(int(value) for value in counters),
        maps=tuple(
            MapUse(name=str(name), entries=int(entries), capacity=int(capacity))
            for name, entries, capacity in maps
        ),
        programs=tuple(
            ProgramUse(name=str(name), runs=int(runs), run_time_ns=int(run_time_ns))
            for name, runs, run_time_ns in programs
        ),
        drain_seconds=tuple(float(value) for value in drain_seconds),
        sensor_lost=tuple((str(stage), str(reason), int(count)) for stage, reason, count in lost),
        open_descriptors=int(descriptors),
        resident_bytes=int(resident),
    )


def _to_json(value: list[object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _from_json(body: bytes) -> list[object]:
    value = json.loads(body)
    if not isinstance(value, list):
        msg = "not a list"
        raise TypeError(msg)
    return value


class Channel:
    """One end of the stream. Not safe for use by two threads in the same direction at once."""

    def __init__(self, sock: socket.socket, *, receives: tuple[type[Frame], ...]) -> None:
        self._sock = sock
        self._receives = receives
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """The two ends, for the sensor and for the exporter."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self) -> int:
        """The descriptor, for poll()."""
        return self._sock.fileno()

    def close(self) -> None:
        """Ends the stream; the other side gets `PeerGoneError`."""
        self._sock.close()

    def send(self, frame: Frame, *, descriptor: int | None = None) -> None:
        """Sends one frame; blocks while the other side is behind.

        Raises
        ------
        PeerGoneError
            if the other side has closed the stream.
        BlockingIOError
            if the socket is non-blocking and full.
        """
        ancillary = []
        if descriptor is not None:
            rights = array.array("i", [descriptor]).tobytes()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        try:
            self._sock.sendmsg([encode(frame)], ancillary)
        except (BrokenPipeError, ConnectionResetError) as error:
            msg = "the other process has closed the stream"
            raise PeerGoneError(msg) from error

    def receive(self) -> tuple[Frame, int | None]:
        """The next frame and the descriptor that came with it, which is the caller's to close.

        Raises
        ------
        PeerGoneError
            if the other side has closed the stream.
        WireError
            if the frame is malformed or not one that this side receives.
        """
        try:
            message, ancillary, flags, _address = self._sock.recvmsg(
                _MAX_FRAME_BYTES,
                socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS),
                socket.MSG_CMSG_CLOEXEC,
            )
        except ConnectionResetError as error:
            msg = "the other process has closed the stream"
            raise PeerGoneError(msg) from error
        descriptors = _received_descriptors(ancillary)
        try:
            if not message:
                msg = "the other process has closed the stream"
                raise PeerGoneError(msg)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                msg = "frame too long, or with more descriptors than it may have"
                raise WireError(msg)
            frame = decode(message)
            if not isinstance(frame, self._receives):
                msg = f"a {type(frame).__name__} frame from the wrong side"
                raise WireError(msg)
            wants_descriptor = isinstance(frame, ExecutableSeen) and not frame.reason
            if wants_descriptor != bool(descriptors):
                msg = f"a {type(frame).__name__} frame with {len(descriptors)} descriptors"
                raise WireError(msg)
        except (PeerGoneError, WireError):
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            raise
        return frame, descriptors[0] if descriptors else None


def _received_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) // descriptors.itemsize * descriptors.itemsize])
    return list(descriptors)
