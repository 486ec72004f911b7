"""Frames as bytes and back: a header of version, kind and length, then fields by the kind."""

import json
import math
import struct
from collections.abc import Callable
from typing import Any

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.model import FileIdentity, ProcessKey
from picosnitch_exporter.stream.frames import (
    FROM_EXPORTER,
    FROM_SENSOR,
    Acknowledge,
    CgroupPath,
    CommandLine,
    ExecutableSeen,
    Frame,
    Hello,
    Introductions,
    KernelStatus,
    MapUse,
    ProgramUse,
    Ready,
    Records,
    Resume,
    Stopping,
)
from picosnitch_exporter.wire import Counter

VERSION = 1
_PATH_BYTES = 4096

_HEADER = struct.Struct("=HHI")
_RECORDS = struct.Struct("=QQQ")
_POSITION = struct.Struct("=QQ")
_EXECUTABLE = struct.Struct("=QIIIQQqqHH16s")
_COMMAND_LINE = struct.Struct("=QQI")
_CGROUP = struct.Struct("=QI")
_MALFORMED = (
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RecursionError,
)
_KINDS: tuple[type[Frame], ...] = (*FROM_SENSOR, *FROM_EXPORTER)


def encode(frame: Frame) -> bytes:
    """A frame as the bytes of one message."""
    body = _encode_body(frame)
    return _HEADER.pack(VERSION, _KINDS.index(type(frame)) + 1, len(body)) + body


def _encode_body(frame: Frame) -> bytes:
    match frame:
        case Records():
            body = _RECORDS.pack(frame.instance, frame.start, frame.end) + frame.data
        case ExecutableSeen():
            body = _encode_executable(frame)
        case CommandLine():
            key = frame.key
            body = _COMMAND_LINE.pack(key.start_ns, key.exec_id, key.tgid) + frame.cmdline
        case CgroupPath():
            body = _CGROUP.pack(frame.cgroup_id, frame.hierarchy) + frame.path[:_PATH_BYTES]
        case Introductions():
            body = frame.data
        case Resume() | Acknowledge():
            body = _POSITION.pack(frame.instance, frame.position)
        case Hello():
            body = _encode_hello(frame)
        case KernelStatus():
            body = _encode_status(frame)
        case Ready() | Stopping():
            body = b""
    return body


def _encode_executable(frame: ExecutableSeen) -> bytes:
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


def _encode_hello(frame: Hello) -> bytes:
    return _to_json(
        [
            frame.wire_version,
            frame.instance,
            frame.plan,
            frame.refused_plans,
            frame.plan_losses,
            frame.hooks,
            frame.kernel_release,
            frame.adopted,
            frame.idle,
        ],
    )


def _encode_status(frame: KernelStatus) -> bytes:
    return _to_json(
        [
            frame.counters,
            [(use.name, use.entries, use.capacity) for use in frame.maps],
            frame.map_memory_bytes,
            [(use.name, use.runs, use.run_time_ns) for use in frame.programs],
            frame.drain_seconds,
            frame.sensor_lost,
            frame.idle_seconds,
            frame.open_descriptors,
            frame.resident_bytes,
            frame.cpu_seconds,
        ],
    )


def decode(message: bytes) -> Frame:
    """A message as a frame.

    Raises
    ------
    WireError
        if version, kind, length or a field is not what it has to be.
    """
    if len(message) < _HEADER.size:
        raise WireError(f"frame of {len(message)} bytes is shorter than a header")
    version, kind, length = _HEADER.unpack_from(message)
    if version != VERSION:
        raise WireError(
            f"frame of version {version}, this is version {VERSION}: restart both processes"
        )
    if not 1 <= kind <= len(_KINDS):
        raise WireError(f"frame of unknown kind {kind}")
    body = message[_HEADER.size :]
    if length != len(body):
        raise WireError(f"frame of kind {kind} says {length} bytes and has {len(body)}")
    frame_type = _KINDS[kind - 1]
    try:
        return _decode_body(frame_type, body)
    except _MALFORMED as error:
        raise WireError(f"malformed {frame_type.__name__} frame: {error}") from error


