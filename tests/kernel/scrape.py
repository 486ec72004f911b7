"""What /metrics shows, by executable: each has an account of all that is said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

# (protocol, scope), or (protocol, scope, direction) of connections.
Key = tuple[str, ...]

_COLUMNS: dict[str, tuple[str, Key]] = {
    "picosnitch_network_transmit_bytes_total": ("transmit", ("protocol", "scope")),
    "picosnitch_network_receive_bytes_total": ("receive", ("protocol", "scope")),
    "picosnitch_connections_total": ("connections", ("protocol", "scope", "direction")),
    "picosnitch_connect_failures_total": ("failures", ("protocol", "scope")),
}
_OWN = "picosnitch_exporter_"
_LOSSES = ("unattributed_", "series_refused_", "log_rows_dropped_")
# Not the names of peers: whoever else runs on this machine asks for them as well.
_LOST_STAGES = {"final_record", "exec_event"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All that is counted for one hash; what is zero is left out."""

    transmit: Mapping[Key, int] = field(default_factory=dict)
    receive: Mapping[Key, int] = field(default_factory=dict)
    connections: Mapping[Key, int] = field(default_factory=dict)
    failures: Mapping[Key, int] = field(default_factory=dict)

    def sums(self) -> tuple[int, int]:
        """Bytes sent and received, over all protocols and scopes."""
        return sum(self.transmit.values()), sum(self.receive.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """The labels of one executable."""

    sha256: str
    exe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One answer of /metrics."""

    accounts: Mapping[Executable, Account]
    executables: frozenset[Executable]
    """Those with an executable_info."""
    own: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    """The exporter's own metrics, by name without its prefix and by labels."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text format."""
        columns: dict[Executable, dict[str, dict[Key, int]]] = {}
        executables = set()
        own = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name.startswith(_OWN):
                    name = sample.name.removeprefix(_OWN)
                    own[name, frozenset(labels.items())] = sample.value
                    continue
                executable = Executable(sha256=labels["sha256"], exe=labels["exe"])
                if sample.name == "picosnitch_executable_info":
                    executables.add(executable)
                if sample.name not in _COLUMNS:
                    continue
                column, names = _COLUMNS[sample.name]
                if sample.value:
                    key = tuple(labels[name] for name in names)
                    row = columns.setdefault(executable, {}).setdefault(column, {})
                    row[key] = int(sample.value)
        accounts = {executable: Account(**found) for executable, found in columns.items()}
        return cls(accounts=accounts, executables=frozenset(executables), own=own)

    def account(self, sha256: str) -> Account:
        """All that is counted for a hash, under whichever path."""
        return _sum([a for executable, a in self.accounts.items() if executable.sha256 == sha256])

    def by_hash(self) -> dict[str, Account]:
        """The accounts of all hashes."""
        grouped: dict[str, list[Account]] = {}
        for executable, account in self.accounts.items():
            grouped.setdefault(executable.sha256, []).append(account)
        return {sha256: _sum(accounts) for sha256, accounts in grouped.items()}

    def paths(self, sha256: str) -> set[str]:
        """The paths under which a hash is known."""
        return {executable.exe for executable in self.executables if executable.sha256 == sha256}

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of an own metric over all series that have these labels."""
        return sum(
            value
            for (found, pairs), value in self.own.items()
            if found == name and labels.items() <= pairs
        )

    def losses(self) -> dict[str, float]:
        """All traffic and executables lost that is not zero."""
        return {
            f"{name}{dict(sorted(pairs))}": value
            for (name, pairs), value in sorted(self.own.items(), key=str)
            if value
            and not name.endswith("_created")
            and (name.startswith(_LOSSES) or dict(pairs).get("stage") in _LOST_STAGES)
            and not name.startswith("events_delayed_")
        }


def differences(expected: Mapping[str, Account], scrape: Scrape) -> list[str]:
    """What is shown for these hashes and is not what is expected, a line each."""
    shown = scrape.by_hash()
    lines = []
    for sha256, account in expected.items():
        found = shown.get(sha256, Account())
        if found != account:
            paths = ", ".join(sorted(scrape.paths(sha256))) or "no path"
            lines.append(f"{sha256[:12]} ({paths})\n  expected {account}\n  shown    {found}")
    return lines


def _sum(accounts: list[Account]) -> Account:
    if len(accounts) == 1:
        return accounts[0]
    columns: dict[str, dict[Key, int]] = {"transmit": {}, "receive": {}}
    columns |= {"connections": {}, "failures": {}}
    for account in accounts:
        for name, column in columns.items():
            for key, value in getattr(account, name).items():
                column[key] = column.get(key, 0) + value
    return Account(**columns)
