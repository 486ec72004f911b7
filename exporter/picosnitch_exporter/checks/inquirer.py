"""The thread that asks VirusTotal, one request at a time, never faster than it may.

Nothing waits for it: questions and answers are queues within bounds, and everything that fails is
tried again later and counted by its result.
"""

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.held_files import HeldFiles
from picosnitch_exporter.checks.multipart import file_body
from picosnitch_exporter.checks.pace import Pace
from picosnitch_exporter.checks.questions import Known, Question, Questions, Stage
from picosnitch_exporter.checks.virustotal import (
    MAX_FILE_BYTES,
    SMALL_FILE_BYTES,
    Counts,
    RefusedError,
    VirusTotal,
)
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import KnownVerdict, Sha256, Verdict, VirusTotalResult
from picosnitch_exporter.state.cardinality import Counts as Counter

ANALYSIS_SECONDS: Final = 60.0
"""Between two looks at an analysis; VirusTotal takes some minutes."""
MAX_LOOKS: Final = 60
MAX_ATTEMPTS: Final = 3
"""Of a request whose answers are wrong for this content only, as far as can be told."""
GIVEN_UP_SECONDS: Final = 3600.0
CLAIMED_SECONDS: Final = 60.0
_MAX_GIVEN_UP = 4096
_MAX_ANSWERS = 4096
_JOIN_SECONDS = 0.5
_OF_THE_FILE = frozenset({"modified", "unreadable"})
_OF_THE_QUESTION = frozenset({"garbage", "refused"})

_log = logging.getLogger(__name__)


class SharedVerdicts(Protocol):
    """Verdicts that several hosts share. May block, and raise PicosnitchError."""

    def find(self, sha256: Sha256) -> VirusTotalResult | None:
        """What some host was told last."""

    def claim(self, sha256: Sha256) -> bool:
        """Whether this host is the one to ask; another one's claim ends after some minutes."""

    def tell(self, known: KnownVerdict) -> None:
        """Leaves an answer for the others."""

    def close(self) -> None:
        """Called by the thread when it ends."""


