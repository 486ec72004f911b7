"""Outputs that bring libraries of their own still work in the confined process."""

import os
import socket
import stat
import subprocess

import pytest

from tests.database_servers import DatabaseServer, mariadb, postgresql
from tests.kernel.exporter import Exporter, poll

SECONDS = 60.0


def connect_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3"
        subprocess.run(["bash", "-c", command], check=True)


def parameters(server: DatabaseServer, client: str) -> dict[str, object]:
    # The exporter's account has to reach the socket in the server's folder.
    server.folder.chmod(0o755)
    if client == "psycopg":
        return {
            "host": str(server.folder),
            "port": server.port,
            "user": "admin",
            "dbname": "postgres",
        }
    return {"unix_socket": str(server.folder / "socket"), "user": "root", "database": "mysql"}


@pytest.mark.parametrize("client", ["psycopg", "mariadb"])
def test_rows_arrive_at_the_server_when_the_process_is_confined(client: str) -> None:
    if os.geteuid() != 0:
        pytest.fail("the exporter loads BPF programs: run this as root")
    with postgresql() if client == "psycopg" else mariadb() as server:
        log = {"write_limit_seconds": 1, "server": {"client": client, **parameters(server, client)}}
        with Exporter.start({"log": log}) as exporter:
            connect_once()
            line = 'picosnitch_exporter_log_rows_written_total{log="server"} '

            def has_rows() -> bool:
                found = [
                    one.removeprefix(line)
                    for one in exporter.page("/metrics").splitlines()
                    if one.startswith(line)
                ]
                return bool(found) and float(found[0]) > 0

            assert poll(has_rows, seconds=SECONDS), exporter.said()


def test_storage_is_closed_to_others() -> None:
    if os.geteuid() != 0:
        pytest.fail("the exporter loads BPF programs: run this as root")
    log = {"write_limit_seconds": 1, "text": {"enabled": True}}
    with Exporter.start({"log": log}) as exporter:
        connect_once()
        assert poll((exporter.storage / "conn.log").exists, seconds=SECONDS)
        found = {
            path: stat.S_IMODE(path.lstat().st_mode)
            for path in [exporter.storage, *exporter.storage.rglob("*")]
            if not path.is_socket()
        }
    open_to_others = {path: oct(mode) for path, mode in found.items() if mode & 0o066}
    assert open_to_others == {}
    files = {path.name: mode for path, mode in found.items() if path.suffix in {".db", ".log"}}
    assert {"snitch.db", "conn.log", "exe.log"} <= set(files)
    assert {0o600} == set(files.values())
