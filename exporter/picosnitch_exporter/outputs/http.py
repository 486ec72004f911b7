"""The HTTP server: few connections, deadlines on everything, one thread each.

Every connection carries one request and is then closed. Prometheus scrapes less often than an
idle connection may stay (`connection.SOCKET_SECONDS`), so keeping it alive would save nothing and
leave the client to find it closed. Above `MAX_CONNECTIONS` the oldest is evicted: slow and idle
clients make room for new ones, not the other way round.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable

from picosnitch_exporter import catalog
from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.outputs.connection import REQUEST_SECONDS, SOCKET_SECONDS, Connection
from picosnitch_exporter.outputs.exchange import Exchange
from picosnitch_exporter.outputs.listen import EXHAUSTED, PASSING
from picosnitch_exporter.outputs.site import Site
from picosnitch_exporter.outputs.web_watch import WebConfig
from picosnitch_exporter.settings import WebSettings
from picosnitch_exporter.state.health import Health

MAX_CONNECTIONS = 64
_CLOSE_SECONDS = 2.0
_BACK_OFF_SECONDS = 0.1
_REPORT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class WebServer:
    """Serves the site on sockets that `listen.bind` made; takes them over and closes them.

    `readiness` says why the exporter is not ready, or None. `failed` is called, from the accepting
    thread, with what ended it: nothing is served from then on.

    Raises
    ------
    ConfigurationError
        from the constructor, if the web configuration file can't be used.
    """

    def __init__(  # noqa: PLR0913  (what it serves, from where, and how)
        self,
        *,
        sockets: Iterable[socket.socket],
        snapshot: Callable[[], Snapshot],
        health: Health,
        readiness: Callable[[], str | None],
        settings: WebSettings,
        failed: Callable[[BaseException], None],
        version: str,
        with_workload_labels: bool = False,
        socket_seconds: float = SOCKET_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._sockets = tuple(sockets)
        self._health = health
        self._failed = failed
        self._socket_seconds = socket_seconds
        self._request_seconds = request_seconds
        self._max_connections = max_connections
        self._exchange = Exchange(
            site=Site(
                snapshot=snapshot,
                health=health,
                readiness=readiness,
                telemetry_path=settings.telemetry_path,
                version=version,
                with_workload_labels=with_workload_labels,
            ),
            web_config=WebConfig(path=settings.config_file, health=health),
            health=health,
        )
        # The oldest first. Guarded by the condition, which is told when one ends.
        self._serving: dict[Connection, threading.Thread] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept_all, name="http", daemon=True)
        self._reported_at = -_REPORT_SECONDS

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: address and port, with the port that the kernel chose for 0."""
        return tuple(listener.getsockname()[:2] for listener in self._sockets)

    def start(self) -> None:
        """Accept connections from now on."""
        self._acceptor.start()

    def close(self) -> None:
        """Stop: new connections are refused, open ones ended; waits for their threads shortly."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        self._closing.set()
        self._wake_sender.send(b"\0")
        with self._changed:
            for connection in self._serving:
                connection.evict()
            threads = tuple(self._serving.values())
            self._changed.notify_all()
        if self._acceptor.ident is not None:
            self._acceptor.join(_CLOSE_SECONDS)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for one in (*self._sockets, self._wake_receiver, self._wake_sender):
            one.close()

    def _accept_all(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_receiver, selectors.EVENT_READ)
                for listener in self._sockets:
                    selector.register(listener, selectors.EVENT_READ, listener)
                while not self._closing.is_set():
                    for key, _events in selector.select():
                        if isinstance(key.data, socket.socket):
                            self._accept(key.data)
        except BaseException as error:  # noqa: BLE001  (handed on: it has to end the process)
            _log.exception("http_accept_failed")
            self._failed(error)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _address = listener.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._report("http_accept_exhausted error=%s", error)
                self._make_room(self._max_connections // 2)
                self._closing.wait(_BACK_OFF_SECONDS)
            elif error.errno not in PASSING:
                raise
            return
        if self._make_room(self._max_connections - 1):
            self._start(accepted)
        else:
            accepted.close()

    def _make_room(self, wanted: int) -> bool:
        """Evict the oldest until no more than `wanted` are left; False where it is closing."""
        with self._changed:
            while len(self._serving) > wanted and not self._closing.is_set():
                excess = len(self._serving) - wanted
                for connection in list(self._serving)[:excess]:
                    connection.evict()
                self._changed.wait(_BACK_OFF_SECONDS)
        return not self._closing.is_set()

    def _start(self, accepted: socket.socket) -> None:
        try:
            connection = Connection(
                accepted,
                socket_seconds=self._socket_seconds,
                request_seconds=self._request_seconds,
            )
        except OSError:  # reset before it was looked at
            accepted.close()
            return
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="http-connection", daemon=True
        )
        with self._changed:
            self._serving[connection] = thread
            self._health.set(catalog.HTTP_CONNECTIONS, (), len(self._serving))
        try:
            thread.start()
        except RuntimeError as error:  # no room for another thread
            self._report("http_thread_refused error=%s", error)
            self._end(connection, "evicted")

    def _end(self, connection: Connection, reason: str) -> None:
        # Before the close: who sees that finds it counted.
        if reason:
            self._health.count(catalog.HTTP_CONNECTIONS_DROPPED, (reason,))
        connection.close()
        with self._changed:
            del self._serving[connection]
            self._health.set(catalog.HTTP_CONNECTIONS, (), len(self._serving))
            self._changed.notify_all()

    def _serve(self, connection: Connection) -> None:
        reason = "reset"
        try:
            reason = self._exchange.serve(connection)
        finally:
            self._end(connection, "evicted" if connection.is_evicted else reason)

    def _report(self, message: str, error: Exception) -> None:
        """Log what clients can bring about, not more often than they could be read."""
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            _log.warning(message, error)
