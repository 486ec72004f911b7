"""Composition root of `run`: two processes, one stream between them.

This process becomes the sensor, which has the privileges; its child becomes the exporter, which
gives them up before it reads anything that others wrote. The child is forked, not executed anew, so
that the two share the memory of what both need; what only one of them needs is imported after that,
and the small processes are forked before (docs/overhead.md says what that is worth).
"""

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from picosnitch_exporter import logging_format, memory, privileges
from picosnitch_exporter.checks import desk
from picosnitch_exporter.errors import (
    PeerGoneError,
    PicosnitchError,
    RequirementError,
    StorageError,
)
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import requirements
from picosnitch_exporter.sensor.fanotify import Fanotify
from picosnitch_exporter.sensor.marker import Marker
from picosnitch_exporter.settings import Settings

_log = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CHILD_SECONDS = 4.0
_PREDECESSOR_SECONDS = 6.0


def start(settings: Settings, notices: Sequence[str]) -> int:
    """Says what there is to say of the settings, and runs; the exit code of the command.

    Raises
    ------
    PicosnitchError
        as `run`.
    """
    logging_format.configure(settings.logging, process="exporter")
    for notice in notices:
        _log.warning(Event("configuration_notice", {"notice": notice}))
    try:
        return run(settings)
    except BrokenPipeError as error:
        # Not standard output: nothing is written there.
        raise PeerGoneError(
            "a process of the exporter has ended: see the messages above"
        ) from error


def run(settings: Settings) -> int:
    """Runs until a signal or a failure; the exit code of the command.

    Raises
    ------
    PicosnitchError
        if it can't start, or one of the processes has failed.
    """
    memory.hold_little()
    requirements.require_capabilities()
    requirements.require_host_processes()
    raise_file_limit(settings.identity.rlimit_nofile)
    account = privileges.find_account(settings.storage.user)
    readers = privileges.find_group(settings.storage.group)
    prepare_storage(settings.storage.path, account, readers=readers)
    logging_format.configure(settings.logging, process="sensor")
    gc.collect()
    gc.freeze()  # what they share then stays shared: the collector writes to what it visits
    # The small ones first, as each is a copy of all that there is by then.
    desktop = desk.start(settings.notifications, settings.logging)
    marker = Marker(Fanotify())
    # What the other two both need.
    from picosnitch_exporter.stream import Channel

    gc.freeze()
    sensor_end, exporter_end = Channel.pair()
    with _stop_signals() as stop_signals:
        child = os.fork()
        if child == 0:
            sensor_end.close()
            marker.disown()
            _become_exporter(settings, account, exporter_end, desktop)
        exporter_end.close()
        if desktop is not None:
            desktop.close()
        return _run_sensor(
            settings, sensor_end, marker=marker, stop_signals=stop_signals, child=child
        )


def detach(settings: Settings) -> int:
    """Removes everything from the kernel that an earlier run has left counting."""
    from picosnitch_exporter.sensor import loader

    pins = settings.bpf.pin_path
    removed = loader.detach(pins)
    print(f"removed {pins}" if removed else f"nothing to remove: there is no {pins}")  # noqa: T201
    return 0


def become_account(settings: Settings) -> None:
    """Gives up root for the account of the exporter process, whose storage is made first.

    Raises
    ------
    PicosnitchError
        if the account does not exist, or the storage path can't be used.
    """
    account = privileges.find_account(settings.storage.user)
    readers = privileges.find_group(settings.storage.group)
    prepare_storage(settings.storage.path, account, readers=readers)
    privileges.drop(account)


