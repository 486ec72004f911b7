"""Traffic that goes on whatever happens to the exporter, and what it has moved in the end.

Long connections and datagrams without end, short connections one after the other by a program that
is executed again and again, and programs that nobody has seen before.
"""

import itertools
import threading
from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from tests.kernel.generator import Generator, Outcome, Program, Running, Value
from tests.kernel.scrape import Account, Key

LONG_CONNECTIONS = 10
LONG_BYTES = 700
"""On each of them in each second."""
SHORT_CONNECTIONS = 20
SHORT_BYTES = 333
FRESH_BYTES = 4321
_PAUSE_SECONDS = 0.02
_TCP, _UDP = ("tcp", "loopback"), ("udp", "loopback")


class SteadyTraffic:
    """Runs from `with` until `finish`; what was moved is exact then."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._stack = ExitStack()
        self._accounts: dict[str, dict[str, Counter[Key]]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._keep_connecting)
        self._running: list[tuple[Program, Running, Key, Key]] = []
        self._fresh: list[tuple[Program, Running]] = []
        self._numbers = itertools.count()
        self._short_server = generator.copy("short-server")
        self._short_client = generator.copy("short-client")
        self._short_port = 0
        self._sink_port = 0

    def __enter__(self) -> Self:
        self._begin_connections()
        self._begin_datagrams()
        listener = self._start(self._short_server, "churn-server", count=0)
        self._short_port = listener.ready().port
        self._running.append((self._short_server, listener, _TCP, (*_TCP, "inbound")))
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._stack.__exit__(exception_type, exception, traceback)

    @property
    def short_lived(self) -> str:
        """The hash of what is executed again and again."""
        return self._short_client.sha256

    def add_fresh(self) -> None:
        """Runs an executable that is new; it stays until `end_fresh`."""
        program = self._generator.copy("fresh")
        # From an address of its own: a port that another has had would be the same peer to the
        # sink, and a new one to the exporter once that flow has expired.
        address = IPv4Address("127.1.0.1") + next(self._numbers)
        running = program.start(
            "udp-client",
            bind=str(address),
            port=self._sink_port,
            bytes=FRESH_BYTES,
            size=FRESH_BYTES,
            hold=1,
        )
        self._fresh.append((program, running))
        self._note(program, running.done(), _UDP, {(*_UDP, "outbound"): 1})

    def end_fresh(self) -> None:
        """Ends those that were begun so far."""
        for _program, running in self._fresh:
            running.close()
            running.kill()
        self._fresh.clear()

    def finish(self) -> dict[str, Account]:
        """Ends everything; by hash, all that was moved."""
        self._ending.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.end_fresh()
        for program, running, moved, connected in self._running:
            running.close()
            outcome = running.done()
            notes = outcome.notes
            count = notes.get("connected") or notes.get("accepted") or len(outcome.peers)
            self._note(program, outcome, moved, {connected: count})
        return {
            sha256: Account(**{name: dict(column) for name, column in columns.items()})
            for sha256, columns in self._accounts.items()
        }

    def _begin_connections(self) -> None:
        server, client = self._generator.copy("long-server"), self._generator.copy("long-client")
        listener = self._start(server, "many-server", count=LONG_CONNECTIONS)
        connector = self._start(
            client,
            "many-client",
            port=listener.ready().port,
            count=LONG_CONNECTIONS,
            size=LONG_BYTES,
            busy=1,
        )
        connector.ready()
        # The client first: the server ends with its connections.
        self._running.append((client, connector, _TCP, (*_TCP, "outbound")))
        self._running.append((server, listener, _TCP, (*_TCP, "inbound")))

    def _begin_datagrams(self) -> None:
        sink, source = self._generator.copy("udp-sink"), self._generator.copy("udp-source")
        receiver = self._start(sink, "udp-server", room=4 << 20, receive_via="recvfrom")
        self._sink_port = receiver.ready().port
        sender = self._start(
            source, "many-client", proto="udp", port=self._sink_port, count=5, size=77, busy=1
        )
        sender.ready()
        self._running.insert(0, (source, sender, _UDP, (*_UDP, "outbound")))
        self._running.append((sink, receiver, _UDP, (*_UDP, "inbound")))

    def _start(self, program: Program, scenario: str, **options: Value) -> Running:
        return self._stack.enter_context(program.start(scenario, options))

    def _keep_connecting(self) -> None:
        try:
            while not self._ending.wait(_PAUSE_SECONDS):
                with self._short_client.start(
                    "churn-client",
                    port=self._short_port,
                    count=SHORT_CONNECTIONS,
                    bytes=SHORT_BYTES,
                ) as client:
                    outcome = client.done()
                connected = outcome.notes["connected"]
                self._note(self._short_client, outcome, _TCP, {(*_TCP, "outbound"): connected})
        except BaseException as error:  # noqa: BLE001 - told by finish()
            self._failure = error

    def _note(
        self, program: Program, outcome: Outcome, moved: Key, connections: dict[Key, int]
    ) -> None:
        with self._lock:
            account = self._accounts.setdefault(program.sha256, {})
            for name, value in (("transmit", outcome.sent), ("receive", outcome.received)):
                if value:
                    account.setdefault(name, Counter())[moved] += value
            account.setdefault("connections", Counter()).update(connections)
