"""The contents that one file has had, and which of them a process ran."""

import os
import sys
from dataclasses import dataclass, field
from enum import StrEnum

from picosnitch_exporter.model import UNHASHED, FileIdentity, Sha256
from picosnitch_exporter.stream import ExecutableSeen

MAX_VERSIONS = 16
"""Of one file. A process that ran an older one and was never heard of gets no hash."""


class VersionState(StrEnum):
    """Whether the hash of a version is known."""

    PENDING = "pending"
    HASHED = "hashed"
    IMPOSSIBLE = "impossible"


# Not frozen: it is settled once. Compared by identity, as it is a dictionary key for who waits.
@dataclass(slots=True, kw_only=True, eq=False)
class Version:
    """One content of one file. Only the registry changes it."""

    identity: FileIdentity
    seen_ns: int = 0
    """CLOCK_BOOTTIME from which on processes ran it; 0 while nobody has shown it."""
    path: str = ""
    """As the host sees it; empty where unknown."""
    size_bytes: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    state: VersionState = VersionState.PENDING
    sha256: Sha256 = UNHASHED
    reason: str = ""
    """Why it is impossible: gone, kernel, modified, queue_full, ... or the sensor's reason."""
    is_racy: bool = False
    ticket: int = 0
    """Of the hasher; 0 where it has no descriptor."""
    is_wanted: bool = False
    is_deleted: bool = False
    """The file has gone while it ran."""

    @property
    def is_settled(self) -> bool:
        """Hashed, or known to be impossible."""
        return self.state is not VersionState.PENDING

    def is_same(self, frame: ExecutableSeen) -> bool:
        """Whether the frame speaks of the very same content and path."""
        return (
            self.seen_ns > 0
            and self.state is not VersionState.IMPOSSIBLE
            and not self.is_racy
            and not frame.reason
            and self.size_bytes == frame.size_bytes
            and self.modified_ns == frame.modified_ns
            and self.changed_ns == frame.changed_ns
            and self.path == os.fsdecode(frame.path)
        )


@dataclass(slots=True, kw_only=True)
class Chain:
    """The versions of one file, oldest first."""

    versions: list[Version] = field(default_factory=list)
    is_restored: bool = False
    """The first one is from the run before, which nobody has seen change since."""
    is_cut: bool = False
    """The oldest ones are gone."""
    forgotten: Version | None = None
    """Stands for those."""

    @property
    def weight_bytes(self) -> int:
        """What the paths of its versions take, which others have chosen."""
        return sum(sys.getsizeof(version.path) for version in self.versions)

    @property
    def latest(self) -> Version | None:
        """The one that was seen last."""
        return self.versions[-1] if self.versions else None

    def choose(self, exec_ns: int, changed_ns: int = 0) -> Version | None:
        """What a process ran, by the time of its exec and the file's change time at that moment.

        The latest that neither was seen only after the exec nor has been written since; else the
        first. None where it ran what was overwritten before anybody could read it, or is gone.
        """
        for at in reversed(range(len(self.versions))):
            version = self.versions[at]
            is_later = bool(changed_ns and version.changed_ns) and changed_ns < self._written_ns(at)
            if version.seen_ns <= exec_ns and not is_later:
                return version
        is_older = bool(changed_ns and self.versions[0].changed_ns) and (
            changed_ns < self._written_ns(0)
        )
        return self.forgotten if self.is_cut or self.is_restored or is_older else self.versions[0]

    def may_be_unseen(self, changed_ns: int) -> bool:
        """Whether the file was changed while nobody watched, and the process ran what it is now."""
        if not self.is_restored or len(self.versions) > 1:
            return False
        return not changed_ns or changed_ns > self.versions[0].changed_ns

    def _written_ns(self, at: int) -> int:
        """The earliest change time that the file can have had with this content.

        It was written then, or, as that stamp can be set, at least after the version before was
        seen. What moves the change time later on (unlink, rename, chmod) leaves the content.
        """
        version = self.versions[at]
        written_ns = min(version.modified_ns, version.changed_ns)
        if not at:
            return written_ns
        return max(written_ns, min(self.versions[at - 1].changed_ns + 1, version.changed_ns))

    def lose_file(self) -> None:
        """Notes that the file is gone, whichever content of it a process runs."""
        for version in self.versions:
            version.is_deleted = True

    def begin(self, frame: ExecutableSeen, *, is_racy: bool) -> Version:
        """The version that the frame speaks of: a new one, or the one that somebody waits for."""
        latest = self.latest
        previous_ns = latest.seen_ns if latest is not None else 0
        if latest is None or latest.seen_ns or latest.is_settled:
            if (
                latest is not None
                and latest.state is VersionState.IMPOSSIBLE
                and (frame.seen_ns <= latest.seen_ns or not latest.seen_ns)
            ):
                # Given up too early: what runs on from then gets the hash after all.
                self.versions.pop()
            latest = Version(identity=frame.identity)
            self.versions.append(latest)
        latest.seen_ns = max(frame.seen_ns, previous_ns, 1)
        latest.path = os.fsdecode(frame.path)
        latest.size_bytes = frame.size_bytes
        latest.modified_ns = frame.modified_ns
        latest.changed_ns = frame.changed_ns
        latest.is_racy = is_racy
        latest.is_deleted = frame.is_gone
        if len(self.versions) > MAX_VERSIONS:
            del self.versions[0]
            self.is_cut = True
        return latest
