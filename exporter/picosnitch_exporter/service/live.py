"""The socket in the storage folder from which `top` reads the running exporter.

A request is a line of JSON, and so is its answer: `{"show": "executables"}`, or `{"show":
"connections", "exe": ..., "sha256": ...}`. Who may enter the folder is root, the exporter's account
and the members of `storage.group`; the kernel says of each client whether it is one of them.
Source: unix(7), socket(7); SO_PEERGROUPS in include/uapi/asm-generic/socket.h.
"""

import contextlib
import errno
import json
import logging
import os
import queue
import socket
import stat
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from picosnitch_exporter import catalog
from picosnitch_exporter.log.rows import Hiding, Windows
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Executable, Sha256, Snapshot
from picosnitch_exporter.outputs.listen import EXHAUSTED, PASSING
from picosnitch_exporter.service.live_view import Connections, Counts, connections, executables
from picosnitch_exporter.state.health import Health

SOCKET_NAME: Final = "top.sock"
"""In the storage path."""
MAX_CLIENTS: Final = 4
MAX_REQUEST_BYTES: Final = 16_384

_IDLE_SECONDS = 60.0
_ANSWER_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_REFUSAL_SECONDS = 0.5
_BACK_OFF_SECONDS = 0.1
_SO_PEERGROUPS = 59
_MAX_GROUPS = 256  # of a client: what Python's getsockopt takes
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Question:
    """What a client's thread wants of the windows, which the main thread alone may read."""

    executable: Executable | None
    """Whose connections; None: how many each one has."""
    answered: threading.Event = field(default_factory=threading.Event)
    counts: Counts = field(default_factory=dict)
    connections: Connections = ()
    window: int = 0


def bind(folder: Path, *, readers: int | None) -> socket.socket | None:
    """The listening socket in this folder; None, and a line in the log, where there can't be one.

    To be called by who owns the folder. One that another exporter still listens on is left alone.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        inside = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # By the descriptor: the path may be longer than the 108 bytes of an address.
            address = f"/proc/self/fd/{inside}/{SOCKET_NAME}"
            _remove_old(inside, address)
            listener.bind(address)
            os.chmod(SOCKET_NAME, 0o600 if readers is None else 0o666, dir_fd=inside)
        finally:
            os.close(inside)
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        _log.warning(Event("top_unavailable", {"folder": str(folder), "reason": str(error)}))
        return None
    return listener


def _remove_old(inside: int, address: str) -> None:
    try:
        status = os.lstat(SOCKET_NAME, dir_fd=inside)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, f"{SOCKET_NAME} is not a socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(SOCKET_NAME, dir_fd=inside)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class LiveServer:
    """Answers `top`, one thread for each of few clients; takes the socket over and closes it.

    `asked` is called when there is something for `answer`, `failed` with what ended the accepting
    thread.
    """

    def __init__(  # noqa: PLR0913  (what there is to show, and to whom)
        self,
        listener: socket.socket,
        *,
        snapshot: Callable[[], Snapshot],
        readiness: Callable[[], str | None],
        hiding: Hiding,
        readers: int | None,
        health: Health,
        asked: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._listener = listener
        self._snapshot = snapshot
        self._readiness = readiness
        self._hiding = hiding
        self._readers = readers
        self._health = health
        self._asked = asked
        self._failed = failed
        self._questions: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._closing = threading.Event()
        self._acceptor = threading.Thread(target=self._accept_all, name="live", daemon=True)

    def start(self) -> None:
        """Accepts clients from now on."""
        self._acceptor.start()

    def close(self) -> None:
        """Ends all connections."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        if self._acceptor.ident is not None:
            self._acceptor.join(_CLOSE_SECONDS)
        self._listener.close()

    def answer(self, windows: Windows, now: float) -> None:
        """Called by the main thread, which owns the windows: answers what has been asked."""
        while True:
            try:
                question = self._questions.get_nowait()
            except queue.Empty:
                return
            question.window = windows.closed
            if question.executable is None:
                question.counts = windows.count_recent()
            else:
                question.connections = tuple(windows.recent(question.executable, now))
            question.answered.set()

    def _accept_all(self) -> None:
        try:
            while True:
                self._accept()
        except BaseException as error:  # noqa: BLE001  (handed on: it has to end the process)
            if not self._closing.is_set():
                self._failed(error)

    def _accept(self) -> None:
        try:
            client, _address = self._listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._health.count(catalog.TOP_CLIENTS_REFUSED, ("exhausted",))
                self._closing.wait(_BACK_OFF_SECONDS)
            elif error.errno not in PASSING:
                raise
            return
        self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        client.settimeout(_IDLE_SECONDS)
        if not _may_read(client, self._readers):
            self._refuse(client, "not_allowed", "only root and storage.group may ask")
            return
        with self._lock:
            is_full = len(self._clients) >= MAX_CLIENTS
            if not is_full:
                self._clients.add(client)
        if is_full:
            self._refuse(
                client, "full", f"{MAX_CLIENTS} others are watching already: try again later"
            )
            return
        try:
            threading.Thread(target=self._serve, args=(client,), name="live", daemon=True).start()
        except RuntimeError:  # no room for another thread
            self._forget(client)
            self._refuse(client, "exhausted", "the exporter has no thread left: try again later")

    def _refuse(self, client: socket.socket, reason: str, message: str) -> None:
        self._health.count(catalog.TOP_CLIENTS_REFUSED, (reason,))
        with contextlib.suppress(OSError), client:
            client.sendall(_line({"error": message}))
            # Closed with its question unread, it would only see a connection that broke.
            client.settimeout(_REFUSAL_SECONDS)
            client.recv(MAX_REQUEST_BYTES)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as requests:
                while request := requests.readline(MAX_REQUEST_BYTES):
                    client.sendall(_line(self._respond(request)))
        except OSError:
            pass  # it has gone, or asks for nothing any more
        finally:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.discard(client)

    def _respond(self, request: bytes) -> dict[str, object]:
        try:
            asked = json.loads(request)
        except (ValueError, RecursionError):
            return {"error": "not a line of JSON"}
        match asked:
            case {"show": "executables"}:
                executable = None
            case {"show": "connections", "exe": str(exe), "sha256": str(sha256)}:
                executable = Executable(sha256=Sha256(sha256), exe=exe)
            case _:
                return {"error": "unknown request: is top of the same version as the exporter?"}
        question = _Question(executable=executable)
        self._questions.put(question)
        self._asked()
        if not question.answered.wait(_ANSWER_SECONDS):
            return {"error": f"the exporter has not answered within {_ANSWER_SECONDS:.0f} s"}
        if executable is None:
            return executables(self._snapshot(), question.counts, self._readiness())
        return connections(
            executable, question.connections, window=question.window, hiding=self._hiding
        )


def _line(answer: dict[str, object]) -> bytes:
    # ASCII: names of files may hold what is no text.
    return json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n"


def _may_read(client: socket.socket, readers: int | None) -> bool:
    """Whether a client is root, the exporter's own account, or of the group."""
    try:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, gid = _CREDENTIALS.unpack(credentials)
        if uid in {0, os.geteuid()}:
            return True
        if readers is None:
            return False
        if gid == readers:
            return True
        groups = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return False
    return readers in struct.unpack(f"{len(groups) // 4}I", groups)
