"""MariaDB and MySQL through PyMySQL."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from picosnitch_exporter.errors import ConfigurationError, RequirementError
from picosnitch_exporter.log.remote import PREFIX, ServerError, Session, not_understood
from picosnitch_exporter.log.schema import FACT_NAMES, Dialect, Kind
from picosnitch_exporter.settings import ServerSettings

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

# utf8mb4_bin, which both have: names that differ in case or accents are different programs.
_TABLE: Final = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
MYSQL: Final = Dialect(
    types={
        Kind.ID: "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
        Kind.DIGEST: "BINARY(16) NOT NULL UNIQUE",
        Kind.INTEGER: "BIGINT NOT NULL",
        Kind.TEXT: "MEDIUMTEXT NOT NULL",
        Kind.WORD: "VARCHAR(255) NOT NULL",
    },
    fact_id="id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
    # Within the table: an index of its own takes another privilege than CREATE.
    fact_constraint="INDEX (contime)",
    table_suffix=_TABLE,
    prefix=PREFIX,
)
_DEFAULTS: Final[dict[str, str | int]] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "write_timeout": 60,
}
_NAMES: Final = {"db": "database", "dbname": "database", "passwd": "password"}
_OWN: Final = frozenset({"autocommit", "charset", "cursorclass", "cursor_type", "defer_connect"})
_OF_THE_CONNECTOR: Final = frozenset(
    {"compress", "converter", "plugin_dir", "pool_name", "pool_reset_connection", "pool_size"}
    | {"reconnect", "ssl_capath", "ssl_cipher", "ssl_crlpath", "tls_version"},
)
"""Parameters of MariaDB's own connector, which picosnitch used, that PyMySQL does without."""
_ACCESS_ERRORS: Final = frozenset({1044, 1045, 1046, 1049, 1142, 1143, 1227, 1370})
_CLIENT_ERRORS: Final = range(2000, 3000)


def mysql_sessions(settings: ServerSettings) -> Callable[[], Session]:
    """What opens a session each time it is called, and raises `ServerError`.

    Raises
    ------
    RequirementError
        if PyMySQL is not installed.
    ConfigurationError
        if a parameter is not one of PyMySQL's.
    """
    try:
        import pymysql.connections
    except ImportError as error:
        raise RequirementError(
            f"log.server: client {settings.client} needs PyMySQL: "
            "pip install 'picosnitch-exporter[mysql]', or apt install python3-pymysql",
        ) from error
    given: dict[str, str | int | bool] = {**_DEFAULTS}
    known = inspect.signature(pymysql.connections.Connection.__init__).parameters.keys() - {"self"}
    for name, value in settings.parameters:
        meant = _NAMES.get(name, name)
        if value is None or meant in _OWN or meant in _OF_THE_CONNECTOR:
            continue
        if meant not in known:
            raise ConfigurationError(f"log.server: {name!r} is no connection parameter of PyMySQL")
        given[meant] = value
    return lambda: _MysqlSession(given)


class _MysqlSession:
    dialect = MYSQL
    insert_or_ignore = ("INSERT IGNORE", "")
    is_ascii_only = False

    def __init__(self, parameters: dict[str, str | int | bool]) -> None:
        import pymysql

        self._error = pymysql.MySQLError
        # What the types are is not known before the parameters are: PyMySQL checks them itself.
        connect: Callable[..., Connection[Cursor]] = pymysql.connect
        with self._translating():
            try:
                self._connection = connect(**parameters, charset="utf8mb4", autocommit=False)
            except (ValueError, TypeError, RuntimeError) as error:
                # Of a wrong type; or a way to log in that needs the package cryptography.
                raise ServerError(f"PyMySQL: {error}", reason="refused") from error

    def execute(self, sql: str, values: Sequence[str | int | bytes] = ()) -> int:
        with self._translating(), self._connection.cursor() as cursor:
            return int(cursor.execute(sql, tuple(values) or None))

    def execute_many(self, sql: str, rows: Sequence[Sequence[str | int | bytes]]) -> None:
        with self._translating(), self._connection.cursor() as cursor:
            # Becomes INSERTs of many rows, each of at most max_stmt_length.
            cursor.executemany(sql, [tuple(row) for row in rows])

    def fetch(self, sql: str, values: Sequence[str | int | bytes] = ()) -> list[tuple[object, ...]]:
        with self._translating(), self._connection.cursor() as cursor:
            cursor.execute(sql, tuple(values) or None)
            return list(cursor.fetchall())

    def columns(self, table: str) -> frozenset[str]:
        found = self.fetch(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s",
            (table,),
        )
        return frozenset(str(name) for each in found for name in each)

    def insert_facts(self, table: str, rows: Iterable[Sequence[str | int | bytes]]) -> None:
        marks = ", ".join(["%s"] * len(FACT_NAMES))
        sql = f"INSERT INTO {table} ({', '.join(FACT_NAMES)}) VALUES ({marks})"  # noqa: S608 names
        self.execute_many(sql, list(rows))

    def commit(self) -> None:
        with self._translating():
            self._connection.commit()

    def roll_back(self) -> None:
        with self._translating():
            self._connection.rollback()

    def close(self) -> None:
        try:
            self._connection.close()
        except (self._error, OSError):
            # It says goodbye, which a dead connection does not take.
            return

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except ServerError:
            raise
        except (self._error, OSError) as error:
            raise _translate(error) from error
        except Exception as error:
            # PyMySQL takes apart what it is sent without looking whether it can be.
            raise not_understood("MySQL", error) from error


def _translate(error: Exception) -> ServerError:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = " ".join(str(part) for part in error.args[1:] or error.args)
    # 0: PyMySQL has closed the connection itself.
    if code == 0 or code in _CLIENT_ERRORS or isinstance(error, OSError):
        return ServerError(f"the MySQL server can't be reached: {text}", reason="unreachable")
    reason = "refused" if code in _ACCESS_ERRORS else "failed"
    return ServerError(f"MySQL: {text} (error {code})", reason=reason)
