"""The other end of `service.live`: asks the running exporter, and never waits for the answer."""

import contextlib
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Final, cast

from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.service.live import SOCKET_NAME

Answer = dict[str, object]

_MAX_ANSWER_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 16


class LiveClient:
    """One connection to the exporter of a storage path.

    Raises
    ------
    PicosnitchError
        from the constructor, if none runs there, or one may not ask it: says what to do.
    """

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._socket = _connect(storage)
        self._buffer = bytearray()
        self.is_waiting = False
        """An answer has not come yet."""

    def fileno(self) -> int:
        """For select: readable when there is something for `take`."""
        return self._socket.fileno()

    def ask(self, request: Answer) -> None:
        """Sends a request; to be called with no other one waiting."""
        line = json.dumps(request).encode("ascii") + b"\n"
        try:
            self._socket.sendall(line)
        except OSError:
            self._connect_again()
            self._socket.sendall(line)
        self.is_waiting = True

    def take(self) -> Answer | None:
        """The answer, once it is complete.

        Raises
        ------
        PicosnitchError
            if the exporter has stopped, or refuses: with its words.
        """
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone() from error
        if not data and not self.is_waiting:
            # It keeps nobody who has been silent for long, as one that was stopped by Ctrl-Z.
            self._connect_again()
            return None
        self._buffer += data
        if not data or len(self._buffer) > _MAX_ANSWER_BYTES:
            raise self._gone()
        if not data.endswith(b"\n"):
            return None
        self.is_waiting = False
        try:
            answer = json.loads(self._buffer)
        except ValueError as error:
            raise self._gone() from error
        self._buffer.clear()
        if not isinstance(answer, dict) or "error" in answer:
            reason = answer.get("error") if isinstance(answer, dict) else "it speaks otherwise"
            raise PicosnitchError(f"the exporter at {self._storage} does not answer: {reason}")
        return cast("Answer", answer)

    def wait(self, timeout_seconds: float) -> Answer | None:
        """The answer, or None once the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            readable, _w, _x = select.select([self], [], [], left)
            if readable and (answer := self.take()) is not None:
                return answer
        return None

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _connect_again(self) -> None:
        self.close()
        try:
            self._socket = _connect(self._storage)
        except PicosnitchError as error:
            raise self._gone() from error

    def _gone(self) -> PicosnitchError:
        return PicosnitchError(
            f"the exporter at {self._storage} has stopped: start it, and ask again"
        )


def _connect(storage: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(storage, os.O_PATH | os.O_DIRECTORY)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        finally:
            os.close(folder)
        connection.settimeout(0)
    except PermissionError as error:
        connection.close()
        raise PicosnitchError(
            f"only root and the members of storage.group may look into {storage}: "
            "sudo picosnitch-exporter top"
        ) from error
    except OSError as error:
        connection.close()
        raise PicosnitchError(
            f"no exporter runs with the storage path {storage}: start it (systemctl start "
            "picosnitch-exporter, or sudo picosnitch-exporter run), or name its --storage.path"
        ) from error
    return connection
