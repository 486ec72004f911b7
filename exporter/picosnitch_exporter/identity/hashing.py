"""SHA-256 of open executables, in two threads of their own."""

import errno
import hashlib
import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from picosnitch_exporter import descriptors
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.model import UNHASHED, Sha256
from picosnitch_exporter.stamps import stamps_of

CAPACITY = 4096
"""Open descriptors that may wait. Well within the 20,000 that systemd and this program ask for."""
WORKERS = 2
SLICE_BYTES = 4 * 1024 * 1024
"""Read at a time before anything smaller that waits gets its turn: 3 ms at 1.2 GB/s."""
_BUFFER_BYTES = 256 * 1024
_ATTEMPTS = 3

MODIFIED = "modified"
QUEUE_FULL = "queue_full"
_REASONS = {
    errno.EIO: "io_error",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ESTALE: "gone",
    errno.ENODEV: "gone",
    errno.ENOTCONN: "gone",
    errno.EISDIR: "not_a_file",
    errno.EINVAL: "not_a_file",
    errno.ESPIPE: "not_a_file",
}


class HashingError(PicosnitchError):
    """A thread that hashes has died: a bug of this program, to be reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashOutcome:
    """What became of one descriptor; `sha256` is empty where `reason` says why there is none."""

    ticket: int
    sha256: Sha256
    reason: str
    changed_ns: int
    """The file's change time when its content was read; 0 where that did not stay the same."""
    seconds: float
    """Time spent reading and hashing, without the wait."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    ticket: int
    descriptor: int
    size_bytes: int
    modified_ns: int
    urgency: int
    changed_ns: int = 0
    is_started: bool = False
    offset: int = 0
    attempt: int = 1
    previous: str = ""
    seconds: float = 0.0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    is_cancelled: bool = False

    @property
    def is_small(self) -> bool:
        """Done in one slice."""
        return self.size_bytes <= SLICE_BYTES


class Hasher:
    """A queue of descriptors, and the threads that hash what they refer to.

    Files go by size first (what fits into one slice never waits behind what does not), then by
    urgency, then in order of arrival. A file's size and modification time have to be what the
    caller says, before and after it was read; else the outcome's reason is `modified`.
    Reading is done by position: the file offset, shared with whoever sent the descriptor, is
    neither used nor moved.
    """

    def __init__(
        self,
        *,
        capacity: int = CAPACITY,
        workers: int = WORKERS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._condition = threading.Condition()
        self._small: list[tuple[int, int, _Job]] = []
        self._big: list[tuple[int, int, _Job]] = []
        self._waiting: dict[int, _Job] = {}
        self._jobs: dict[int, _Job] = {}
        """All whose descriptor is open here."""
        self._large = 0
        """Of those, what does not fit into one slice."""
        self._sequence = 0
        self._is_closed = False
        self._outcomes: deque[HashOutcome] = deque()
        self._failure: BaseException | None = None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = [
            threading.Thread(target=self._work, name=f"hash-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable while `completed` has something to say."""
        return self._event

    @property
    def pending(self) -> int:
        """Descriptors that are open here."""
        return len(self._jobs)

    @property
    def is_crowded(self) -> bool:
        """Whether what takes long is about to keep out others of its kind."""
        return self._large >= self._capacity // 4

    def submit(
        self, descriptor: int, *, ticket: int, size_bytes: int, modified_ns: int, urgency: int
    ) -> None:
        """Takes over the descriptor and never blocks; the outcome carries the ticket.

        A lower urgency is served sooner. Above the bound the outcome is `queue_full`, for what does
        not fit into one slice above half of it: large files keep no small one out.
        """
        job = _Job(
            ticket=ticket,
            descriptor=descriptor,
            size_bytes=size_bytes,
            modified_ns=modified_ns,
            urgency=urgency,
        )
        with self._condition:
            is_refused = self.pending >= self._capacity or self._is_closed
            if not job.is_small:
                is_refused |= self._large >= self._capacity // 2
            if not is_refused:
                self._large += not job.is_small
                self._jobs[ticket] = job
                self._waiting[ticket] = job
                self._push(job)
                self._condition.notify()
        if is_refused:
            descriptors.close(descriptor)
            self._report(job, sha256=UNHASHED, reason=QUEUE_FULL)

    def hurry(self, ticket: int, *, urgency: int) -> None:
        """Raises the urgency of what still waits."""
        with self._condition:
            job = self._waiting.get(ticket)
            if job is not None and urgency < job.urgency:
                # The entry with the old urgency stays in the heap; `_take` skips it.
                job.urgency = urgency
                self._push(job)

    def cancel(self, ticket: int) -> None:
        """Gives up a job, before the next slice is read; it may have no outcome then."""
        with self._condition:
            job = self._jobs.get(ticket)
            if job is not None:
                job.is_cancelled = True

    def completed(self) -> list[HashOutcome]:
        """The outcomes since the last call, in order.

        Raises
        ------
        HashingError
            if a thread has died.
        """
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        if self._failure is not None:
            raise HashingError(
                f"hashing executables failed unexpectedly: {self._failure!r}; please report this",
            ) from self._failure
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        return outcomes

    def close(self) -> None:
        """Ends the threads and closes all descriptors; what waits has no outcome."""
        with self._condition:
            if self._is_closed:
                return
            self._is_closed = True
            for job in self._waiting.values():
                self._end(job)
            self._waiting.clear()
            self._small.clear()
            self._big.clear()
            self._condition.notify_all()
        for thread in self._threads:
            # A read that a dead file server never answers can't be interrupted: the thread is a
            # daemon, and its end is not worth waiting for.
            thread.join(timeout=1.0)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._event)

    def _push(self, job: _Job) -> None:
        heap = self._small if job.is_small else self._big
        self._sequence += 1
        heapq.heappush(heap, (job.urgency, self._sequence, job))

    def _take(self) -> _Job | None:
        """The next job, or None once closed. Blocks."""
        with self._condition:
            while not self._is_closed:
                for heap in (self._small, self._big):
                    while heap:
                        urgency, _sequence, job = heapq.heappop(heap)
                        if self._waiting.get(job.ticket) is job and urgency == job.urgency:
                            del self._waiting[job.ticket]
                            return job
                self._condition.wait()
            return None

    def _put_back(self, job: _Job) -> None:
        with self._condition:
            if not self._is_closed:
                self._waiting[job.ticket] = job
                self._push(job)
                return
        self._end(job)

    def _end(self, job: _Job) -> None:
        descriptors.close(job.descriptor)
        with self._condition:
            del self._jobs[job.ticket]
            self._large -= not job.is_small

    def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                if job.is_cancelled:
                    self._end(job)
                elif not self._hash_slice(job):
                    self._put_back(job)
        except Exception as error:  # noqa: BLE001  (handed to the main loop, which ends with it)
            self._failure = error
            os.eventfd_write(self._event, 1)

    def _hash_slice(self, job: _Job) -> bool:
        """Reads one slice; whether the job is finished."""
        begun = self._clock()
        try:
            outcome = self._advance(job)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, "unreadable")
            outcome = (UNHASHED, reason)
        job.seconds += self._clock() - begun
        if outcome is None:
            return False
        self._end(job)
        self._report(job, sha256=outcome[0], reason=outcome[1])
        return True

    def _advance(self, job: _Job) -> tuple[Sha256, str] | None:
        if not job.is_started:
            stamps = stamps_of(os.fstat(job.descriptor))
            if (stamps.size_bytes, stamps.modified_ns) != (job.size_bytes, job.modified_ns):
                return UNHASHED, MODIFIED
            job.changed_ns = stamps.changed_ns
            job.is_started = True
        end = min(job.offset + SLICE_BYTES, job.size_bytes)
        # Held for a slice only: most of the time there is nothing to hash.
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, end - job.offset)))
        while job.offset < end:
            length = os.preadv(job.descriptor, [buffer[: end - job.offset]], job.offset)
            if not length:
                return UNHASHED, MODIFIED
            job.digest.update(buffer[:length])
            job.offset += length
        if job.offset < job.size_bytes:
            return None
        return self._conclude(job)

    def _conclude(self, job: _Job) -> tuple[Sha256, str] | None:
        stamps = stamps_of(os.fstat(job.descriptor))
        if (stamps.size_bytes, stamps.modified_ns) != (job.size_bytes, job.modified_ns):
            return UNHASHED, MODIFIED
        if stamps.changed_ns == job.changed_ns:
            return Sha256(job.digest.hexdigest()), ""
        # Unlinked, renamed or its mode changed meanwhile, as a rule. It can also have been written
        # to and its modification time set back: a quiet reading tells, or readings that agree.
        digest = job.digest.hexdigest()
        if job.attempt == _ATTEMPTS:
            job.changed_ns = 0
            return (Sha256(digest), "") if digest == job.previous else (UNHASHED, MODIFIED)
        job.attempt += 1
        job.previous = digest
        job.is_started = False
        job.offset = 0
        job.digest = hashlib.sha256()
        return None

    def _report(self, job: _Job, *, sha256: Sha256, reason: str) -> None:
        self._outcomes.append(
            HashOutcome(
                ticket=job.ticket,
                sha256=sha256,
                reason=reason,
                changed_ns=job.changed_ns if sha256 else 0,
                seconds=job.seconds,
            ),
        )
        os.eventfd_write(self._event, 1)
