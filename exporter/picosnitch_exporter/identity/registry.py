"""What is known of the contents of executables, and which of them a process ran."""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from picosnitch_exporter import descriptors
from picosnitch_exporter.identity.hashing import HashOutcome
from picosnitch_exporter.identity.recent import Recent
from picosnitch_exporter.identity.versions import Chain, Version, VersionState
from picosnitch_exporter.model import UNHASHED, FileIdentity, KnownFile, Sha256
from picosnitch_exporter.stream import ExecutableSeen

MAX_IDENTITIES = 65_536
"""Files whose versions are remembered, and as many contents with their stamps: 67 MB if all of
them are in use. What is used least recently goes first, and a process keeps what it ran."""
MAX_PATH_BYTES = 32 << 20
"""Of the paths in each of them: one of 4,096 bytes can take 16 KB of memory."""
GRACE_NS = 2_000_000_000
"""How long a file that traffic speaks of may take to be shown."""
STALLED_NS = 120_000_000_000
"""How long hashing may take: a file server that never answers must not hold traffic for ever."""
ABANDONED_NS = 1_800_000_000_000
"""How much longer it goes on for those that run the file later. Of one without an end (sparse, of
8 EiB) it has to end; sooner, where such files keep others waiting."""
RACY_NS = 2_000_000_000
"""A file that was changed less than this before it was seen can change again without its stamps
showing it (their granularity goes from 1 ms to the 2 s of FAT): equal stamps prove nothing then."""

KERNEL_PATH = "[kernel]"
_MIN_WANTED = 0
_UNWANTED = 1


class HashQueue(Protocol):
    """What the registry needs of `Hasher`."""

    def submit(
        self, descriptor: int, *, ticket: int, size_bytes: int, modified_ns: int, urgency: int
    ) -> None:
        """Takes over the descriptor."""

    def hurry(self, ticket: int, *, urgency: int) -> None:
        """Raises the urgency of what still waits."""

    @property
    def is_crowded(self) -> bool:
        """Whether what takes long should be cancelled."""

    def cancel(self, ticket: int) -> None:
        """Gives up what was submitted."""

    def completed(self) -> list[HashOutcome]:
        """The outcomes since the last call."""


_Stamps = tuple[FileIdentity, int, int, int]


class Keeper(Protocol):
    """Who may have a use for a file's descriptor after it was hashed."""

    def offer(self, sha256: Sha256, descriptor: int) -> None:
        """Takes over the descriptor, and closes it where there is no use for it."""


