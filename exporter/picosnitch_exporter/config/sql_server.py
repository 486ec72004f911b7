"""`log.server`, picosnitch's `DB sql server`: a client, a table, and a driver's parameters."""

import re
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.kinds import HIDDEN, one_of
from picosnitch_exporter.settings import ServerSettings

SQL_CLIENTS = ("mariadb", "psycopg", "psycopg2", "pymysql")

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SECRET_PARAMETER = re.compile(r"pass(?!file)|secret|token|dsn|conninfo", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlServer:
    """`DB sql server`: a client, a table, and what goes to the driver's connect()."""

    @property
    def description(self) -> str:
        return (
            f"{{}} for none, or client ({one_of(SQL_CLIENTS)}), table_name, password_file, "
            "and the driver's connection parameters"
        )

    def parse(self, value: Plain) -> ServerSettings | None:
        if not isinstance(value, dict):
            raise ValueError("must be {} or a mapping with a client")
        if not value:
            return None
        rest = dict(value)
        client = rest.pop("client", None)
        if not isinstance(client, str) or client not in SQL_CLIENTS:
            raise ValueError(f"needs 'client': {one_of(SQL_CLIENTS)}")
        table_name = rest.pop("table_name", "connections")
        if not isinstance(table_name, str) or not _IDENTIFIER.fullmatch(table_name):
            raise ValueError(
                "'table_name' must be 1 to 63 letters, digits and underscores, no digit first"
            )
        password_file = rest.pop("password_file", None)
        if password_file is not None:
            if not isinstance(password_file, str) or not password_file or "\0" in password_file:
                raise ValueError("'password_file' must be a path")
            if "password" in rest or "passwd" in rest:
                raise ValueError("has both 'password' and 'password_file': remove one of them")
        return ServerSettings(
            client=client,
            table_name=table_name,
            password_file=None if password_file is None else Path(password_file),
            parameters=tuple(_parameter(name, item) for name, item in rest.items()),
        )

    def plain(self, value: object) -> Plain:
        if not isinstance(value, ServerSettings):
            return {}
        shown: dict[str, Plain] = {"client": value.client, "table_name": value.table_name}
        if value.password_file is not None:
            shown["password_file"] = str(value.password_file)
        for name, item in value.parameters:
            if name == "password" and value.password_file is not None:
                continue
            shown[name] = HIDDEN if item and is_secret_parameter(name) else item
        return shown


def is_secret_parameter(name: str) -> bool:
    """Whether a connection parameter is one that must not be printed."""
    return name != "password_file" and _SECRET_PARAMETER.search(name) is not None


def _parameter(name: str, value: Plain) -> tuple[str, str | int | bool | None]:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r:.60} is not the name of a connection parameter")
    if isinstance(value, float | list | dict):
        raise ValueError(f"{name!r} must be text, a whole number, true, false or null")
    if value == HIDDEN and is_secret_parameter(name):
        raise ValueError(f"{name!r} is {HIDDEN}, which --show prints instead: write the real one")
    return name, value
