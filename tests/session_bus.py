"""A real D-Bus with services that record: a notification server, and a logind."""

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jeepney import HeaderFields, Message, MessageType, message_bus, new_error, new_method_return
from jeepney.io.blocking import DBusConnection, open_dbus_connection

# Anybody may connect: services of root, and clients of the user under test.
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""


@contextmanager
def session_bus(folder: Path, *, uid: int | None = None) -> Iterator[str]:
    """The address of a bus at `folder`/bus, run by that user."""
    address = f"unix:path={folder / 'bus'}"
    config = folder / "bus.conf"
    config.write_text(_CONFIG.format(address=address))
    config.chmod(0o644)
    command = ["dbus-daemon", "--nofork", "--print-address", f"--config-file={config}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline().startswith(b"unix:path=")
            yield address
        finally:
            daemon.terminate()
            daemon.wait(10)


@dataclass
class Shown:
    """One call of Notify."""

    app_name: str
    title: str
    body: str
    urgency: int


class Service:
    """Owns a name on a bus and answers in a thread."""

    def __init__(self, address: str, name: str) -> None:
        self._connection = open_dbus_connection(address)
        self._connection.send_and_get_reply(message_bus.RequestName(name))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._is_closing = False
        self._thread.start()

    def close(self) -> None:
        self._is_closing = True
        self._thread.join(5)
        self._connection.close()

    def answer(self, call: Message) -> tuple[str, tuple[object, ...]] | None:
        raise NotImplementedError

    def _serve(self) -> None:
        while not self._is_closing:
            try:
                call = self._connection.receive(timeout=0.05)
            except TimeoutError:
                continue
            except OSError:
                return
            if call.header.message_type is not MessageType.method_call:
                continue
            answer = self.answer(call)
            if answer is None:
                reply = new_error(call, "org.freedesktop.DBus.Error.UnknownMethod")
            else:
                reply = new_method_return(call, *answer)
            self._send(self._connection, reply)

    @staticmethod
    def _send(connection: DBusConnection, reply: Message) -> None:
        connection.send(reply)


class NotificationServer(Service):
    """Records what is shown."""

    def __init__(self, address: str, *, capabilities: Sequence[str] = ("body",)) -> None:
        self.shown: list[Shown] = []
        self.changed = threading.Condition()
        self._capabilities = list(capabilities)
        super().__init__(address, "org.freedesktop.Notifications")

    def answer(self, call: Message) -> tuple[str, tuple[object, ...]] | None:
        member = call.header.fields[HeaderFields.member]
        if member == "GetCapabilities":
            return "as", (self._capabilities,)
        if member != "Notify":
            return None
        name, _replaced, _icon, title, body, _actions, hints, _timeout = call.body
        with self.changed:
            shown = Shown(app_name=name, title=title, body=body, urgency=hints["urgency"][1])
            self.shown.append(shown)
            self.changed.notify_all()
        return "u", (len(self.shown),)

    def wait_for(self, number: int) -> list[Shown]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.shown) >= number, 15), self.shown
            return list(self.shown)


@dataclass
class Session:
    uid: int
    kind: str = "wayland"
    is_active: bool = True
    seat: str = "seat0"
    role: str = "user"


@dataclass
class _Properties:
    values: dict[str, tuple[str, object]] = field(default_factory=dict)


class Logind(Service):
    """Says which sessions there are."""

    def __init__(self, address: str, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        super().__init__(address, "org.freedesktop.login1")

    def answer(self, call: Message) -> tuple[str, tuple[object, ...]] | None:
        if call.header.fields[HeaderFields.member] == "ListSessions":
            rows = [
                (
                    str(number),
                    each.uid,
                    "name",
                    each.seat,
                    f"/org/freedesktop/login1/session/{number}",
                )
                for number, each in enumerate(self._sessions)
            ]
            return "a(susso)", (rows,)
        if call.header.fields[HeaderFields.member] == "GetAll":
            path = call.header.fields[HeaderFields.path]
            session = self._sessions[int(path.rpartition("/")[2])]
            values = {
                "Active": ("b", session.is_active),
                "Type": ("s", session.kind),
                "Class": ("s", session.role),
                "Remote": ("b", False),
            }
            return "a{sv}", (values,)
        return None
