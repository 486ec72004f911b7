"""Verdicts that hosts share on real database servers."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from picosnitch_exporter.checks import inquirer as inquirer_module
from picosnitch_exporter.checks.client import Client
from picosnitch_exporter.checks.inquirer import Inquirer
from picosnitch_exporter.checks.pace import Pace
from picosnitch_exporter.checks.virustotal import VirusTotal
from picosnitch_exporter.errors import StorageError
from picosnitch_exporter.log.remote import ServerError
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.log.shared import PERIOD_SECONDS, RETRY_SECONDS, ServerVerdicts
from picosnitch_exporter.model import KnownVerdict, Sha256, Verdict, VirusTotalResult
from picosnitch_exporter.settings import ServerSettings
from picosnitch_exporter.state.health import Health
from tests.clock import Clock
from tests.database_servers import DatabaseServer, mariadb, postgresql
from tests.virustotal_server import KEY, VirusTotalServer, serve

SHA = Sha256("cd" * 32)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    with {"postgresql": postgresql, "mariadb": mariadb}[request.param]() as running:
        yield running


@pytest.fixture
def account(server: DatabaseServer) -> Iterator[ServerSettings]:
    """May create, insert and select, and nothing else."""
    server.query("CREATE DATABASE verdicts")
    if server.kind == "postgresql":
        server.query("CREATE ROLE vt LOGIN PASSWORD 'secret'")
        server.query("GRANT CREATE, USAGE ON SCHEMA public TO vt", database="verdicts")
    else:
        server.query("CREATE USER vt IDENTIFIED BY 'secret'")
        server.query("GRANT CREATE, INSERT, SELECT ON verdicts.* TO vt")
    yield ServerSettings(
        client="psycopg" if server.kind == "postgresql" else "pymysql",
        parameters=(
            ("host", "127.0.0.1"),
            ("port", server.port),
            ("user", "vt"),
            ("password", "secret"),
            ("database", "verdicts"),
        ),
    )
    if server.kind == "postgresql":
        server.query("DROP DATABASE verdicts WITH (FORCE)")
        server.query("DROP ROLE vt")
    else:
        server.query("DROP DATABASE verdicts")
        server.query("DROP USER vt")


def judged(verdict: Verdict, checked_seconds: float = 1e9, **counts: int) -> KnownVerdict:
    result = VirusTotalResult(
        verdict=verdict,
        malicious=counts.get("malicious", 0),
        undetected=counts.get("undetected", 0),
        checked_seconds=checked_seconds,
    )
    return KnownVerdict(sha256=SHA, exe="/bin/x", result=result)


def test_last_verdict_is_found_when_another_host_has_told_it(account: ServerSettings) -> None:
    one = ServerVerdicts(account, host="one")
    two = ServerVerdicts(account, host="two")
    assert two.find(SHA) is None
    one.tell(judged(Verdict.PENDING))
    final = judged(Verdict.MALICIOUS, 1e9 + 60, malicious=3, undetected=60)
    one.tell(final)
    one.tell(final)
    assert two.find(SHA) == final.result
    assert two.find(Sha256("ef" * 32)) is None
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("checked", "1000000000000000"),
        ("checked", "-1"),
        ("malicious", "NULL"),
        ("undetected", "NULL"),
        ("malicious", "-1"),
        ("harmless", "4611686018427387904"),
    ],
)
def test_verdict_is_not_believed_when_a_number_can_not_be(
    account: ServerSettings, server: DatabaseServer, column: str, value: str
) -> None:
    names = ("malicious", "suspicious", "harmless", "undetected", "checked")
    numbers = dict.fromkeys(names, "1") | {column: value}
    # Any host may have made the table, in whichever way.
    columns = ", ".join(f"{name} BIGINT" for name in names)
    made = f"CREATE TABLE picosnitch_verdicts (sha256 CHAR(64), verdict CHAR(9), {columns})"
    row = f"('{SHA}', 'malicious', {', '.join(numbers.values())})"
    for statement in (
        made,
        f"INSERT INTO picosnitch_verdicts VALUES {row}",  # noqa: S608
        "GRANT SELECT ON picosnitch_verdicts TO vt",
    ):
        server.query(statement, database="verdicts")
    with (
        closing(ServerVerdicts(account, host="one")) as shared,
        pytest.raises(StorageError, match="has a number that is none"),
    ):
        shared.find(SHA)


def test_one_host_has_the_claim_when_all_want_it(account: ServerSettings) -> None:
    clock = Clock(now=PERIOD_SECONDS * 1000.0)
    hosts = [ServerVerdicts(account, host=f"host-{n}", clock=clock) for n in range(6)]
    barrier = threading.Barrier(len(hosts))
    claims: dict[int, bool] = {}

    def claim(number: int) -> None:
        barrier.wait()
        claims[number] = hosts[number].claim(SHA)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, is_ours in claims.items() if is_ours]
    assert hosts[winner].claim(SHA)
    clock.now += PERIOD_SECONDS
    assert not hosts[winner - 1].claim(SHA)
    clock.now += PERIOD_SECONDS
    assert hosts[winner - 1].claim(SHA)
    assert not hosts[winner].claim(SHA)
    for host in hosts:
        host.close()


def test_server_is_left_alone_for_a_while_when_it_is_down(account: ServerSettings) -> None:
    clock = Clock()
    gone = tuple((n, 1 if n == "port" else v) for n, v in account.parameters)
    shared = ServerVerdicts(ServerSettings(client=account.client, parameters=gone), monotonic=clock)
    with pytest.raises(ServerError, match="can't be reached"):
        shared.find(SHA)
    with pytest.raises(ServerError, match="not tried again yet"):
        shared.claim(SHA)
    clock.now += RETRY_SECONDS
    with pytest.raises(ServerError, match="can't be reached"):
        shared.tell(judged(Verdict.CLEAN))


def asking(folder: Path, state: VirusTotalServer, settings: ServerSettings, host: str) -> Inquirer:
    folder.mkdir()
    client = Client()
    return Inquirer(
        VirusTotal(client, base_url=state.url, api_key=KEY),
        pace=Pace(folder / "next", limit_seconds=0.0),
        recheck_days=7,
        uploads=False,
        health=Health(),
        failed=lambda error: pytest.fail(repr(error)),
        abort=client.abort,
        shared=ServerVerdicts(settings, host=host),
    )


def answers(inquirer: Inquirer) -> tuple[KnownVerdict, ...]:
    deadline = time.monotonic() + 20
    while not (found := inquirer.take_answers()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    return found


def test_fleet_asks_once_when_it_shares_a_server(
    account: ServerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquirer_module, "CLAIMED_SECONDS", 0.05)
    with serve() as state:
        state.add(SHA, malicious=2)
        fleet = [asking(tmp_path / str(n), state, account, f"host-{n}") for n in range(4)]
        for inquirer in fleet:
            inquirer.start()
            inquirer.ask(SHA, "/bin/x")
        verdicts = [known.result.verdict for inquirer in fleet for known in answers(inquirer)]
        for inquirer in fleet:
            inquirer.close()
        assert verdicts == [Verdict.MALICIOUS] * 4
        assert len(state.requests) == 1


def test_host_asks_by_itself_when_it_may_not_use_the_tables(
    account: ServerSettings, server: DatabaseServer, tmp_path: Path
) -> None:
    if server.kind == "postgresql":
        server.query("REVOKE CREATE ON SCHEMA public FROM vt", database="verdicts")
    else:
        server.query("REVOKE CREATE ON verdicts.* FROM vt")
    with serve() as state:
        state.add(SHA)
        inquirer = asking(tmp_path / "a", state, account, "host")
        inquirer.start()
        inquirer.ask(SHA, "/bin/x")
        assert answers(inquirer)[0].result.verdict is Verdict.CLEAN
        inquirer.close()


def test_tables_have_no_room_for_a_key_twice(account: ServerSettings) -> None:
    shared = ServerVerdicts(account, host="one")
    for _ in range(2):
        shared.tell(judged(Verdict.CLEAN))
    session = sessions_of(account)()
    assert session.fetch("SELECT count(*) FROM picosnitch_verdicts") == [(1,)]
    session.close()
    shared.close()
