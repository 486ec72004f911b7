"""The process that marks filesystems for fanotify once the sensor itself may no longer.

Filesystems are mounted all the time, each container has its own, and the kernel takes such a mark
only from CAP_SYS_ADMIN (fanotify_mark(2)), which is all but root. So a small process, `marking`,
keeps it, and does nothing else: it gets paths, marks what they are on, and answers with one byte.
It ends with the sensor.
"""

import os
import socket
from pathlib import Path
from typing import Final

from picosnitch_exporter import confinement, offshoot, privileges
from picosnitch_exporter.errors import KernelError
from picosnitch_exporter.sensor.fanotify import Fanotify

MAX_PATH_BYTES: Final = 8192
"""A path of the kernel's longest, below the root of a process."""
_DONE = b"\1"
_NO_FILTER = b"\0"
_SCRIPT = Path(__file__).with_name("marking.py")
_KEPT_CAPABILITIES = (
    privileges.CAP_SYS_ADMIN,  # fanotify_mark() of a whole filesystem
    privileges.CAP_SYS_PTRACE,  # /proc/PID/root, for the mounts of other namespaces
    privileges.CAP_DAC_READ_SEARCH,  # mount points in folders that are closed to others
)


class Marker:
    """The sensor's end, and the group of marks that it shares with the process.

    To be made while it has all capabilities, before there are threads.
    """

    def __init__(self, fanotify: Fanotify) -> None:
        self.fanotify = fanotify
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = (theirs.fileno(), fanotify.descriptor)
        self.pid = offshoot.start(
            _SCRIPT,
            tuple(map(str, descriptors)),
            descriptors=descriptors,
            capabilities=_KEPT_CAPABILITIES,
        )
        theirs.close()
        try:
            refused = confinement.filter_of(confinement.SENSOR)
        except confinement.UnconfinedError:  # the sensor says so
            refused = _NO_FILTER
        self._socket.send(refused)

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

    def disown(self) -> None:
        """For a process that was forked since: none of this is its own."""
        self._socket.close()
        self.fanotify.close()

    def close(self) -> None:
        """Ends the process."""
        self._socket.close()
        os.waitpid(self.pid, 0)
