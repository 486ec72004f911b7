"""Which peer a datagram is logged with, where a call does not name it."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.kernel.exporter import Exporter, poll

SECONDS = 20.0
# A connected socket sends to somebody else, then another socket receives without asking from whom.
TALKER = """
import socket
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(("127.0.90.1", 9))
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.90.3", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("127.0.90.4", 0))
sender.sendto(b"x" * 33, receiver.getsockname())
connected.sendto(b"y", ("127.0.90.2", 9))
receiver.recv(100)
"""


@pytest.mark.usefixtures("privileges")
def test_peer_is_the_sender_when_a_connected_socket_named_another_one() -> None:
    with Exporter.start({"log": {"write_limit_seconds": 1}}) as exporter:
        subprocess.run([sys.executable, "-I", "-S", "-c", TALKER], check=True)

        def peers() -> list[tuple[str]]:
            database = f"file:{exporter.storage}/snitch.db?mode=ro"
            with closing(sqlite3.connect(database, uri=True)) as connection:
                return connection.execute(
                    "SELECT raddr FROM connection_log WHERE laddr = '127.0.90.3' AND recv = 33"
                ).fetchall()

        assert poll(peers, seconds=SECONDS) == [("127.0.90.4",)]
