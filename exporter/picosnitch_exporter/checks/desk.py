"""Where messages for the desktop go: to a process that is forked before there is anything to hide.

It imports nothing after the fork, which would copy 2.5 MB of memory that it now shares.
"""

import importlib.util
import logging
import os
import pwd
import signal
import socket
from pathlib import Path
from typing import Final, NoReturn

from picosnitch_exporter import privileges
from picosnitch_exporter.checks.launcher import Launcher
from picosnitch_exporter.errors import ConfigurationError, RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.settings import NotificationSettings

RUNTIME: Final = Path("/run/user")
_SEATS = Path("/run/systemd/seats")
_FIRST_DESCRIPTOR = 3

_log = logging.getLogger(__name__)


def fork(settings: NotificationSettings, *, runtime: Path = RUNTIME) -> socket.socket | None:
    """Starts the launcher; where messages for it are to be sent, None where there is no use for it.

    To be called as root, before there are threads. The launcher ends once that socket is closed.

    Raises
    ------
    ConfigurationError
        if `notifications.user` does not exist.
    """
    if not settings.desktop:
        return None
    uid = _uid_of(settings.user) if settings.user is not None else None
    if uid is None and not _SEATS.exists() and not runtime.exists():
        _log.debug(Event("desktop_notifications_off", {"reason": "no sessions on this machine"}))
        return None
    if importlib.util.find_spec("jeepney") is None:
        what_now = "pip install 'picosnitch-exporter[desktop]', or set notifications.desktop: false"
        _log.info(Event("desktop_notifications_off", {"reason": "no jeepney", "do": what_now}))
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _become_launcher(theirs, uid=uid, runtime=runtime)
    theirs.close()
    return ours


def _become_launcher(incoming: socket.socket, *, uid: int | None, runtime: Path) -> NoReturn:
    """The child's part."""
    try:
        # Ctrl-C and systemd's SIGTERM are for the exporter; this ends after it.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(_FIRST_DESCRIPTOR, incoming.fileno())
        os.closerange(incoming.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        privileges.keep_only(privileges.CAP_KILL, privileges.CAP_SETGID, privileges.CAP_SETUID)
        Launcher(incoming, uid=uid, runtime=runtime).run()
    except RequirementError as error:
        what_now = (
            "give it CAP_SETUID, CAP_SETGID and CAP_KILL, or set notifications.desktop: false"
        )
        _log.warning(Event("desktop_notifications_off", {"reason": str(error), "do": what_now}))
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
        _log.exception(Event("desktop_notifications_failed"))
    finally:
        logging.shutdown()
        os._exit(0)


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigurationError(
            f"notifications.user: there is no user {user!r}: correct the name, or remove the key"
        ) from None