def _decode_body(frame_type: type[Frame], body: bytes) -> Frame:
    decoder = _DECODERS.get(frame_type)
    if decoder is not None:
        return decoder(body)
    if body:
        raise ValueError(f"{len(body)} bytes too many")
    return Ready() if frame_type is Ready else Stopping()


def _decode_records(body: bytes) -> Records:
    instance, start, end = _RECORDS.unpack_from(body)
    data = body[_RECORDS.size :]
    if end - start != len(data):
        raise ValueError(f"{len(data)} bytes for positions {start} to {end}")
    return Records(instance=instance, start=start, end=end, data=data)


def _decode_command_line(body: bytes) -> CommandLine:
    start_ns, exec_id, tgid = _COMMAND_LINE.unpack_from(body)
    key = ProcessKey(start_ns=start_ns, exec_id=exec_id, tgid=tgid)
    return CommandLine(key=key, cmdline=body[_COMMAND_LINE.size :])


def _decode_cgroup(body: bytes) -> CgroupPath:
    cgroup_id, hierarchy = _CGROUP.unpack_from(body)
    return CgroupPath(hierarchy=hierarchy, cgroup_id=cgroup_id, path=body[_CGROUP.size :])


def _decode_resume(body: bytes) -> Resume:
    instance, position = _POSITION.unpack(body)
    return Resume(instance=instance, position=position)


def _decode_acknowledge(body: bytes) -> Acknowledge:
    instance, position = _POSITION.unpack(body)
    return Acknowledge(instance=instance, position=position)


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
        raise ValueError(f"path of {len(path)} bytes, not {path_bytes}")
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
    values = _from_json(body)
    wire_version, instance, plan, refused, losses, hooks, kernel_release, adopted, idle = values
    return Hello(
        wire_version=int(wire_version),
        instance=int(instance),
        plan=str(plan),
        refused_plans=tuple((str(name), str(reason)) for name, reason in refused),
        plan_losses=tuple(str(loss) for loss in losses),
        hooks=tuple(str(hook) for hook in hooks),
        kernel_release=str(kernel_release),
        adopted=bool(adopted),
        idle=bool(idle),
    )


def _decode_status(body: bytes) -> KernelStatus:
    values = _from_json(body)
    counters, maps, memory, programs, drains, lost, idle, descriptors, resident, cpu = values
    return KernelStatus(
        counters=_counters(counters),
        maps=tuple(
            MapUse(name=str(name), entries=int(entries), capacity=int(capacity))
            for name, entries, capacity in maps
        ),
        map_memory_bytes=tuple((str(name), int(taken)) for name, taken in memory),
        programs=tuple(
            ProgramUse(name=str(name), runs=int(runs), run_time_ns=int(run_time_ns))
            for name, runs, run_time_ns in programs
        ),
        drain_seconds=tuple(float(value) for value in drains),
        sensor_lost=tuple((str(stage), str(reason), int(count)) for stage, reason, count in lost),
        idle_seconds=float(idle),
        open_descriptors=int(descriptors),
        resident_bytes=int(resident),
        cpu_seconds=float(cpu),
    )


def _counters(values: list[Any]) -> tuple[int, ...]:
    if len(values) != len(Counter):
        raise ValueError(f"{len(values)} counters instead of {len(Counter)}")
    return tuple(int(value) for value in values)


def _to_json(value: list[object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _from_json(body: bytes) -> list[Any]:
    value = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is no number")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number")


_DECODERS: dict[type[Frame], Callable[[bytes], Frame]] = {
    Records: _decode_records,
    ExecutableSeen: _decode_executable,
    CommandLine: _decode_command_line,
    Introductions: lambda body: Introductions(data=body),
    CgroupPath: _decode_cgroup,
    Resume: _decode_resume,
    Acknowledge: _decode_acknowledge,
    Hello: _decode_hello,
    KernelStatus: _decode_status,
}
