"""Starts the process that shows notifications, as the user whose desktop it is.

Only root can become that user, and nothing that is privileged should read what others wrote. So
this process, which keeps the capabilities to become somebody else and no other, hands messages on
unread: from the exporter process to a program that it has started as the user. Who that is, another
program says that it has started as nobody. Where there is no session, messages are dropped.
"""

import contextlib
import logging
import pwd
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from picosnitch_exporter.logging_format import Event

MAX_MESSAGE_BYTES: Final = 4096
FOUND_SECONDS: Final = 10.0
"""How long the answer to whose session is active holds."""
FIND_SECONDS: Final = 8.0
RESTART_SECONDS: Final = 10.0
"""Between two starts for the same user, where it has ended by itself or could not be started."""
WARNING_SECONDS: Final = 60.0
"""Between two warnings that it can't be started."""
END_SECONDS: Final = 1.0
"""For a program to end, when it should and when it has to."""
_NOBODY = 65534
_MODULE = "picosnitch_exporter.checks.desktop"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Shower:
    uid: int
    process: "subprocess.Popen[bytes]"
    sock: socket.socket


class Launcher:
    """Hands messages on, each to the program of whoever has the desktop by then.

    `uid` is that user, None to find out each time. `clock` is monotonic.
    """

    def __init__(
        self,
        incoming: socket.socket,
        *,
        uid: int | None = None,
        runtime: Path,
        find: Callable[[], int | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._incoming = incoming
        self._uid = uid
        self._runtime = runtime
        self._find = find or find_user
        self._clock = clock
        self._found: int | None = None
        self._found_until = 0.0
        self._shower: _Shower | None = None
        self._tried_for: int | None = None
        self._next_try = 0.0
        self._next_warning = 0.0

    def run(self) -> None:
        """Until the other end is closed."""
        while message := self._incoming.recv(MAX_MESSAGE_BYTES):
            uid = self._user()
            if uid is not None:
                self._hand_on(uid, message)
        self._end()

    def _user(self) -> int | None:
        if self._uid is not None:
            return self._uid
        now = self._clock()
        if now >= self._found_until:
            self._found = self._find()
            if self._found is None:
                self._found = only_user(self._runtime)
            self._found_until = self._clock() + FOUND_SECONDS
        return self._found

    def _hand_on(self, uid: int, message: bytes) -> None:
        shower = self._shower
        if shower is not None and (shower.uid != uid or shower.process.poll() is not None):
            self._end()
            shower = None
        if shower is None:
            shower = self._shower = self._try_to_start(uid)
        if shower is None:
            return
        with contextlib.suppress(OSError):
            shower.sock.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _try_to_start(self, uid: int) -> _Shower | None:
        folder = self._runtime / str(uid)
        now = self._clock()
        if (self._tried_for == uid and now < self._next_try) or not is_folder_of(folder, uid):
            return None
        self._tried_for, self._next_try = uid, now + RESTART_SECONDS
        try:
            return self._start(uid, folder / "bus")
        except (OSError, subprocess.SubprocessError) as error:
            # The user may have too many processes, or not reach the interpreter.
            if now >= self._next_warning:
                self._next_warning = now + WARNING_SECONDS
                _log.warning(Event("desktop_not_started", {"uid": uid, "error": str(error)}))
            return None

    def _start(self, uid: int, bus: Path) -> _Shower:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = subprocess.Popen(
                    _command("show", f"unix:path={bus}"),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"LANG": "C.UTF-8"},
                    start_new_session=True,
                    user=uid,
                    group=_gid_of(uid),
                    extra_groups=[],
                    umask=0o077,
                )
            except (OSError, subprocess.SubprocessError):
                ours.close()
                raise
        _log.debug(Event("desktop_found", {"uid": uid}))
        return _Shower(uid=uid, process=process, sock=ours)

    def _end(self) -> None:
        """Closes its socket, at which it ends; it is killed if it does not."""
        shower, self._shower = self._shower, None
        if shower is None:
            return
        shower.sock.close()
        try:
            shower.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(shower.process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends it, and goes on: who traces it can keep its end from us (ptrace(2)).

    Popen asks after those that are left whenever it starts another one.
    """
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def find_user() -> int | None:
    """Whose session is active, as a program says that runs as nobody."""
    try:
        process = subprocess.Popen(
            _command("find"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"LANG": "C.UTF-8"},
            user=_NOBODY,
            group=_NOBODY,
            extra_groups=[],
        )
        try:
            output, _ = process.communicate(timeout=FIND_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning(Event("desktop_not_found", {"error": str(error)}))
        return None
    answer = output.strip()[:10]
    uid = int(answer) if answer.isdigit() else 0
    # Root has no desktop that anything should be shown on unless it is named.
    return uid or None


def only_user(runtime: Path) -> int | None:
    """Who has a folder for a session, where logind says no more; None if there are several."""
    try:
        names = [path.name for path in runtime.iterdir() if path.name.isdigit()]
    except OSError:
        return None
    uids = [int(name) for name in names if is_folder_of(runtime / name, int(name))]
    uids = [uid for uid in uids if uid]
    return uids[0] if len(uids) == 1 else None


def is_folder_of(path: Path, uid: int) -> bool:
    """Whether it is a folder of that user. What is in it, only that user can see."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _gid_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def _command(*arguments: str) -> Sequence[str]:
    return (sys.executable, "-I", "-m", _MODULE, *arguments)
