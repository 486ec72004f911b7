"""The process that marks filesystems for fanotify once the sensor itself may no longer.

Filesystems are mounted all the time, each container has its own, and the kernel takes such a mark
only from CAP_SYS_ADMIN (fanotify_mark(2)), which is all but root. So this small process keeps it,
and does nothing else: it gets paths, marks what they are on, and answers with one byte. It is
forked, not started anew, and ends with the sensor.
"""

import contextlib
import os
import signal
import socket
from typing import Final, NoReturn

from picosnitch_exporter import confinement, privileges
from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.sensor.fanotify import Fanotify

MAX_PATH_BYTES: Final = 8192
"""A path of the kernel's longest, below the root of a process."""
_DONE, _REFUSED = b"\1", b"\0"
_KEPT_CAPABILITIES = (
    privileges.CAP_SYS_ADMIN,  # fanotify_mark() of a whole filesystem
    privileges.CAP_SYS_PTRACE,  # /proc/PID/root, for the mounts of other namespaces
    privileges.CAP_DAC_READ_SEARCH,  # mount points in folders that are closed to others
)
_FIRST_DESCRIPTOR = 3


class Marker:
    """The sensor's end. To be made while it has all capabilities, before there are threads."""

    def __init__(self, fanotify: Fanotify) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _become_marker(theirs, fanotify)
        theirs.close()

    def watch_filesystem(self, path: bytes) -> bool:
        """As `Fanotify.watch_filesystem`.

        Raises
        ------
        KernelError
            if the process has ended.
        """
        if len(path) > MAX_PATH_BYTES:
            return False
        try:
            self._socket.send(path)
            answer = self._socket.recv(1)
        except OSError as error:
            raise KernelError(f"the process that marks filesystems is gone: {error}") from error
        if not answer:
            raise KernelError("the process that marks filesystems has ended")
        return answer == _DONE

    def close(self) -> None:
        """Ends the process."""
        self._socket.close()
        os.waitpid(self.pid, 0)


def _become_marker(requests: socket.socket, fanotify: Fanotify) -> NoReturn:
    """The child's part."""
    try:
        # Ctrl-C and systemd's SIGTERM are for the sensor; this ends with it.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # The sensor's stream and the kernel's links end with the sensor, not with this.
        start = _FIRST_DESCRIPTOR
        for kept in sorted((requests.fileno(), fanotify.descriptor)):
            os.closerange(start, kept)
            start = kept + 1
        os.closerange(start, os.sysconf("SC_OPEN_MAX"))
        privileges.keep_only(*_KEPT_CAPABILITIES)
        with contextlib.suppress(confinement.UnconfinedError):  # the sensor says so
            confinement.refuse_calls(confinement.SENSOR)
        while path := requests.recv(MAX_PATH_BYTES):
            requests.send(_DONE if fanotify.watch_filesystem(path) else _REFUSED)
    finally:
        os._exit(0)
