"""PostgreSQL and MariaDB from the operating system's packages, for as long as a test needs them.

Both run as an unprivileged user in a temporary folder, and are reached through a proxy that can cut
every connection.
"""

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

START_SECONDS = 60
_USER = "nobody"


@dataclass
class DatabaseServer:
    """A server that can be stopped, killed and started again."""

    kind: str
    folder: Path
    port: int
    command: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts, and waits until it answers."""
        with (self.folder / "output").open("ab") as output:
            self.process = _as_user(self.command, self.folder, stdout=output)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "output").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """As if the machine had lost it: no goodbye to anybody."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order."""
        # PostgreSQL: fast shutdown, which does not wait for its clients.
        self._end(signal.SIGINT if self.kind == "postgresql" else signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            # The processes of PostgreSQL's sessions would survive it for a while.
            kill_too = (
                psutil.Process(self.process.pid).children() if number is signal.SIGKILL else []
            )
            self.process.send_signal(number)
            for child in kill_too:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            self.process.wait(START_SECONDS)
            self.process = None

    def _answers(self) -> bool:
        return self.query("SELECT 1", missing=None) is not None

    def query(self, sql: str, *, database: str = "", missing: str | None = "") -> str | None:
        """Output of a statement that the administrator runs, columns apart by tabs."""
        if self.kind == "postgresql":
            command = ["psql", "-h", str(self.folder), "-p", str(self.port), "-U", "admin", "-X"]
            command += ["-q", "-A", "-t", "-F", "\t", "-d", database or "postgres", "-c", sql]
        else:
            command = ["mariadb", "--no-defaults", f"--socket={self.folder}/socket", "-u", "root"]
            command += ["-N", "-B", "-e", sql, *([database] if database else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            if missing is None:
                return None
            raise RuntimeError(done.stderr)
        return done.stdout.strip()


@contextmanager
def postgresql() -> Iterator[DatabaseServer]:
    """A cluster with the superuser 'admin'; local connections are trusted, others log in."""
    programs = max(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name),
    )
    with _folder() as folder:
        data, port = folder / "data", free_port()
        options = ["--no-sync", "-U", "admin", "-A", "scram-sha-256", "--auth-local=trust"]
        options += ["-E", "UTF8", "--locale=C"]
        _run([f"{programs}/initdb", "-D", str(data), *options], folder)
        command = [f"{programs}/postgres", "-D", str(data), "-k", str(folder), "-p", str(port)]
        command += [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=8MB",
        ]
        server = DatabaseServer("postgresql", folder, port, command)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def mariadb() -> Iterator[DatabaseServer]:
    """A server whose root logs in without a password, by its socket."""
    with _folder() as folder:
        data, port = folder / "data", free_port()
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", *options]
        _run(install, folder)
        command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={folder}/socket"]
        command += [f"--port={port}", "--bind-address=127.0.0.1", f"--pid-file={folder}/pid"]
        command += ["--innodb-buffer-pool-size=16M", "--performance-schema=OFF"]
        command += ["--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=8M"]
        command += ["--sql-mode=STRICT_ALL_TABLES,ANSI_QUOTES,NO_BACKSLASH_ESCAPES"]
        server = DatabaseServer("mariadb", folder, port, command)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass
class CuttingProxy:
    """Forwards TCP connections, and cuts each after a number of bytes in both directions."""

    target_port: int
    next_cut: Callable[[], int | None] = lambda: None
    """Asked for each connection; None: never."""
    is_down: bool = False
    cuts: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where to connect to."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Ends it, and all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Cuts what is connected now."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            if self.is_down:
                client.close()
                continue
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        left = self.next_cut()
        try:
            with client, socket.create_connection(("127.0.0.1", self.target_port)) as server:
                self._open += [client, server]
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    for ready in select.select([client, server], [], [])[0]:
                        data = ready.recv(65536 if left is None else min(left, 65536))
                        if not data:
                            return
                        (server if ready is client else client).sendall(data)
                        if left is not None:
                            left -= len(data)
                        if left == 0:
                            self.cuts += 1
                            return
        except OSError:
            return


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _folder() -> Iterator[Path]:
    # Not in pytest's folder: only root may go there, and paths of sockets have to be short.
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-"))
    try:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_USER)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_user(
    command: list[str],
    folder: Path,
    *,
    stdout: IO[bytes] | int,
) -> "subprocess.Popen[bytes]":
    user = _USER if os.geteuid() == 0 else None
    group = pwd.getpwnam(_USER).pw_gid if user else None
    return subprocess.Popen(
        command,
        cwd=folder,
        user=user,
        group=group,
        extra_groups=[] if user else None,
        env={**os.environ, "HOME": str(folder)},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _run(command: list[str], folder: Path) -> None:
    with _as_user(command, folder, stdout=subprocess.PIPE) as process:
        output, _none = process.communicate()
        if process.returncode:
            raise RuntimeError(output.decode())
