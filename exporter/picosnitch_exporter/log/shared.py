"""Verdicts of VirusTotal on the server that hosts share, so that one of them asks for all.

Two tables that are only ever added to, like the log: the account needs no UPDATE and no DELETE.
Before a host asks, it claims the question for the present period of time; where another one has
claimed it in this period or the one before, it waits for that one's answer.
"""

import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar, cast

from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.log.dictionary import WORD_CHARACTERS
from picosnitch_exporter.log.remote import PREFIX, ServerError, Session, not_understood
from picosnitch_exporter.log.schema import Dialect, Kind
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.model import (
    LAST_SECONDS,
    MAX_ENGINES,
    KnownVerdict,
    Sha256,
    Verdict,
    VirusTotalResult,
)
from picosnitch_exporter.settings import ServerSettings

PERIOD_SECONDS: Final = 600
"""A claim ends with the period after its own: the host may have gone meanwhile."""
RETRY_SECONDS: Final = 60.0
"""After a failure, nothing is tried for so long: questions must not wait for a server."""
_VERDICTS: Final = f"{PREFIX}verdicts"
_CLAIMS: Final = f"{PREFIX}claims"
_T = TypeVar("_T")
_COUNTS: Final = ("malicious", "suspicious", "harmless", "undetected")


class ServerVerdicts:
    """The tables, over a connection of its own that is opened when it is needed. One thread.

    All methods raise ServerError if the server can't be reached or refuses.

    Raises
    ------
    RequirementError, ConfigurationError
        as `sessions_of` does.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        host: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = sessions_of(settings)
        self._host = (host or socket.gethostname())[:WORD_CHARACTERS]
        self._clock = clock
        self._monotonic = monotonic
        self._session: Session | None = None
        self._retry_at = 0.0

    def find(self, sha256: Sha256) -> VirusTotalResult | None:
        """What some host was told last.

        Raises
        ------
        StorageError
            if what the table says can't be: one host must not harm the others by it.
        """
        rows = self._run(
            lambda session: session.fetch(
                f"SELECT verdict, {', '.join(_COUNTS)}, checked FROM {_VERDICTS}"  # noqa: S608
                " WHERE sha256 = %s ORDER BY checked DESC LIMIT 1",
                (sha256,),
            )
        )
        limits = (*[MAX_ENGINES] * len(_COUNTS), LAST_SECONDS)
        match rows:
            case []:
                return None
            case [(str(verdict), *numbers)] if len(numbers) == len(limits):
                pass
            case _:
                raise not_understood("database", rows)
        for number, limit in zip(numbers, limits, strict=True):
            if not isinstance(number, int) or not 0 <= number < limit:
                raise StorageError(f"{_VERDICTS} has a number that is none: {number!r:.80}")
        malicious, suspicious, harmless, undetected, checked = cast("list[int]", numbers)
        try:
            return VirusTotalResult(
                verdict=Verdict(verdict),
                malicious=malicious,
                suspicious=suspicious,
                harmless=harmless,
                undetected=undetected,
                checked_seconds=float(checked),
            )
        except ValueError as error:
            raise StorageError(f"{_VERDICTS} has a verdict that is none: {error}") from error

    def claim(self, sha256: Sha256) -> bool:
        """Whether this host is the one to ask."""
        period = int(self._clock()) // PERIOD_SECONDS
        return self._run(lambda session: self._claim(session, sha256, period))

    def tell(self, known: KnownVerdict) -> None:
        """Leaves a verdict for the others."""
        result = known.result
        values = (
            known.sha256,
            int(result.checked_seconds),
            str(result.verdict),
            result.malicious,
            result.suspicious,
            result.harmless,
            result.undetected,
            self._host,
        )
        columns = f"sha256, checked, verdict, {', '.join(_COUNTS)}, host"
        self._run(lambda session: _add(session, _VERDICTS, columns, values))

    def close(self) -> None:
        """Closes the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _claim(self, session: Session, sha256: Sha256, period: int) -> bool:
        for _ in range(2):
            found = session.fetch(
                f"SELECT host FROM {_CLAIMS} WHERE sha256 = %s AND period >= %s"  # noqa: S608
                " ORDER BY period, host",
                (sha256, period - 1),
            )
            if found:
                return found[0][:1] == (self._host,)
            _add(session, _CLAIMS, "sha256, period, host", (sha256, period, self._host))
            # What others have added meanwhile is only seen in a new transaction.
            session.commit()
        return False

    def _run(self, work: Callable[[Session], _T]) -> _T:
        """Does the work in a transaction, on a connection that is opened if there is none."""
        if self._monotonic() < self._retry_at:
            raise ServerError("not tried again yet", reason="unreachable")
        try:
            if self._session is None:
                self._session = self._connect()
                _prepare(self._session)
            result = work(self._session)
            self._session.commit()
        except ServerError:
            self._retry_at = self._monotonic() + RETRY_SECONDS
            self.close()
            raise
        return result


def _add(session: Session, table: str, columns: str, values: tuple[str | int, ...]) -> int:
    insert, ignore = session.insert_or_ignore
    marks = ", ".join(["%s"] * len(values))
    return session.execute(f"{insert} INTO {table} ({columns}) VALUES ({marks}) {ignore}", values)


def _prepare(session: Session) -> None:
    """Makes what is missing of the tables."""
    for name, statement in statements(session.dialect).items():
        if session.columns(name):
            continue
        try:
            session.execute(statement)
            session.commit()
        except ServerError:
            session.roll_back()
            # Another host may have made it at the same moment.
            if not session.columns(name):
                raise


def statements(dialect: Dialect) -> dict[str, str]:
    """What makes the tables, by their names."""
    word, integer = dialect.types[Kind.WORD], dialect.types[Kind.INTEGER]
    key = f"sha256 {word}"
    counts = ", ".join(f"{name} {integer}" for name in _COUNTS)
    return {
        _VERDICTS: (
            f"CREATE TABLE {_VERDICTS} ({key}, checked {integer}, verdict {word}, {counts},"
            f" host {word}, PRIMARY KEY (sha256, checked)){dialect.table_suffix}"
        ),
        _CLAIMS: (
            f"CREATE TABLE {_CLAIMS} ({key}, period {integer}, host {word},"
            f" PRIMARY KEY (sha256, period)){dialect.table_suffix}"
        ),
    }