class Registry:
    """Versions of executables by file, and the contents that need not be hashed again.

    A process ran the latest version that was seen before its exec, or the first one. `clock` is
    monotonic and in nanoseconds, `wall_clock` that of file stamps. Not safe for several threads.
    """

    def __init__(  # noqa: PLR0913  (clocks and bounds are injected)
        self,
        hasher: HashQueue,
        *,
        keeper: Keeper | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
        max_identities: int = MAX_IDENTITIES,
        max_path_bytes: int = MAX_PATH_BYTES,
        grace_ns: int = GRACE_NS,
        stalled_ns: int = STALLED_NS,
    ) -> None:
        self._hasher = hasher
        self._keeper = keeper
        # For the keeper, while the hasher has the descriptor; by ticket.
        self._spares: dict[int, int] = {}
        self._clock = clock
        self._wall_clock = wall_clock
        self._grace_ns = grace_ns
        self._stalled_ns = stalled_ns
        self._chains: Recent[FileIdentity, Chain] = Recent(
            max_entries=max_identities, max_bytes=max_path_bytes
        )
        self._known: Recent[_Stamps, Sha256] = Recent(
            max_entries=max_identities, max_bytes=max_path_bytes
        )
        self._tickets: dict[int, Version] = {}
        self._last_ticket = 0
        # In order of deadline, as each queue has one period only.
        self._unseen: deque[tuple[int, Version]] = deque()
        self._hashing: deque[tuple[int, Version]] = deque()
        self._stalled: deque[tuple[int, Version]] = deque()
        self._settled: list[Version] = []
        self._restored: Recent[FileIdentity, KnownFile] = Recent(
            max_entries=max_identities, max_bytes=max_path_bytes
        )
        self._new_files: dict[_Stamps, KnownFile] = {}
        self._new_bytes = 0
        self._max_new_bytes = max_path_bytes
        self._hashed: list[KnownFile] = []
        self.trusts_restored = False
        """While only what the run before has seen is taken in: it watched, so a file that nobody
        has shown again since had the content that was hashed."""
        self.kernel = Version(
            identity=FileIdentity(device=0, inode=0, generation=0),
            path=KERNEL_PATH,
            state=VersionState.IMPOSSIBLE,
            reason="kernel",
        )

    def restore(self, files: Iterable[KnownFile]) -> None:
        """Takes over what earlier runs have hashed, and what a process ran that ended meanwhile."""
        for file in files:
            self._remember(file)
            self._restored.put(file.identity, file, weight_bytes=sys.getsizeof(file.path))

    def learn(self, file: KnownFile) -> None:
        """Takes over a hash of the journal, for whatever was seen with these stamps."""
        self._remember(file)
        self._note_new(file)
        chain = self._chain(file.identity)
        for version in chain.versions:
            if not version.is_settled and _stamps(version) == _stamps(file):
                self._settle(version, sha256=file.sha256)
                return

    def take_hashed(self) -> list[KnownFile]:
        """What has been hashed since the last call, for the journal."""
        hashed = self._hashed
        self._hashed = []
        return hashed

    def take_new_files(self) -> tuple[KnownFile, ...]:
        """The contents that have been hashed since the last call."""
        files = tuple(self._new_files.values())
        self._new_files.clear()
        self._new_bytes = 0
        return files

    def take_settled(self) -> list[Version]:
        """The versions that have been settled since the last call."""
        settled = self._settled
        self._settled = []
        return settled

    def version_of(self, identity: FileIdentity, *, exec_ns: int, changed_ns: int = 0) -> Version:
        """What a process that was executed then (CLOCK_BOOTTIME; 0: before anybody looked) ran.

        `changed_ns` is the file's change time (Unix time) at that moment, 0 where unknown.
        """
        if not identity.is_file:
            return self.kernel
        chain = self._chain(identity)
        may_be_unseen = not self.trusts_restored and chain.may_be_unseen(changed_ns)
        if not chain.versions or may_be_unseen:
            version = Version(identity=identity, is_wanted=True)
            chain.versions.append(version)
            self._unseen.append((self._clock() + self._grace_ns, version))
            return version
        chosen = chain.choose(exec_ns, changed_ns)
        if chosen is None:
            chosen = chain.forgotten = Version(identity=identity, path=chain.versions[0].path)
            self._settle(chosen, reason="forgotten")
        if not chosen.is_wanted:
            chosen.is_wanted = True
            if chosen.ticket and not chosen.is_settled:
                self._hasher.hurry(chosen.ticket, urgency=_MIN_WANTED)
        return chosen

    def seen(self, frame: ExecutableSeen, descriptor: int | None) -> Version:
        """Notes that a file is executed; the descriptor becomes the registry's to close."""
        chain = self._chain(frame.identity)
        if frame.is_gone:
            chain.lose_file()
        latest = chain.latest
        if latest is not None and latest.is_same(frame):
            chain.is_restored = False  # it is what it was
            if descriptor is not None:
                if latest.ticket or latest.is_settled:
                    self._release(descriptor, latest.sha256)
                else:
                    self._submit(latest, descriptor)
            return latest
        if frame.reason and latest is not None and (latest.seen_ns or latest.is_settled):
            # It could not be opened (again), which says nothing about what was seen before.
            return latest
        version = chain.begin(frame, is_racy=self._is_racy(frame))
        self._chains.put(frame.identity, chain, weight_bytes=chain.weight_bytes)
        sha256 = None if version.is_racy else self._known.get(_stamps(version))
        if sha256 is not None:
            self._settle(version, sha256=sha256)
            if descriptor is not None:
                self._release(descriptor, sha256)
        elif descriptor is not None:
            self._submit(version, descriptor)
        elif frame.reason:
            self._settle(version, reason=frame.reason)
        else:
            # A replayed frame, whose descriptor ended with the process that received it. The file
            # may be shown again, as all that runs is when the sensor starts.
            self._unseen.append((self._clock() + self._grace_ns, version))
        return version

    def poll(self) -> list[HashOutcome]:
        """Takes in what has been hashed; returns the outcomes for whoever counts them.

        Raises
        ------
        HashingError
            if a hashing thread has died.
        """
        outcomes = self._hasher.completed()
        for outcome in outcomes:
            spare = self._spares.pop(outcome.ticket, None)
            if spare is not None:
                self._release(spare, outcome.sha256)
            version = self._tickets.pop(outcome.ticket, None)
            if version is None:
                continue
            version.ticket = 0
            if version.state is VersionState.HASHED:
                continue
            if not outcome.sha256:
                self._settle(version, reason=outcome.reason)
                continue
            self._settle(version, sha256=outcome.sha256)
            file = KnownFile(
                identity=version.identity,
                size_bytes=version.size_bytes,
                modified_ns=version.modified_ns,
                changed_ns=outcome.changed_ns or version.changed_ns,
                sha256=outcome.sha256,
                path=version.path,
                is_racy=version.is_racy or not outcome.changed_ns,
            )
            self._remember(file)
            self._note_new(file)
            # As it was seen, which is how the journal has it.
            self._hashed.append(replace(file, changed_ns=version.changed_ns))
        return outcomes

    def tick(self) -> None:
        """Gives up on what has not come in time, and lets go of what has."""
        now_ns = self._clock()
        while self._unseen and _is_over(*self._unseen[0], now_ns):
            _deadline, version = self._unseen.popleft()
            if not version.ticket and not version.is_settled:
                self._give_up(version)
        while self._hashing and _is_over(*self._hashing[0], now_ns):
            _deadline, version = self._hashing.popleft()
            if not version.is_settled:
                self._settle(version, reason="stalled")
                self._stalled.append((now_ns + ABANDONED_NS, version))
        while self._stalled and (self._hasher.is_crowded or self._stalled[0][0] <= now_ns):
            _deadline, version = self._stalled.popleft()
            if version.ticket:
                self._stop_hashing(version)

    def _give_up(self, version: Version) -> None:
        """Nobody has shown the file, or the descriptor went with a process that was killed.

        Then it counts what the very same file was found to be before or after, unless its stamps
        have changed. That they prove little where it is fresh is no reason to know nothing.
        """
        if not version.seen_ns:
            self._settle(version, reason="gone")
            return
        chain = self._chains.get(version.identity)
        for other in reversed(chain.versions if chain is not None else ()):
            if other.state is VersionState.HASHED and _stamps(other) == _stamps(version):
                self._settle(version, sha256=other.sha256)
                return
        self._settle(version, reason="restart")

    def _chain(self, identity: FileIdentity) -> Chain:
        chain = self._chains.get(identity)
        if chain is None:
            chain = Chain()
            restored = self._restored.pop(identity)
            if restored is not None and restored.path:
                chain.is_restored = True
                chain.versions.append(_version_of_run_before(restored))
            # Whoever waits for a version of one that goes is still told: it is in a queue above.
            self._chains.put(identity, chain, weight_bytes=chain.weight_bytes)
        return chain

    def _is_racy(self, frame: ExecutableSeen) -> bool:
        return self._wall_clock() - max(frame.changed_ns, frame.modified_ns) < RACY_NS

    def _submit(self, version: Version, descriptor: int) -> None:
        self._last_ticket += 1
        version.ticket = self._last_ticket
        self._tickets[version.ticket] = version
        self._hashing.append((self._clock() + self._stalled_ns, version))
        if self._keeper is not None:
            # Without one more descriptor the file is hashed all the same.
            with contextlib.suppress(OSError):
                self._spares[version.ticket] = os.dup(descriptor)
        self._hasher.submit(
            descriptor,
            ticket=version.ticket,
            size_bytes=version.size_bytes,
            modified_ns=version.modified_ns,
            urgency=_MIN_WANTED if version.is_wanted else _UNWANTED,
        )

    def _stop_hashing(self, version: Version) -> None:
        """Where the file is executed again, it begins anew."""
        self._hasher.cancel(version.ticket)
        self._tickets.pop(version.ticket, None)
        spare = self._spares.pop(version.ticket, None)
        if spare is not None:
            descriptors.close(spare)
        version.ticket = 0

    def _release(self, descriptor: int, sha256: Sha256) -> None:
        """Hands the descriptor to the keeper, or closes it."""
        if self._keeper is None or not sha256:
            descriptors.close(descriptor)
        else:
            self._keeper.offer(sha256, descriptor)

    def _settle(self, version: Version, *, sha256: Sha256 = UNHASHED, reason: str = "") -> None:
        if version.is_settled and not sha256:
            return
        version.state = VersionState.HASHED if sha256 else VersionState.IMPOSSIBLE
        version.sha256 = sha256
        version.reason = reason
        self._settled.append(version)

    def _note_new(self, file: KnownFile) -> None:
        """For the next commit, which may take long to come; what finds no room is hashed again."""
        if self._new_bytes < self._max_new_bytes:
            self._new_files[_stamps(file)] = file
            self._new_bytes += sys.getsizeof(file.path)

    def _remember(self, file: KnownFile) -> None:
        if file.is_racy:
            return
        # Its path is not in here, but what is forgotten for its path above is not to stay here.
        self._known.put(_stamps(file), file.sha256, weight_bytes=sys.getsizeof(file.path))


def _is_over(deadline_ns: int, version: Version, now_ns: int) -> bool:
    return deadline_ns <= now_ns or version.is_settled


def _version_of_run_before(file: KnownFile) -> Version:
    return Version(
        identity=file.identity,
        seen_ns=1,
        path=file.path,
        size_bytes=file.size_bytes,
        modified_ns=file.modified_ns,
        changed_ns=file.changed_ns,
        state=VersionState.HASHED,
        sha256=file.sha256,
        is_racy=file.is_racy,
    )


def _stamps(file: KnownFile | Version) -> _Stamps:
    return (file.identity, file.size_bytes, file.modified_ns, file.changed_ns)