class Inquirer:
    """Questions in, verdicts out. All methods return at once.

    `failed` is called where the thread can't go on, which is a bug. `monotonic` is in seconds.
    """

    def __init__(  # noqa: PLR0913  (it brings all the others together)
        self,
        virustotal: VirusTotal,
        *,
        pace: Pace,
        recheck_days: int,
        uploads: bool,
        health: Counter,
        failed: Callable[[BaseException], None],
        abort: Callable[[], None],
        shared: SharedVerdicts | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._virustotal = virustotal
        self._pace = pace
        self._health = health
        self._failed = failed
        self._abort = abort
        self._shared = shared
        self._clock = clock
        self._monotonic = monotonic
        self._condition = threading.Condition()
        self._questions = Questions()
        self._known = Known(recheck_days=recheck_days)
        self._given_up: OrderedDict[Sha256, float] = OrderedDict()
        self._answers: deque[KnownVerdict] = deque(maxlen=_MAX_ANSWERS)
        self._is_closed = False
        self.held = HeldFiles(is_open_question=self._is_open) if uploads else None
        self._thread = threading.Thread(target=self._run, name="virustotal", daemon=True)

    def restore(self, verdicts: Iterable[KnownVerdict]) -> None:
        """Takes over what an earlier run was told; before `start`."""
        for known in verdicts:
            self._known.note(known)

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def ask(self, sha256: Sha256, exe: str) -> bool:
        """Asks about a content if it is time to; False where that has to be tried again later."""
        with self._condition:
            if not sha256 or sha256 in self._questions:
                return True
            if self._monotonic() < self._given_up.get(sha256, 0.0):
                return True
            if not self._known.is_due(sha256, now_seconds=self._clock()):
                return True
            if self._is_closed or not self._questions.has_room:
                return False
            question = Question(sha256=sha256, exe=exe)
            self._questions.add(question, due=self._monotonic())
            self._condition.notify()
        if self.held is not None:
            self.held.want(sha256)
        return True

    def take_answers(self) -> tuple[KnownVerdict, ...]:
        """The verdicts since the last call."""
        answers = []
        while self._answers:
            answers.append(self._answers.popleft())
        if self.held is not None:
            self.held.tick()
        return tuple(answers)

    def close(self) -> None:
        """Ends the thread, also in the middle of a request; what waits is asked by the next run."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._abort()
        if self._thread.is_alive():
            # Looking up a name can't be interrupted; its end is not worth waiting for.
            self._thread.join(_JOIN_SECONDS)
        if self.held is not None:
            self.held.close()

    def _is_open(self, sha256: Sha256) -> bool:
        with self._condition:
            return not self._known.is_final(sha256)

    def _run(self) -> None:
        try:
            while (question := self._next()) is not None:
                self._advance(question)
        except Exception as error:  # noqa: BLE001  (handed to the main loop, which ends with it)
            self._failed(error)
        finally:
            if self._shared is not None:
                self._shared.close()
            with self._condition:
                self._questions.clear()

    def _next(self) -> Question | None:
        """Waits for the next question that may be asked; None once closed."""
        with self._condition:
            while not self._is_closed:
                due = self._questions.next_due()
                if due is None:
                    self._condition.wait()
                    continue
                wait_seconds = max(due - self._monotonic(), self._pace.wait_seconds)
                if wait_seconds <= 0:
                    return self._questions.pop()
                self._condition.wait(wait_seconds)
        return None

    def _advance(self, question: Question) -> None:
        if question.stage is Stage.LOOK_UP and self._is_answered_by_others(question):
            return
        self._pace.begin()
        question.attempts += 1
        try:
            result = self._request(question)
        except RefusedError as error:
            self._note_refusal(question, error)
            return
        self._pace.succeeded()
        self._health.count(catalog.VIRUSTOTAL_REQUESTS, (result,))

    def _request(self, question: Question) -> str:
        """Makes the request of the question's stage; what came of it, for the metric."""
        match question.stage:
            case Stage.LOOK_UP:
                counts = self._virustotal.look_up(question.sha256)
                if counts is None:
                    self._note_unknown(question)
                    return "unknown"
                self._note_counts(question, counts)
                return "found"
            case Stage.UPLOAD_URL:
                question.upload_url = self._virustotal.upload_url()
                question.proceed(Stage.UPLOAD)
                self._first(question)
                return "upload_url"
            case Stage.UPLOAD:
                self._upload(question)
                return "uploaded"
            case Stage.ANALYSIS:
                counts = self._virustotal.analysis(question.analysis)
                if counts is not None:
                    self._note_counts(question, counts)
                    return "analysed"
                if question.attempts >= MAX_LOOKS:
                    self._close(question)
                else:
                    self._later(question, ANALYSIS_SECONDS)
                return "queued"

    def _upload(self, question: Question) -> None:
        descriptor = question.descriptor
        if descriptor is None:
            raise RefusedError("unreadable", "no descriptor is held")
        body = file_body(descriptor, sha256=question.sha256, size_bytes=question.size_bytes)
        question.analysis = self._virustotal.upload(body, url=question.upload_url)
        question.close()
        question.proceed(Stage.ANALYSIS)
        self._answer(question, self._result(Verdict.PENDING))
        self._later(question, ANALYSIS_SECONDS)

    def _note_unknown(self, question: Question) -> None:
        """Goes on to the upload, where there is something to upload."""
        descriptor = self.held.take(question.sha256) if self.held is not None else None
        if descriptor is not None:
            question.descriptor = descriptor
            question.size_bytes = os.fstat(descriptor).st_size
            if 0 < question.size_bytes <= MAX_FILE_BYTES:
                is_small = question.size_bytes <= SMALL_FILE_BYTES
                question.proceed(Stage.UPLOAD if is_small else Stage.UPLOAD_URL)
                self._first(question)
                return
        self._answer(question, self._result(Verdict.UNKNOWN))
        self._close(question)

    def _note_counts(self, question: Question, counts: Counts) -> None:
        self._answer(question, counts.judge(checked_seconds=self._clock()))
        if self.held is not None:
            self.held.drop(question.sha256)
        self._close(question)

    def _note_refusal(self, question: Question, error: RefusedError) -> None:
        self._health.count(catalog.VIRUSTOTAL_REQUESTS, (error.result,))
        if self._is_closed:
            self._close(question)
            return
        if error.result in _OF_THE_FILE:
            self._answer(question, self._result(Verdict.UNKNOWN))
            self._close(question)
            return
        pause = self._pace.failed(error.result, retry_after_seconds=error.retry_after_seconds)
        _log.warning(
            Event(
                "virustotal_failed",
                {
                    "result": error.result,
                    "error": str(error),
                    "pause_seconds": round(pause),
                    "waiting": len(self._questions),
                },
            )
        )
        is_upload = question.stage in (Stage.UPLOAD, Stage.UPLOAD_URL)
        if (is_upload or error.result in _OF_THE_QUESTION) and question.attempts >= MAX_ATTEMPTS:
            self._give_up(question)
            return
        if question.stage is Stage.UPLOAD and question.upload_url is not None:
            # It was for one upload.
            question.stage = Stage.UPLOAD_URL
        self._first(question)

    def _give_up(self, question: Question) -> None:
        if question.stage in (Stage.UPLOAD, Stage.UPLOAD_URL):
            self._answer(question, self._result(Verdict.UNKNOWN))
        with self._condition:
            self._given_up[question.sha256] = self._monotonic() + GIVEN_UP_SECONDS
            if len(self._given_up) > _MAX_GIVEN_UP:
                self._given_up.popitem(last=False)
        self._close(question)

    def _is_answered_by_others(self, question: Question) -> bool:
        """Whether another host has asked, or is asking; then it was dealt with."""
        if self._shared is None:
            return False
        try:
            result = self._shared.find(question.sha256)
            is_fresh = result is not None and not self._known.is_old(
                result, now_seconds=self._clock()
            )
            if result is not None and is_fresh and result.verdict is not Verdict.PENDING:
                self._answer(question, result, is_ours=False)
                self._close(question)
                return True
            # Uploaded and not analysed yet, or being asked.
            if is_fresh or not self._shared.claim(question.sha256):
                self._later(question, CLAIMED_SECONDS)
                return True
        except PicosnitchError as error:
            _log.warning(Event("shared_verdicts_failed", {"error": str(error)}))
        return False

    def _answer(
        self, question: Question, result: VirusTotalResult, *, is_ours: bool = True
    ) -> None:
        known = KnownVerdict(sha256=question.sha256, exe=question.exe, result=result)
        with self._condition:
            self._known.note(known)
        self._answers.append(known)
        if self._shared is not None and is_ours:
            try:
                self._shared.tell(known)
            except PicosnitchError as error:
                _log.warning(Event("shared_verdicts_failed", {"error": str(error)}))

    def _result(self, verdict: Verdict) -> VirusTotalResult:
        return VirusTotalResult(verdict=verdict, checked_seconds=self._clock())

    def _first(self, question: Question) -> None:
        """Goes on with it before any other one, so that few have a descriptor of their own."""
        with self._condition:
            self._questions.add(question, due=0.0)

    def _later(self, question: Question, seconds: float) -> None:
        with self._condition:
            self._questions.add(question, due=self._monotonic() + seconds)

    def _close(self, question: Question) -> None:
        with self._condition:
            self._questions.close(question)
