"""Where messages for the desktop go: to a process from before there is anything to hide."""

import importlib.util
import logging
import pwd
import socket
import sys
from pathlib import Path
from typing import Final

from picosnitch_exporter import offshoot, privileges
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.settings import LoggingSettings, NotificationSettings

RUNTIME: Final = Path("/run/user")
_SEATS = Path("/run/systemd/seats")
_SCRIPT = Path(__file__).with_name("launching.py")
_KEPT_CAPABILITIES = (
    privileges.CAP_KILL,  # to end the program that shows them, which has another user
    privileges.CAP_SETGID,
    privileges.CAP_SETUID,
)

_log = logging.getLogger(__name__)


def start(
    settings: NotificationSettings, logging_settings: LoggingSettings, *, runtime: Path = RUNTIME
) -> socket.socket | None:
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
    descriptor = theirs.fileno()
    user = "" if uid is None else str(uid)
    style = (logging_settings.level, logging_settings.format)
    offshoot.start(
        _SCRIPT,
        (str(descriptor), user, str(runtime), *style, *sys.path),
        descriptors=(descriptor,),
        capabilities=_KEPT_CAPABILITIES,
    )
    theirs.close()
    return ours


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigurationError(
            f"notifications.user: there is no user {user!r}: correct the name, or remove the key"
        ) from None
