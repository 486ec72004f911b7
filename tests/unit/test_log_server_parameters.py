import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import ConfigurationError, RequirementError
from picosnitch_exporter.log.batches import decode_rows, encode_rows
from picosnitch_exporter.log.outbox import Batch
from picosnitch_exporter.log.remote import ServerError
from picosnitch_exporter.log.server import ServerCourier, sessions_of
from picosnitch_exporter.settings import ServerSettings
from picosnitch_exporter.state.health import Health
from tests.database_servers import free_port
from tests.log_samples import row

CLIENTS = ("psycopg", "psycopg2", "mariadb", "pymysql")
DEADLINE_SECONDS = 20


def chosen(client: str, **parameters: str | int | bool | None) -> ServerSettings:
    return ServerSettings(client=client, parameters=tuple(parameters.items()))


@pytest.mark.parametrize("client", CLIENTS)
def test_parameter_is_refused_by_name_when_the_driver_does_not_know_it(client: str) -> None:
    with pytest.raises(ConfigurationError, match=r"log\.server: .*pasword"):
        sessions_of(chosen(client, pasword="x"))


@pytest.mark.parametrize("client", CLIENTS)
def test_other_drivers_names_are_understood_when_they_mean_the_same(client: str) -> None:
    sessions_of(chosen(client, db="a", passwd="b", host=None, port=1))


def test_parameters_of_the_other_mariadb_driver_are_passed_over() -> None:
    sessions_of(chosen("mariadb", autocommit=True, reconnect=True, pool_name="x"))


@pytest.mark.parametrize(
    ("client", "module", "package"),
    [("psycopg2", "psycopg", "postgresql"), ("mariadb", "pymysql.connections", "mysql")],
)
def test_message_says_what_to_install_when_the_driver_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    module: str,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RequirementError, match=rf"picosnitch-exporter\[{package}\]"):
        sessions_of(chosen(client))


@pytest.mark.parametrize("client", CLIENTS)
def test_reason_is_unreachable_when_nobody_listens(client: str) -> None:
    connect = sessions_of(chosen(client, host="127.0.0.1", port=free_port(), user="x"))
    with pytest.raises(ServerError) as raised:
        connect()
    assert raised.value.reason == "unreachable"


def test_reason_is_refused_when_a_parameter_has_the_wrong_type() -> None:
    connect = sessions_of(chosen("pymysql", host="127.0.0.1", port="3306", user="x"))
    with pytest.raises(ServerError) as raised:
        connect()
    assert raised.value.reason == "refused"


@contextmanager
def answering(conversation: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that says this to whoever connects, once."""

    def converse(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            conversation(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        thread = threading.Thread(target=converse, args=(listener,))
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join()


def errors(health: Health) -> float:
    for family in health.collect():
        if family.metric is catalog.LOG_ERRORS:
            return sum(each.value for each in family.readings if each.labels[0] == "server")
    return 0


@pytest.mark.parametrize(
    "greeting",
    [
        b"\0\0\0\0",
        b"\x01\0\0\0\x0a",
        b"\x0c\0\0\x00\x0a5.5.5\0\1\0\0\0\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_courier_tries_again_when_no_mysql_server_answers(greeting: bytes) -> None:
    health = Health()
    failures: list[BaseException] = []
    with answering(lambda connection: connection.sendall(greeting)) as port:
        settings = chosen("pymysql", host="127.0.0.1", port=port, user="x")
        courier = ServerCourier(settings, health=health)
        courier.start(lambda _key: None, failures.append)
        courier.bring(Batch(number=1, key=b"k", rows=1, body=encode_rows((row(),))))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (failures or errors(health)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    courier.close(timeout_seconds=DEADLINE_SECONDS)
    assert failures == []


def test_rows_are_the_same_when_they_have_waited() -> None:
    rows = (row(), row(contime=1.5, send=(1 << 64) - 1))
    assert decode_rows(encode_rows(rows)) == rows


def test_batch_is_passed_over_and_counted_when_it_cannot_be_read() -> None:
    health = Health()
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    courier = ServerCourier(chosen("pymysql", port=free_port()), health=health)
    failures: list[BaseException] = []
    courier.start(arrived.put, failures.append)
    courier.bring(Batch(number=1, key=b"k", rows=7, body=b"not compressed"))
    assert arrived.get(timeout=DEADLINE_SECONDS) == b"k"
    courier.close(timeout_seconds=DEADLINE_SECONDS)
    assert failures == []
    (dropped,) = (
        family.readings for family in health.collect() if family.metric is catalog.LOG_ROWS_DROPPED
    )
    assert [(each.labels, each.value) for each in dropped if each.value] == [
        (("server", "unreadable"), 7.0)
    ]


def test_courier_ends_in_time_when_the_server_is_down() -> None:
    courier = ServerCourier(chosen("pymysql", port=free_port()), health=Health())
    courier.start(lambda _key: None, lambda _error: None)
    courier.bring(Batch(number=1, key=b"k", rows=1, body=encode_rows((row(),))))
    courier.close(timeout_seconds=DEADLINE_SECONDS)
    assert "log-server" not in {thread.name for thread in threading.enumerate()}
