"""What was handed over last of each executable, packed: a sensor may know tens of thousands."""

import struct
from collections import OrderedDict
from typing import NamedTuple

from picosnitch_exporter.model import FileIdentity
from picosnitch_exporter.stamps import Stamps

MAX_FILES = 65_536
"""About 14 MB; a forgotten one is only handed over again."""
FAILED = Stamps(-1, -1, -1)
"""In place of the stamps of what could not be opened."""

_FILE = struct.Struct("=IQI")
_FOUND = struct.Struct("=qqqQQ")


class Found(NamedTuple):
    """What the last look at a file has found. Times are CLOCK_BOOTTIME in nanoseconds."""

    stamps: Stamps
    retry_ns: int = 0
    """From when on a failure is tried again; 0 after a success."""
    look_ns: int = 0
    """From when on it is looked whether the file has gone."""


class Examined:
    """By identity, what was found; of more than `max_files`, the one used least recently goes."""

    def __init__(self, *, max_files: int = MAX_FILES) -> None:
        self._max_files = max_files
        self._found: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, identity: FileIdentity) -> Found | None:
        """What was found; None where there was no look at it yet."""
        packed = self._found.get(_FILE.pack(*identity))
        if packed is None:
            return None
        size_bytes, modified_ns, changed_ns, retry_ns, look_ns = _FOUND.unpack(packed)
        return Found(Stamps(size_bytes, modified_ns, changed_ns), retry_ns, look_ns)

    def put(self, identity: FileIdentity, found: Found) -> None:
        """Keeps it in place of what was found before."""
        key = _FILE.pack(*identity)
        self._found[key] = _FOUND.pack(*found.stamps, found.retry_ns, found.look_ns)
        self._found.move_to_end(key)
        if len(self._found) > self._max_files:
            self._found.popitem(last=False)
