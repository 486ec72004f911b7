"""How many executables get series of their own."""

from collections import OrderedDict
from hashlib import blake2b
from typing import Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.catalog import Metric
from picosnitch_exporter.model import HOST, OTHER, Executable, Workload

Subject = tuple[Executable, Workload]
"""What series belong to."""

OTHERS: Subject = (OTHER, HOST)
"""Where what is beyond the bound is counted."""
REFUSED_REMEMBERED = 4096
_FINGERPRINT_BYTES = 16


class Counts(Protocol):
    """What state needs of `Health`."""

    def count(self, metric: Metric, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        """Adds to a counter of the exporter on itself."""


def fingerprint(subject: Subject) -> bytes:
    """Sixteen bytes by which a subject is known again, however long the path that it was given."""
    executable, workload = subject
    parts = (executable.sha256, executable.exe, workload.namespace, workload.pod)
    text = "\0".join((*parts, workload.container))
    return blake2b(text.encode(errors="surrogatepass"), digest_size=_FINGERPRINT_BYTES).digest()


class Cardinality:
    """Hands out `limit` slots for executables; what gets none is counted, and shares `OTHERS`.

    An executable that is refused again is counted again only after `REFUSED_REMEMBERED` others
    have been, so that the counter says how many they are and not how much they talk.
    """

    def __init__(self, limit: int, *, health: Counts) -> None:
        self._limit = limit
        self._health = health
        self._admitted = 0
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    @property
    def limit(self) -> int:
        """Slots there are."""
        return self._limit

    @property
    def admitted(self) -> int:
        """Slots in use."""
        return self._admitted

    def admit(self, subject: Subject) -> bool:
        """Whether an executable that has no slot gets one now."""
        if self._admitted < self._limit:
            self._admitted += 1
            self._refused.pop(fingerprint(subject), None)
            return True
        refused = fingerprint(subject)
        if refused in self._refused:
            self._refused.move_to_end(refused)
            return False
        self._health.count(catalog.SERIES_REFUSED, ("max_executables",))
        self._refused[refused] = None
        if len(self._refused) > REFUSED_REMEMBERED:
            self._refused.popitem(last=False)
        return False

    def release(self) -> None:
        """Frees the slot of an executable that has gone silent."""
        self._admitted -= 1
