"""What people are told of: events as values, and as texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.model import LAST_SECONDS, Executable, Verdict

MAX_LISTED: Final = 5
"""Executables that one text names; of the others it gives the number."""
_MAX_CHARACTERS = 300
"""Of a path in a text."""

# Control characters, line separators and directional formatting (UAX 9).
_CLEANED: Final = dict.fromkeys(
    (
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ),
    " ",
)


class EventKind(StrEnum):
    """Why somebody is told."""

    NEW_EXECUTABLE = "new_executable"
    NEW_HASH = "new_hash"
    VERDICT = "verdict"
    LOG_FAILED = "log_failed"
    RECORDS_LOST = "records_lost"
    FIRST_START = "first_start"


class Severity(StrEnum):
    """How much it matters; the words are syslog's (RFC 5424, section 6.2.1)."""

    NOTICE = "notice"
    WARNING = "warning"
    ALERT = "alert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One event. What it is not about is empty."""

    kind: EventKind
    time_seconds: float
    executable: Executable | None = None
    name: str = ""
    parent_exe: str = ""
    verdict: Verdict | None = None
    malicious: int = 0
    suspicious: int = 0
    detail: str = ""
    """Of what is not about an executable: which log, what was lost."""
    count: int = 1

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        if self.kind is EventKind.VERDICT:
            return Severity.ALERT
        if self.kind in (EventKind.NEW_EXECUTABLE, EventKind.NEW_HASH, EventKind.FIRST_START):
            return Severity.NOTICE
        return Severity.WARNING

    def fields(self) -> Mapping[str, str | int]:
        """What is known, by stable names, without what is empty."""
        executable = self.executable
        fields: dict[str, str | int] = {
            "exe": label_value(executable.exe) if executable else "",
            "sha256": executable.sha256 if executable else "",
            "name": label_value(self.name),
            "parent_exe": label_value(self.parent_exe),
            "verdict": self.verdict or "",
            "detail": label_value(self.detail),
        }
        if self.verdict is not None:
            fields |= {"malicious": self.malicious, "suspicious": self.suspicious}
        if self.count != 1:
            fields["count"] = self.count
        return {name: value for name, value in fields.items() if value != ""}

    @property
    def subject(self) -> str:
        """What it is about, in one line of a list."""
        if self.executable is None:
            return clean(self.detail)
        text = clean(self.executable.exe)
        if self.name and self.name not in self.executable.exe:
            text = f"{clean(self.name)} ({text})"
        if self.verdict is not None:
            engines = self.malicious + self.suspicious
            text = f"{text}: {self.verdict} ({engines} engine{'' if engines == 1 else 's'})"
        return text

    @property
    def text(self) -> str:
        """The event in one sentence."""
        return f"{_TITLES[self.kind][0]}: {self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is shown for one or several events of a kind."""

    severity: Severity
    title: str
    body: str


_TITLES: Final = {
    EventKind.NEW_EXECUTABLE: ("New on the network", "{} new executables on the network"),
    EventKind.NEW_HASH: ("New content of a known program", "{} known programs with new content"),
    EventKind.VERDICT: ("VirusTotal warns", "VirusTotal warns of {} executables"),
    EventKind.LOG_FAILED: ("The log can't be written", "{} logs can't be written"),
    EventKind.RECORDS_LOST: ("Records were lost", "Records were lost in {} places"),
    EventKind.FIRST_START: ("picosnitch has begun to watch", "picosnitch has begun to watch"),
}


def compose(notices: Sequence[Notice]) -> Message:
    """One message for events of one kind, of which there is at least one."""
    first = notices[0]
    lines = [notice.subject for notice in notices[:MAX_LISTED]]
    if len(notices) > MAX_LISTED:
        lines.append(f"and {len(notices) - MAX_LISTED} more")
    one, many = _TITLES[first.kind]
    return Message(
        severity=first.severity,
        title=one if len(notices) == 1 else many.format(len(notices)),
        body="\n".join(lines),
    )


def clean(text: str) -> str:
    """Text of a stranger as a part of one line, within bounds."""
    text = label_value(text.translate(_CLEANED))
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def moment(seconds: float) -> datetime:
    """A Unix time, or the nearest one that can be written (RFC 3339)."""
    return datetime.fromtimestamp(min(max(0.0, seconds), LAST_SECONDS), UTC)
