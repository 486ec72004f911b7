"""The stream between the sensor (privileged) and the exporter (not): typed frames and descriptors.

One frame is one message of a SOCK_SEQPACKET socket pair; an open descriptor travels with the
frame that speaks of it. The exporter answers with `Resume` once and `Acknowledge` afterwards,
nothing else. Both sides treat what they receive as hostile: version, kind, length and every field
are checked before they are used.
"""

from picosnitch_exporter.stream.channel import MAX_RECORD_BYTES, Channel
from picosnitch_exporter.stream.codec import decode, encode
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

__all__ = [
    "FROM_EXPORTER",
    "FROM_SENSOR",
    "MAX_RECORD_BYTES",
    "Acknowledge",
    "CgroupPath",
    "Channel",
    "CommandLine",
    "ExecutableSeen",
    "Frame",
    "Hello",
    "Introductions",
    "KernelStatus",
    "MapUse",
    "ProgramUse",
    "Ready",
    "Records",
    "Resume",
    "Stopping",
    "decode",
    "encode",
]