def raise_file_limit(limit: int | None) -> None:
    """Lets both processes have as many open files as they may, or as `limit` says.

    Raises
    ------
    RequirementError
        if the limit can't be set.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limit if limit is not None else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (OSError, ValueError) as error:
        raise RequirementError(
            f"identity.rlimit_nofile: {wanted} open files can't be had (now {soft}): "
            "choose a smaller number, or raise fs.nr_open"
        ) from error


def prepare_storage(path: Path, account: privileges.Account, *, readers: int | None = None) -> None:
    """Makes the storage folder, for the exporter's account alone; no symlink is followed.

    The group `readers` may enter it, but not list it: only the socket for `top` opens to them.

    Raises
    ------
    StorageError
        if it is not a folder, belongs to somebody else, or can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError(
            f"storage path {path} can't be used: {error.strerror} (--storage.path)"
        ) from error
    try:
        status = os.fstat(folder)
        if status.st_uid not in {0, account.uid}:
            raise StorageError(
                f"storage path {path} belongs to uid {status.st_uid}, not to {account.name}: "
                f"chown -R {account.name} {path}, or set storage.user"
            )
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise StorageError(
                f"storage path {path} is on a read-only filesystem: choose another --storage.path"
            )
        mode = 0o700 if readers is None else 0o710
        if (stat.S_IMODE(status.st_mode) ^ mode) & 0o077:
            # Only an owner may do that without CAP_FOWNER, which nothing else asks for.
            os.fchown(folder, 0, -1)
            os.fchmod(folder, mode)
        os.fchown(folder, account.uid, account.gid if readers is None else readers)
    except OSError as error:
        raise StorageError(
            f"storage path {path} can't be used: {error.strerror} (--storage.path)"
        ) from error
    finally:
        os.close(folder)


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor from which the numbers of SIGTERM and SIGINT can be read."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = {number: signal.signal(number, _note_signal) for number in _STOP_SIGNALS}
    signal.set_wakeup_fd(writing)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _note_signal(number: int, _frame: object) -> None:
    """The number goes through the wake-up descriptor; without a handler it would not."""


def _become_exporter(
    settings: Settings,
    account: privileges.Account,
    exporter_end: socket.socket,
    desktop: socket.socket | None,
) -> None:
    """The child's part; never returns."""
    code = 1
    try:
        # Both get the terminal's Ctrl-C and systemd's SIGTERM: the exporter ends after the sensor
        # has handed over the last records.
        signal.set_wakeup_fd(-1)
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # Where this process may write, see service.confines. SQLite looks when it is imported.
        os.environ["TMPDIR"] = str(settings.storage.path)
        # Imported here: the sensor needs none of it.
        from picosnitch_exporter.log import journal
        from picosnitch_exporter.outputs import listen
        from picosnitch_exporter.service import late, process

        # Where only its sensor was killed, the exporter process before this one is writing its last
        # commit at this moment, and still has its addresses.
        folder = settings.storage.path / process.JOURNAL_FOLDER
        journal.await_release(folder, timeout_seconds=_PREDECESSOR_SECONDS)
        listening = listen.bind(settings.web.listen_addresses)
        logging_format.configure(settings.logging, process="exporter")
        late.import_out_of_reach(account)
        privileges.drop(account)
        code = process.run(settings, exporter_end, listening, desktop)
    except PicosnitchError as error:
        print(f"picosnitch-exporter: {error}", file=sys.stderr)  # noqa: T201
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
        _log.exception(Event("exporter_failed"))
    finally:
        logging.shutdown()
        os._exit(code)


def _run_sensor(
    settings: Settings,
    sensor_end: socket.socket,
    *,
    marker: Marker,
    stop_signals: int,
    child: int,
) -> int:
    try:
        # Imported here: the other processes need none of it.
        from picosnitch_exporter.sensor.loader import Loader
        from picosnitch_exporter.sensor.process import Sensor

        sensor = Sensor(
            settings,
            sensor_end,
            loader=Loader(settings.bpf, every_exe=settings.identity.every_exe),
            marker=marker,
            stop_signals=stop_signals,
        )
    except BaseException:
        sensor_end.close()
        _await_child(child)
        raise
    try:
        sensor.run()
    except PeerGoneError as error:
        # A stop before the start was over: the exporter waits for what will not come.
        sensor_end.close()
        code = _await_child(child)
        if not sensor.is_ready:
            sensor.remove()
        if _was_signalled(stop_signals):
            return 0
        if code:
            # It has said why itself. What is in the kernel stays there, pinned, for the next start.
            return code
        raise PeerGoneError(str(error)) from error
    finally:
        sensor_end.close()
    return _await_child(child)


def _was_signalled(stop_signals: int) -> bool:
    readable, _w, _x = select.select([stop_signals], [], [], 0)
    return bool(readable)


def _await_child(child: int) -> int:
    """The exit code of the exporter process, which is killed if it does not end in time."""
    deadline = time.monotonic() + _CHILD_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                _log.error(Event("exporter_killed", {"signal": signal.Signals(-code).name}))
                return 1
            return code
        time.sleep(0.01)
    _log.error(Event("exporter_stuck", {"killed_after_seconds": _CHILD_SECONDS}))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1
