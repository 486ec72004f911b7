"""What is to be asked of VirusTotal next, and about what it has been asked already."""

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from picosnitch_exporter import descriptors
from picosnitch_exporter.model import KnownVerdict, Sha256, Verdict, VirusTotalResult

CAPACITY: Final = 4096
"""Questions that wait; at one in 15 s, those of 17 hours. What is refused is asked later."""
MAX_KNOWN: Final = 65_536
"""Verdicts that are remembered, 16 MB: what is forgotten is asked again."""
PENDING_SECONDS: Final = 3600.0
"""After which a file that was not analysed yet is asked about again."""
_DAY_SECONDS = 86_400.0


class Stage(Enum):
    """The next request of a question."""

    LOOK_UP = auto()
    UPLOAD_URL = auto()
    UPLOAD = auto()
    ANALYSIS = auto()


# Not frozen: it goes through stages.
@dataclass(slots=True, kw_only=True, eq=False)
class Question:
    """One content, until there is an answer or it is given up."""

    sha256: Sha256
    exe: str
    sequence: int = 0
    stage: Stage = Stage.LOOK_UP
    attempts: int = 0
    """Of the present stage."""
    descriptor: int | None = None
    size_bytes: int = 0
    upload_url: str | None = None
    analysis: str = ""

    def proceed(self, stage: Stage) -> None:
        """Goes to another stage."""
        self.stage = stage
        self.attempts = 0

    def close(self) -> None:
        """Closes the descriptor."""
        if self.descriptor is not None:
            descriptors.close(self.descriptor)
            self.descriptor = None


class Questions:
    """Waiting questions in order of when they are due, each content once. Not thread-safe."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._open: set[Sha256] = set()
        self._heap: list[tuple[float, int, Question]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._open

    @property
    def has_room(self) -> bool:
        """Whether another one would be taken."""
        return len(self._open) < self._capacity

    def add(self, question: Question, *, due: float) -> None:
        """Takes a question, or takes it back: then it keeps its place among those due."""
        if question.sha256 not in self._open:
            self._open.add(question.sha256)
            self._sequence += 1
            question.sequence = self._sequence
        heapq.heappush(self._heap, (due, question.sequence, question))

    def next_due(self) -> float | None:
        """When the first one is due; None where there is none."""
        return self._heap[0][0] if self._heap else None

    def pop(self) -> Question:
        """The first one; its content stays open until it is `closed`."""
        return heapq.heappop(self._heap)[2]

    def close(self, question: Question) -> None:
        """Forgets a question."""
        self._open.discard(question.sha256)
        question.close()

    def clear(self) -> None:
        """Forgets all that wait."""
        for _due, _sequence, question in self._heap:
            self.close(question)
        self._heap.clear()


class Known:
    """The verdicts there are, and when it is time to ask again. Not thread-safe."""

    def __init__(self, *, recheck_days: int, capacity: int = MAX_KNOWN) -> None:
        self._recheck_seconds = recheck_days * _DAY_SECONDS
        self._capacity = capacity
        self._verdicts: OrderedDict[Sha256, VirusTotalResult] = OrderedDict()

    def note(self, known: KnownVerdict) -> None:
        """Notes a verdict."""
        self._verdicts[known.sha256] = known.result
        self._verdicts.move_to_end(known.sha256)
        if len(self._verdicts) > self._capacity:
            self._verdicts.popitem(last=False)

    def is_final(self, sha256: Sha256) -> bool:
        """Whether VirusTotal has analysed the content."""
        result = self._verdicts.get(sha256)
        return result is not None and result.verdict not in (Verdict.UNKNOWN, Verdict.PENDING)

    def is_due(self, sha256: Sha256, *, now_seconds: float) -> bool:
        """Whether to ask, at this Unix time."""
        result = self._verdicts.get(sha256)
        return result is None or self.is_old(result, now_seconds=now_seconds)

    def is_old(self, result: VirusTotalResult, *, now_seconds: float) -> bool:
        """Whether it is time to ask again, at this Unix time."""
        # A clock that was set back must not silence questions until it has caught up.
        age_seconds = abs(now_seconds - result.checked_seconds)
        match result.verdict:
            case Verdict.PENDING | Verdict.DISABLED:
                return age_seconds >= PENDING_SECONDS
            case Verdict.CLEAN | Verdict.UNKNOWN:
                return 0 < self._recheck_seconds <= age_seconds
            case Verdict.MALICIOUS | Verdict.SUSPICIOUS:
                return False
