"""What `top` is told: the totals of executables, and the latest connections of one. Pure."""

from collections.abc import Mapping
from heapq import nlargest

from picosnitch_exporter.log.rows import Hiding, RecentConnection
from picosnitch_exporter.model import (
    CounterColumn,
    Executable,
    ExecutableFacts,
    Snapshot,
    Workload,
)

MAX_CONNECTIONS = 1000
"""Of one executable, those that moved most."""

Counts = Mapping[Executable, tuple[int, int]]
"""Connections and domains in the windows."""
Connections = tuple[RecentConnection, ...]

_Subject = tuple[Executable, Workload]


def executables(
    snapshot: Snapshot, counts: Counts, reason_not_ready: str | None
) -> dict[str, object]:
    """Every executable with its totals."""
    columns = {
        "sent": _sums(snapshot.transmit_bytes),
        "received": _sums(snapshot.receive_bytes),
        "connections": _sums(snapshot.connections),
        "failures": _sums(snapshot.connect_failures),
    }
    known = {(facts.executable, facts.workload): facts for facts in snapshot.executables}
    subjects = dict.fromkeys((*known, *(one for sums in columns.values() for one in sums)))
    return {
        "time": snapshot.time_seconds,
        "not_ready": reason_not_ready,
        "executables": [
            {
                **_identity(subject, known.get(subject)),
                **{name: sums.get(subject, 0) for name, sums in columns.items()},
                "active": counts.get(subject[0], (0, 0))[0],
                "domains": counts.get(subject[0], (0, 0))[1],
            }
            for subject in subjects
        ],
    }


def _sums(column: CounterColumn) -> dict[_Subject, int]:
    sums: dict[_Subject, int] = {}
    for labels, value in zip(column.labels, column.values, strict=True):
        subject = (labels.executable, labels.workload)
        sums[subject] = sums.get(subject, 0) + value
    return sums


def _identity(subject: _Subject, facts: ExecutableFacts | None) -> dict[str, object]:
    executable, workload = subject
    return {
        "exe": executable.exe,
        "sha256": executable.sha256,
        "workload": "/".join(
            part for part in (workload.namespace, workload.pod, workload.container) if part
        ),
        "parent": "" if facts is None else facts.parent.exe,
        "verdict": "" if facts is None else facts.virustotal.verdict.value,
        "last_seen": 0.0 if facts is None else facts.last_seen_seconds,
    }


def connections(
    executable: Executable, recent: Connections, *, window: int, hiding: Hiding
) -> dict[str, object]:
    """The connections of an executable, with what the logs leave out left out."""
    largest = nlargest(
        MAX_CONNECTIONS, recent, key=lambda one: one.row.send_bytes + one.row.receive_bytes
    )
    rows = hiding.apply(tuple(one.row for one in largest))
    return {
        "exe": executable.exe,
        "sha256": executable.sha256,
        "window": window,
        "total": len(recent),
        "connections": [
            {
                "id": one.id,
                "pid": one.pid,
                "last": list(one.last_bytes),
                "open": list(one.open_bytes),
                "protocol": row.protocol,
                "direction": row.direction.value,
                "address": row.remote_address,
                "port": row.remote_port,
                "local_port": row.local_port,
                "domain": row.domain,
                "uid": row.uid,
                "command": row.program.cmdline,
                "parent": row.parent.exe,
            }
            for one, row in zip(largest, rows, strict=True)
        ],
    }
