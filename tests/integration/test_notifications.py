"""Events on a real D-Bus, to a webhook and to syslog."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.checks import desk, desktop
from picosnitch_exporter.checks import launcher as launcher_module
from picosnitch_exporter.checks.client import Client
from picosnitch_exporter.checks.events import EventKind, Message, Notice, Severity
from picosnitch_exporter.checks.launcher import RESTART_SECONDS, Launcher, only_user
from picosnitch_exporter.checks.notifier import DesktopChannel, Notifier, encode
from picosnitch_exporter.checks.syslog import Syslog
from picosnitch_exporter.checks.webhook import Webhook
from picosnitch_exporter.model import (
    HOST,
    Executable,
    KnownExecutable,
    KnownVerdict,
    Sha256,
    Verdict,
    VirusTotalResult,
)
from picosnitch_exporter.settings import LoggingSettings, NotificationSettings
from picosnitch_exporter.state.health import Health
from tests.clock import Clock
from tests.session_bus import Logind, NotificationServer, Session, Shown, session_bus
from tests.webhook_receiver import Receiver

USER = pwd.getpwnam("nobody").pw_uid
"""Who has the desktop: dbus-daemon refuses those whom the system does not know."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def known(exe: str, *, content: int = 1) -> KnownExecutable:
    return KnownExecutable(
        executable=Executable(sha256=Sha256(f"{content:064x}"), exe=exe),
        workload=HOST,
        name=exe.rpartition("/")[2],
        parent=Executable(sha256=Sha256("c" * 64), exe="/bin/sh"),
        size_bytes=1,
        first_seen_seconds=1_700_000_000.0,
        last_seen_seconds=1_700_000_000.0,
    )


def notice(exe: str = "/usr/bin/new") -> Notice:
    return Notice(
        kind=EventKind.NEW_EXECUTABLE,
        time_seconds=1_700_000_000.0,
        executable=known(exe).executable,
        name="new",
    )


