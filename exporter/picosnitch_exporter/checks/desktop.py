"""The process of the desktop's user: shows what it is sent, over the session's D-Bus.

::

    python -I -m picosnitch_exporter.checks.desktop show unix:path=/run/user/1000/bus
    python -I -m picosnitch_exporter.checks.desktop find

`show` gets messages from the sequential-packet socket that is its standard input, until that ends.
`find` prints the user whose session is active, as logind says; it runs as nobody.
Sources: the Desktop Notifications Specification 1.2, org.freedesktop.login1(5).
"""

import contextlib
import html
import json
import select
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Properties, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

MAX_MESSAGE_BYTES: Final = 4096
CALL_SECONDS: Final = 5.0
SHOWN_MILLISECONDS: Final = 10_000
_MAX_SESSIONS = 64
_URGENCY = {"notice": 0, "warning": 1, "alert": 2}
"""By the severity of the event: low, normal, critical."""
_NOTIFICATIONS = DBusAddress(
    "/org/freedesktop/Notifications",
    bus_name="org.freedesktop.Notifications",
    interface="org.freedesktop.Notifications",
)
_LOGIND = DBusAddress(
    "/org/freedesktop/login1",
    bus_name="org.freedesktop.login1",
    interface="org.freedesktop.login1.Manager",
)
_GRAPHICAL = ("x11", "wayland", "mir")


class CallError(Exception):
    """A D-Bus call came back with an error, or with something else than it should."""


_FAILURES = (OSError, EOFError, CallError, ValueError, TypeError, KeyError)
"""Of a bus that is not there, ends, or says what it should not."""


def show(incoming: socket.socket, address: str) -> int:
    """Shows messages until there will be no more, or the session has ended; the exit code."""
    try:
        with open_dbus_connection(address, auth_timeout=CALL_SECONDS) as connection:
            _relay(incoming, connection)
    except _FAILURES:
        return 1
    return 0


def find(address: str = "SYSTEM") -> int | None:
    """The user id of the active session; a graphical one is preferred."""
    with open_dbus_connection(address, auth_timeout=CALL_SECONDS) as connection:
        reply = _call(connection, new_method_call(_LOGIND, "ListSessions"))
        sessions = cast("Iterable[tuple[str, int, str, str, str]]", reply[0])
        candidates = []
        for _number, uid, _name, seat, path in tuple(sessions)[:_MAX_SESSIONS]:
            session = DBusAddress(
                path,
                bus_name="org.freedesktop.login1",
                interface="org.freedesktop.login1.Session",
            )
            reply = _call(connection, Properties(session).get_all())
            properties = cast("Mapping[str, tuple[str, object]]", reply[0])
            values = {name: value for name, (_signature, value) in properties.items()}
            if values.get("Active") is True and values.get("Class") == "user":
                is_graphical = values.get("Type") in _GRAPHICAL
                candidates.append((is_graphical, bool(seat), int(uid)))
    candidates = [each for each in candidates if each[0] or each[1]]
    return max(candidates)[2] if candidates else None


def _relay(incoming: socket.socket, connection: DBusConnection) -> None:
    has_markup: bool | None = None
    while True:
        readable, _w, _x = select.select([incoming, connection.sock], [], [])
        if connection.sock in readable:
            # Signals of the notification server; the end of the session, which raises.
            with contextlib.suppress(TimeoutError):
                connection.recv_messages(timeout=0)
        if incoming not in readable:
            continue
        message = incoming.recv(MAX_MESSAGE_BYTES)
        if not message:
            return
        try:
            if has_markup is None:
                call = new_method_call(_NOTIFICATIONS, "GetCapabilities")
                has_markup = "body-markup" in cast("list[str]", _call(connection, call)[0])
            _call(connection, _notification(message, has_markup=has_markup))
        except (CallError, TimeoutError):
            # No notification server, or one that hangs: the message is gone, the next may be shown.
            has_markup = None


def _notification(data: bytes, *, has_markup: bool) -> Message:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise TypeError("not a message")
    body = str(value.get("body", ""))
    if has_markup:
        # Paths are chosen by strangers: no link and no image comes from one.
        body = html.escape(body, quote=False)
    hints = {
        "urgency": ("y", _URGENCY.get(str(value.get("severity")), 1)),
        "category": ("s", "network"),
    }
    title = str(value.get("title", ""))
    return new_method_call(
        _NOTIFICATIONS,
        "Notify",
        "susssasa{sv}i",
        ("picosnitch", 0, "network-wired", title, body, [], hints, SHOWN_MILLISECONDS),
    )


def _call(connection: DBusConnection, call: Message) -> tuple[object, ...]:
    reply = connection.send_and_get_reply(call, timeout=CALL_SECONDS)
    if reply.header.message_type is MessageType.error:
        raise CallError(str(reply.header.fields.get(HeaderFields.error_name)))
    if not reply.body:
        raise CallError("an empty reply")
    return cast("tuple[object, ...]", reply.body)


def main(arguments: Sequence[str]) -> int:
    """The command line, for `launcher` only."""
    match list(arguments):
        case ["show", address]:
            return show(socket.socket(fileno=0), address)
        case ["find"]:
            try:
                uid = find()
            except _FAILURES:
                uid = None
            if uid is not None:
                sys.stdout.write(f"{uid}\n")
            return 0
        case _:
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
