"""Sends events to the journal, or where there is none to syslog, with structured fields.

Sources: systemd's Native Journal Protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), RFC 5424.
"""

import os
import platform
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from picosnitch_exporter import catalog
from picosnitch_exporter.checks.events import Notice, Severity, moment
from picosnitch_exporter.state.cardinality import Counts

JOURNAL: Final = Path("/run/systemd/journal/socket")
SYSLOG: Final = Path("/dev/log")
IDENTIFIER: Final = "picosnitch-exporter"
MESSAGE_ID: Final = "7e1fd0c4f1d34a0cb9c0ea6b37a4d2a1"
"""Of all of these messages, for `journalctl MESSAGE_ID=...`."""

_CHANNEL = "syslog"
_FACILITY = 10
"""authpriv: paths of programs are not for everybody (RFC 5424, section 6.2.1)."""
_SEVERITIES = {Severity.ALERT: 1, Severity.WARNING: 4, Severity.NOTICE: 5}
_STRUCTURE = "picosnitch@32473"
"""32473 is the number that RFC 5612 sets aside for documentation: there is no own one."""
_MAX_BYTES = 8192


class Syslog:
    """Sends each event as one datagram, and never blocks: what is not taken at once is dropped."""

    def __init__(self, *, health: Counts, journal: Path = JOURNAL, syslog: Path = SYSLOG) -> None:
        self._health = health
        self._journal = journal
        self._syslog = syslog

    def tell(self, notices: Sequence[Notice]) -> None:
        """Sends events."""
        for notice in notices:
            result = "sent" if self._send(notice) else "failed"
            self._health.count(catalog.NOTIFICATIONS, (_CHANNEL, result))

    def _send(self, notice: Notice) -> bool:
        for path, encode in ((self._journal, journal_entry), (self._syslog, syslog_line)):
            # A new socket each time: the receiver may have been restarted since.
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            with socket.socket(socket.AF_UNIX, kind) as sock:
                try:
                    sock.sendto(encode(notice), str(path))
                except OSError:
                    continue
                return True
        return False


def journal_entry(notice: Notice) -> bytes:
    """The event in the journal's native protocol."""
    fields: dict[str, str | int] = {
        "MESSAGE": notice.text,
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": _SEVERITIES[notice.severity],
        "SYSLOG_FACILITY": _FACILITY,
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "PICOSNITCH_EVENT": notice.kind,
    }
    fields |= {f"PICOSNITCH_{name.upper()}": value for name, value in notice.fields().items()}
    return b"".join(_journal_field(name, str(value)) for name, value in fields.items())


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def syslog_line(notice: Notice) -> bytes:
    """The event as RFC 5424 has it, with structured data."""
    priority = _FACILITY * 8 + _SEVERITIES[notice.severity]
    stamp = moment(notice.time_seconds).isoformat(timespec="milliseconds")
    host = "".join(each for each in platform.node() if "!" <= each <= "~") or "-"
    parameters = "".join(
        f' {name}="{_parameter(str(value))}"' for name, value in notice.fields().items()
    )
    structure = f"[{_STRUCTURE}{parameters}]"
    header = f"<{priority}>1 {stamp} {host} {IDENTIFIER} {os.getpid()} {notice.kind}"
    return f"{header} {structure} {notice.text}".encode(errors="backslashreplace")[:_MAX_BYTES]


def _parameter(value: str) -> str:
    """A value of structured data (RFC 5424, section 6.3.3); line breaks would end the message."""
    value = value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return "".join(max(each, " ") for each in value)