def results(health: Health, channel: str) -> dict[str, int]:
    return {
        reading.labels[1]: int(reading.value)
        for family in health.collect()
        if family.metric is catalog.NOTIFICATIONS
        for reading in family.readings
        if reading.labels[0] == channel
    }


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not is_true():
        assert time.monotonic() < deadline, "not in time"
        threading.Event().wait(0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can pass."""
    path = Path(tempfile.mkdtemp(prefix="picosnitch-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def shower(address: str) -> Iterator[socket.socket]:
    """The process of the user, as whoever runs the tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-m", "picosnitch_exporter.checks.desktop", "show", address]
    with subprocess.Popen(command, stdin=theirs.fileno()) as process:
        theirs.close()
        with ours:
            yield ours
        assert process.wait(10) == 0


def test_message_is_shown_when_there_is_a_notification_server(folder: Path) -> None:
    health = Health()
    with session_bus(folder) as address:
        server = NotificationServer(address, capabilities=["body", "body-markup"])
        with shower(address) as sock:
            DesktopChannel(sock, health=health).tell([notice("/opt/<a href='x'>\n\x1b[1mhi&")])
            (shown,) = server.wait_for(1)
        server.close()
    body = "new (/opt/&lt;a href='x'&gt;  [1mhi&amp;)"
    expected = Shown(app_name="picosnitch", title="New on the network", body=body, urgency=0)
    assert shown == expected
    assert results(health, "desktop") == {"sent": 1}


def test_text_is_not_escaped_when_the_server_has_no_markup(folder: Path) -> None:
    message = Message(severity=Severity.ALERT, title="t", body="a&b")
    with session_bus(folder) as address:
        server = NotificationServer(address)
        with shower(address) as sock:
            sock.send(encode(message))
            (shown,) = server.wait_for(1)
        server.close()
    assert (shown.body, shown.urgency) == ("a&b", 2)


def test_later_message_is_shown_when_the_server_comes_later(folder: Path) -> None:
    message = encode(Message(severity=Severity.WARNING, title="t", body="b"))
    with session_bus(folder) as address, shower(address) as sock:
        sock.send(message)
        server = NotificationServer(address)

        def is_shown() -> bool:
            sock.send(message)
            return bool(server.shown)

        wait_until(is_shown)
        server.close()


def test_process_ends_when_the_session_ends(folder: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done: list[int] = []
    with session_bus(folder) as address:
        server = NotificationServer(address)
        thread = threading.Thread(target=lambda: done.append(desktop.show(theirs, address)))
        thread.start()
        ours.send(encode(Message(severity=Severity.NOTICE, title="t", body="b")))
        server.wait_for(1)
        server.close()
    thread.join(10)
    ours.close()
    theirs.close()
    assert done == [1]


@pytest.mark.parametrize(
    ("expected", "sessions"),
    [
        (None, []),
        (None, [Session(uid=1000, is_active=False)]),
        (None, [Session(uid=1000, role="greeter")]),
        (None, [Session(uid=1000, kind="tty", seat="")]),
        (1000, [Session(uid=1000, kind="tty")]),
        (1001, [Session(uid=1000, kind="tty"), Session(uid=1001, kind="x11")]),
    ],
)
def test_user_is_the_one_with_the_active_session_when_logind_says_so(
    folder: Path, expected: int | None, sessions: list[Session]
) -> None:
    with session_bus(folder) as address:
        logind = Logind(address, sessions)
        assert expected == desktop.find(address)
        logind.close()


def test_nobody_is_found_when_there_is_no_logind(folder: Path) -> None:
    with session_bus(folder) as address, pytest.raises(desktop.CallError):
        desktop.find(address)


@contextmanager
def launched(
    runtime: Path, find: Callable[[], int | None]
) -> Iterator[tuple[socket.socket, Launcher]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = Launcher(theirs, runtime=runtime, find=find)
    thread = threading.Thread(target=launcher.run)
    thread.start()
    try:
        yield ours, launcher
    finally:
        ours.close()
        thread.join(10)
        theirs.close()
        assert not thread.is_alive()


def can_run_python(uid: int) -> bool:
    command = [sys.executable, "-I", "-c", "import picosnitch_exporter, jeepney"]
    try:
        return not subprocess.run(
            command, user=uid, group=uid, extra_groups=[], check=False, cwd="/"
        ).returncode
    except PermissionError:
        return False


@needs_root
def test_process_belongs_to_the_user_when_the_launcher_starts_it(folder: Path) -> None:
    if not can_run_python(USER):
        pytest.skip("the interpreter is in a folder that other users can't pass")
    home = folder / str(USER)
    home.mkdir()
    with session_bus(home) as address:
        server = NotificationServer(address)
        os.chown(home, USER, USER)
        with launched(folder, lambda: USER) as (sock, launcher):
            sock.send(encode(Message(severity=Severity.NOTICE, title="t", body="b")))
            server.wait_for(1)
            assert launcher._shower is not None
            status = Path(f"/proc/{launcher._shower.process.pid}/status").read_text()
            pid = launcher._shower.process.pid
        server.close()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(USER)] * 4
    assert fields["Gid"].split() == [str(pwd.getpwuid(USER).pw_gid)] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0
    assert not Path(f"/proc/{pid}").exists()


@needs_root
def test_launcher_goes_on_when_the_user_can_not_run_the_interpreter(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / str(USER)).mkdir()
    os.chown(folder / str(USER), USER, USER)
    locked = folder / "locked"
    locked.mkdir(mode=0o700)
    (locked / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(locked / "python"))
    clock = Clock()
    incoming, outgoing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with incoming, outgoing:
        launcher = Launcher(incoming, uid=USER, runtime=folder, clock=clock)
        for _ in range(5):
            launcher._hand_on(USER, b"{}")
            clock.now += RESTART_SECONDS
        assert caplog.text.count("desktop_not_started") == 1
        locked.chmod(0o755)
        launcher._hand_on(USER, b"{}")
        assert launcher._shower is not None
        launcher._end()


TRACED = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER: anybody, where there is Yama
if os.fork():
    time.sleep(60)
libc.ptrace(0x4206, os.getppid(), None, None)  # PTRACE_SEIZE
open(sys.argv[1], "w").close()
while os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""
"""A program that is traced by its child, for as long as there is a file."""


@contextmanager
def traced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Has the launcher start such a program; its file."""
    writable = folder / "writable"
    writable.mkdir()
    writable.chmod(0o777)
    path = writable / "traced"
    monkeypatch.setattr(
        launcher_module, "_command", lambda *_: (sys.executable, "-I", "-c", TRACED, str(path))
    )
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def is_over(thread: threading.Thread, path: Path) -> bool:
    """Whether it ends while the program is traced; afterwards it does in any case."""
    thread.join(10)
    is_alive = thread.is_alive()
    path.unlink()
    thread.join(10)
    return not is_alive


@needs_root
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_launcher_goes_on_when_the_user_traces_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / str(USER)).mkdir()
    os.chown(folder / str(USER), USER, USER)
    incoming, outgoing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = Launcher(incoming, uid=USER, runtime=folder)
    with incoming, traced(folder, monkeypatch) as path:
        thread = threading.Thread(target=launcher.run)
        thread.start()
        with outgoing:
            outgoing.send(b"{}")
            wait_until(path.exists)
        assert is_over(thread, path)


@needs_root
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_nobody_is_found_when_somebody_traces_the_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "FIND_SECONDS", 3.0)
    found: list[int | None] = []
    with traced(folder, monkeypatch) as path:
        thread = threading.Thread(target=lambda: found.append(launcher_module.find_user()))
        thread.start()
        wait_until(path.exists)
        assert is_over(thread, path)
    assert found == [None]


def test_message_is_dropped_when_nobody_has_a_session(folder: Path) -> None:
    asked: list[int] = []

    def find() -> int | None:
        asked.append(1)
        return None

    with launched(folder, find) as (sock, launcher):
        for _ in range(3):
            sock.send(b"{}")
        wait_until(lambda: bool(asked))
        assert launcher._shower is None
    # The answer is kept for some seconds.
    assert asked == [1]


def test_only_user_is_taken_when_there_is_one_folder(folder: Path) -> None:
    assert only_user(folder) is None
    assert only_user(folder / "gone") is None
    (folder / "77").mkdir()
    (folder / "notes").mkdir()
    if os.geteuid() == 0:
        assert only_user(folder) is None
        os.chown(folder / "77", 77, 77)
        assert only_user(folder) == 77
        (folder / "78").mkdir()
        os.chown(folder / "78", 78, 78)
        assert only_user(folder) is None


@needs_root
def test_launcher_keeps_few_capabilities_when_it_is_forked(folder: Path) -> None:
    before = _children()
    sock = desk.start(NotificationSettings(user="root"), LoggingSettings(), runtime=folder)
    assert sock is not None
    (pid,) = _children() - before

    def capabilities() -> int:
        fields = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert fields["NoNewPrivs"] in {"0", "1"}
        return int(fields["CapPrm"], 16) | int(fields["CapBnd"], 16)

    wait_until(lambda: capabilities() == 0b1110_0000)
    sock.close()
    assert os.waitpid(pid, 0)[1] == 0


def _children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


def test_nothing_is_forked_when_it_is_of_no_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.start(NotificationSettings(desktop=False), LoggingSettings()) is None
    monkeypatch.setattr(desk, "_SEATS", folder / "none")
    assert desk.start(NotificationSettings(), LoggingSettings(), runtime=folder / "none") is None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@contextmanager
def posting(url: str, health: Health) -> Iterator[Webhook]:
    failures: list[BaseException] = []
    webhook = Webhook(
        url,
        client=Client(socket_seconds=2),
        health=health,
        failed=failures.append,
        first_retry_seconds=0.01,
    )
    webhook.start()
    yield webhook
    webhook.close()
    assert not failures


def test_events_are_posted_when_a_receiver_comes_back(receiver: Receiver) -> None:
    health = Health()
    receiver.statuses = [503, 429]
    with posting(receiver.url, health) as webhook:
        webhook.tell([notice()])
        wait_until(lambda: results(health, "webhook") == {"sent": 1})
    (document,) = receiver.documents
    assert document["source"] == "picosnitch-exporter"
    assert document["events"] == [
        {
            "event": "new_executable",
            "severity": "notice",
            "time": "2023-11-14T22:13:20Z",
            "message": "New on the network: /usr/bin/new",
            "exe": "/usr/bin/new",
            "sha256": f"{1:064x}",
            "name": "new",
        }
    ]


@pytest.mark.parametrize("status", [302, 400, 404])
def test_events_are_given_up_when_the_receiver_refuses_them(
    receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health()
    receiver.statuses = [status]
    with posting(receiver.url, health) as webhook:
        webhook.tell([notice()])
        wait_until(lambda: results(health, "webhook") == {"failed": 1})
    assert f"HTTP status {status}" in caplog.text
    assert "s3cret" not in caplog.text


def sent(receiver: Receiver) -> list[str]:
    """The paths of the events that have arrived, in their order."""
    return [
        event["exe"]
        for document in receiver.documents
        for event in cast("list[dict[str, str]]", document["events"])
    ]


@pytest.mark.parametrize("max_bytes", [1_000_000, 60_000])
def test_all_events_arrive_when_strangers_choose_long_names(
    receiver: Receiver, max_bytes: int
) -> None:
    health = Health()
    receiver.max_bytes = max_bytes
    names = [os.fsdecode(b"/%d/" % number + b"\xff" * 4000) for number in range(100)]
    with posting(receiver.url, health) as webhook:
        webhook.tell([notice(name) for name in names])
        wait_until(lambda: results(health, "webhook") == {"sent": 100})
    assert sent(receiver) == [catalog.label_value(name) for name in names]


def test_only_what_is_too_long_is_given_up_when_the_receiver_has_a_limit(
    receiver: Receiver,
) -> None:
    health = Health()
    receiver.max_bytes = 3000
    names = [f"/{number}" for number in range(8)]
    with posting(receiver.url, health) as webhook:
        webhook.tell([notice(name) for name in (*names[:4], "/" * 4000, *names[4:])])
        wait_until(lambda: results(health, "webhook") == {"sent": 8, "failed": 1})
    assert sent(receiver) == names


def test_alert_is_posted_first_when_others_have_filled_the_queue(receiver: Receiver) -> None:
    health = Health()
    failures: list[BaseException] = []
    client = Client(socket_seconds=2)
    webhook = Webhook(receiver.url, client=client, health=health, failed=failures.append)
    webhook.tell([notice()] * 1100)
    alert = replace(notice("/bad"), kind=EventKind.VERDICT, verdict=Verdict.MALICIOUS, malicious=1)
    webhook.tell([alert])
    webhook.start()
    wait_until(lambda: results(health, "webhook") == {"dropped": 100, "sent": 1001})
    webhook.close()
    assert sent(receiver)[0] == "/bad"
    assert not failures


def test_events_are_counted_when_nobody_takes_them() -> None:
    health = Health()
    with posting("http://127.0.0.1:1/", health) as webhook:
        webhook.tell([notice()] * 1100)
    dropped = results(health, "webhook")["dropped"]
    assert 100 <= dropped <= 1100


def bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(5)
    return sock


def test_entry_has_fields_when_there_is_a_journal(folder: Path) -> None:
    health = Health()
    with bound(folder / "journal") as journal:
        channel = Syslog(health=health, journal=folder / "journal", syslog=folder / "log")
        channel.tell([notice()])
        entry = journal.recv(65536).decode()
    fields = dict(line.split("=", 1) for line in entry.splitlines())
    assert fields["MESSAGE"] == "New on the network: /usr/bin/new"
    assert fields["PRIORITY"] == "5"
    assert fields["SYSLOG_IDENTIFIER"] == "picosnitch-exporter"
    assert fields["PICOSNITCH_EVENT"] == "new_executable"
    assert fields["PICOSNITCH_EXE"] == "/usr/bin/new"
    assert results(health, "syslog") == {"sent": 1}


def test_line_has_fields_when_there_is_only_syslog(folder: Path) -> None:
    health = Health()
    with bound(folder / "log") as syslog:
        channel = Syslog(health=health, journal=folder / "journal", syslog=folder / "log")
        channel.tell([notice('/opt/"a]\n\\')])
        line = syslog.recv(65536).decode()
    assert line.startswith("<85>1 2023-11-14T22:13:20.000+00:00 ")
    assert r'[picosnitch@32473 exe="/opt/\"a\] \\" sha256="' in line
    assert line.endswith('] New on the network: new (/opt/"a] \\)')


def test_event_is_counted_when_there_is_neither(folder: Path) -> None:
    health = Health()
    Syslog(health=health, journal=folder / "a", syslog=folder / "b").tell([notice()])
    assert results(health, "syslog") == {"failed": 1}


class Ear:
    """A channel that records."""

    def __init__(self) -> None:
        self.heard: list[tuple[Notice, ...]] = []

    def tell(self, notices: object) -> None:
        assert isinstance(notices, tuple)
        self.heard.append(notices)


def test_all_events_are_told_when_they_happen() -> None:
    ear, health = Ear(), Health()
    notifier = Notifier([ear], known=[known("/bin/old")], health=health, now=0.0)
    notifier.tick(health.collect, now=0.0, time_seconds=1.0)
    notifier.discovered([known("/bin/old", content=2), known("/bin/new")])
    notifier.discovered([known("[kernel]")])
    bad = VirusTotalResult(verdict=Verdict.MALICIOUS, malicious=2, checked_seconds=1.0)
    good = VirusTotalResult(verdict=Verdict.CLEAN)
    for result in (bad, good, bad):
        notifier.judged(KnownVerdict(sha256=Sha256("1" * 64), exe="/bin/x", result=result), now=6.0)
    health.count(catalog.LOG_ERRORS, ("sqlite", "full"))
    health.count(catalog.LOG_ERRORS, ("text", "locked"))
    health.count(catalog.EVENTS_LOST, ("final_record", "ring_and_fallback_full"), 7)
    notifier.tick(health.collect, now=6.0, time_seconds=1.0)
    notifier.tick(health.collect, now=9.0, time_seconds=1.0)
    texts = {each.kind: each.text for group in ear.heard for each in group}
    assert texts == {
        EventKind.NEW_HASH: "New content of a known program: /bin/old",
        EventKind.NEW_EXECUTABLE: "New on the network: /bin/new",
        EventKind.VERDICT: "VirusTotal warns: /bin/x: malicious (2 engines)",
        EventKind.LOG_FAILED: "The log can't be written: sqlite: full; see error.log",
        EventKind.RECORDS_LOST: "Records were lost: final_record: 7 (ring and fallback full)",
    }
    assert results(health, "all") == {"suppressed": 1}


def test_one_summary_is_told_when_it_is_the_first_start() -> None:
    ear, health = Ear(), Health()
    notifier = Notifier([ear], known=[], health=health, now=0.0)
    notifier.discovered([known(f"/bin/{number}") for number in range(300)])
    for now in (1.0, 30.0, 59.0):
        notifier.tick(health.collect, now=now, time_seconds=1.0)
    assert ear.heard == []
    notifier.tick(health.collect, now=61.0, time_seconds=1.0)
    ((summary,),) = ear.heard
    assert summary.kind is EventKind.FIRST_START
    assert summary.detail.startswith("300 executables")
    notifier.discovered([known("/bin/later")])
    notifier.tick(health.collect, now=62.0, time_seconds=1.0)
    notifier.tick(health.collect, now=65.0, time_seconds=1.0)
    assert [each.subject for each in ear.heard[1]] == ["/bin/later"]
