"""picosnitch's record.json: what its users know already."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from picosnitch_exporter.checks.virustotal import Counts
from picosnitch_exporter.errors import UsageError
from picosnitch_exporter.model import (
    HOST,
    UNHASHED,
    Executable,
    KnownExecutable,
    KnownVerdict,
    Sha256,
    Verdict,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COUNT = re.compile(r"['\"](malicious|suspicious|harmless|undetected)['\"]\s*:\s*(\d{1,6})(?!\d)")
_NOBODY = Executable(sha256=UNHASHED, exe="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Executables that used the network, and what VirusTotal said of them."""

    executables: tuple[KnownExecutable, ...]
    verdicts: tuple[KnownVerdict, ...]


def parse(data: bytes, *, written_seconds: float) -> Record:
    """The content of a record.json that was last written then (Unix seconds).

    picosnitch keeps no times, so that is when its executables were first seen at the latest. They
    were never seen by this exporter: `last_seen_seconds` is 0, and no metric shows them yet. A
    program with several names has the first one, and one that was never hashed no hash.

    Raises
    ------
    UsageError
        if it is not of that shape; the message does not name the file.
    """
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON: {error}; name picosnitch's record.json") from error
    paths = _mapping(document, "Executables")
    hashes = _mapping(document, "SHA256")
    executables: list[KnownExecutable] = []
    verdicts: list[KnownVerdict] = []
    for exe, names in paths.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f'"Executables" of {exe!r:.200} is no list of names')
        statuses = dict(_statuses(hashes, exe))
        executables += (
            KnownExecutable(
                executable=Executable(sha256=sha256, exe=exe),
                workload=HOST,
                name=names[0] if names else "",
                parent=_NOBODY,
                size_bytes=0,
                first_seen_seconds=written_seconds,
                last_seen_seconds=0.0,
            )
            for sha256 in statuses or (UNHASHED,)
        )
        for sha256, status in statuses.items():
            counts = _counts(status)
            if counts is not None:
                result = counts.judge(checked_seconds=written_seconds)
                if result.verdict is not Verdict.PENDING:
                    verdicts.append(KnownVerdict(sha256=sha256, exe=exe, result=result))
    return Record(executables=tuple(executables), verdicts=tuple(verdicts))


def _mapping(document: object, name: str) -> Mapping[str, object]:
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, dict):
        raise UsageError(f'has no "{name}": name the record.json of picosnitch 0.12 or later')
    return value


def _statuses(hashes: Mapping[str, object], exe: str) -> Iterator[tuple[Sha256, str]]:
    """The hashes of an executable with what is said of them; what is no hash is left out.

    picosnitch writes some errors in place of one.
    """
    statuses = hashes.get(exe, {})
    if not isinstance(statuses, dict):
        raise UsageError(f'"SHA256" of {exe!r:.200} is no mapping')
    for text, status in statuses.items():
        if _SHA256.fullmatch(text.lower()):
            yield Sha256(text.lower()), str(status)


def _counts(status: str) -> Counts | None:
    """The numbers in a text of VirusTotal's statistics; None unless all of them are there."""
    found = {name: int(value) for name, value in _COUNT.findall(status)}
    try:
        return Counts(
            malicious=found["malicious"],
            suspicious=found["suspicious"],
            harmless=found["harmless"],
            undetected=found["undetected"],
        )
    except KeyError:
        return None
