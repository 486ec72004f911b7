"""Tells people what is new or bad, over the channels that are on."""

import json
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.events import EventKind, Message, Notice, compose
from picosnitch_exporter.checks.grouping import Grouping
from picosnitch_exporter.checks.health_watch import HealthWatch
from picosnitch_exporter.model import (
    HOST,
    UNHASHED,
    Executable,
    KnownExecutable,
    KnownVerdict,
    Verdict,
    Workload,
)
from picosnitch_exporter.state.cardinality import Counts, fingerprint
from picosnitch_exporter.state.health import Family

WATCH_SECONDS: Final = 5.0
MAX_PATHS: Final = 200_000
"""Paths that are known, 18 MB if there were so many; one more that is new is then told as such."""
MAX_DISCOVERED: Final = 4096
MAX_MESSAGE_BYTES: Final = 4096
_CHANNEL = "desktop"
_WARNING = (Verdict.SUSPICIOUS, Verdict.MALICIOUS)
_BRACKET = "["
"""With which stand-ins for a path begin: kernel threads, and what could not be named."""
_ELSEWHERE = Workload(container="any")


class Channel(Protocol):
    """Where events are told. Returns at once, and counts what becomes of them."""

    def tell(self, notices: Sequence[Notice], /) -> None:
        """Takes events of one kind, of which there is at least one."""


class DesktopChannel:
    """Sends messages to the process that shows them."""

    def __init__(self, sock: socket.socket, *, health: Counts) -> None:
        self._sock = sock
        self._health = health

    def tell(self, notices: Sequence[Notice]) -> None:
        """Sends one message for all of them."""
        result = "sent"
        try:
            self._sock.send(encode(compose(notices)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            result = "dropped"
        except OSError:
            result = "failed"
        self._health.count(catalog.NOTIFICATIONS, (_CHANNEL, result))


def encode(message: Message) -> bytes:
    """A message as `desktop` wants it; a body that is too long is cut."""
    data = b""
    for length in (len(message.body), 2000, 500, 100):
        value = {
            "severity": message.severity,
            "title": message.title,
            "body": message.body[:length],
        }
        data = json.dumps(value).encode("ascii")
        if len(data) <= MAX_MESSAGE_BYTES:
            break
    return data


class Notifier:
    """Finds out what is an event, groups events, and hands them to all channels.

    One thread, but for `discovered`. Times are monotonic seconds, but for `time_seconds`.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        known: Iterable[KnownExecutable],
        health: Counts,
        now: float,
    ) -> None:
        self._channels = channels
        self._health = health
        self._paths = {_place(each) for each in known}
        self._grouping = Grouping(is_first_start=not self._paths, now=now)
        self._watch = HealthWatch()
        self._next_watch = now
        self._discovered: deque[KnownExecutable] = deque(maxlen=MAX_DISCOVERED)
        self._suppressed = 0

    def discovered(self, executables: Iterable[KnownExecutable]) -> None:
        """Takes executables that were never seen before; any thread may call it."""
        self._discovered.extend(executables)

    def judged(self, known: KnownVerdict, *, now: float) -> None:
        """Takes what VirusTotal says."""
        result = known.result
        if result.verdict not in _WARNING:
            return
        self._grouping.add(
            Notice(
                kind=EventKind.VERDICT,
                time_seconds=result.checked_seconds,
                executable=Executable(sha256=known.sha256, exe=known.exe),
                verdict=result.verdict,
                malicious=result.malicious,
                suspicious=result.suspicious,
            ),
            now=now,
        )

    def tick(
        self, families: Callable[[], Iterable[Family]], *, now: float, time_seconds: float
    ) -> None:
        """Tells what is due; `families` gives the exporter's own metrics."""
        while self._discovered:
            self._consider(self._discovered.popleft(), now=now)
        if now >= self._next_watch:
            self._next_watch = now + WATCH_SECONDS
            for notice in self._watch.look(families(), time_seconds=time_seconds):
                self._grouping.add(notice, now=now)
        for group in self._grouping.take(now=now):
            for channel in self._channels:
                channel.tell(group)
        if self._grouping.suppressed > self._suppressed:
            amount = self._grouping.suppressed - self._suppressed
            self._suppressed += amount
            self._health.count(catalog.NOTIFICATIONS, ("all", "suppressed"), amount)

    def _consider(self, known: KnownExecutable, *, now: float) -> None:
        place = _place(known)
        executable = known.executable
        is_known = place in self._paths
        if executable.exe.startswith(_BRACKET) or (is_known and not executable.sha256):
            return
        if len(self._paths) < MAX_PATHS:
            self._paths.add(place)
        self._grouping.add(
            Notice(
                kind=EventKind.NEW_HASH if is_known else EventKind.NEW_EXECUTABLE,
                time_seconds=known.first_seen_seconds,
                executable=executable,
                name=known.name,
                parent_exe=known.parent.exe,
            ),
            now=now,
        )


def _place(known: KnownExecutable) -> bytes:
    """Stands for the path, and for whether it is one of the host: each image has its own files.

    Strangers choose paths, which may take 16 KB each.
    """
    workload = known.workload
    is_of_host = not (workload.container or workload.pod)
    path = Executable(sha256=UNHASHED, exe=known.executable.exe)
    return fingerprint((path, HOST if is_of_host else _ELSEWHERE))
