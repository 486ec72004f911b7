"""Which name stands for which peer: from the answers that processes have received.

A name is kept for the process that asked and for its network namespace. The process is the owner of
the socket that the answer came to, which the socket's own flow records tell, sooner or later.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from picosnitch_exporter import catalog
from picosnitch_exporter.errors import WireError
from picosnitch_exporter.identity.addresses import DNS_PORT, address_text, scope_of
from picosnitch_exporter.log.answers import Answer, parse, reverse_text
from picosnitch_exporter.log.names import Holder, NameTable
from picosnitch_exporter.log.streams import Message, Streams
from picosnitch_exporter.model import AttributedFlow, ProcessKey, Scope
from picosnitch_exporter.state.cardinality import Counts
from picosnitch_exporter.wire import DnsFlag, DnsRecord, FlowRecord, LookupRecord

MAX_SOCKETS = 8_192
MAX_CONNECTIONS = 16_384
MAX_UNOWNED = 1_024
"""Answers on sockets whose owner is not known yet; in all, and on one of them:"""
MAX_UNOWNED_OF_SOCKET = 16
OWN_SECONDS = 3_600.0
"""A name is kept this long for who asked, whatever its TTL: programs have caches of their own."""
OTHERS_SECONDS = 600.0
"""And this long for the others in its network namespace."""
MAX_SECONDS = 86_400.0
BUDGET_SECONDS = 0.2
"""Of each second, for parsing: some 5,000 answers of the usual kind. What comes beyond is lost."""

_TCP = 6


@dataclass(frozen=True, slots=True)
class _Socket:
    owner: ProcessKey
    netns: int


class DomainTable:
    """Learns from DNS answers, and names the peers of connections.

    A connection keeps the name it was first seen with, though the name may expire: what its own
    process asked for, else the latest that anybody in its network namespace did. `to_unix` makes
    Unix seconds of CLOCK_BOOTTIME nanoseconds, `timer` measures what parsing takes. One thread.
    """

    def __init__(
        self,
        *,
        health: Counts,
        to_unix: Callable[[int], float],
        timer: Callable[[], float] = time.perf_counter,
        names: NameTable | None = None,
    ) -> None:
        self._health = health
        self._to_unix = to_unix
        self._timer = timer
        self._names = names or NameTable()
        self._streams = Streams()
        self._sockets: OrderedDict[int, _Socket] = OrderedDict()
        self._unowned: OrderedDict[int, list[tuple[Answer, float]]] = OrderedDict()
        self._unowned_answers = 0
        self._connections: OrderedDict[tuple[int, str], tuple[str, bool]] = OrderedDict()
        self._period_began = timer()
        self._spent_seconds = 0.0

    def learn(self, record: DnsRecord) -> None:
        """Takes in an answer, or a piece of one."""
        began = self._timer()
        if began - self._period_began >= 1.0:
            self._period_began = began
            self._spent_seconds = 0.0
        if self._spent_seconds >= BUDGET_SECONDS:
            self._lose("too_many")
            # Where the next segment starts is unknown now.
            self._streams.forget(record.cookie)
            return
        try:
            for message, is_cut in self._messages(record):
                answer = parse(message, is_cut=is_cut)
                if answer is not None:
                    self._keep(record, answer)
        except WireError:
            self._lose("malformed")
            self._streams.forget(record.cookie)
        except (ImportError, OSError):
            # dnspython comes with the first answer, for which no descriptor may be left. The next
            # answer tries again.
            self._lose("no_parser")
            self._streams.forget(record.cookie)
        self._spent_seconds += self._timer() - began

    def learn_lookup(self, record: LookupRecord) -> None:
        """Takes in what the C library has told a process."""
        domain = reverse_text(record.name)
        if not domain:
            return
        now_seconds = self._to_unix(record.time_ns)
        near: list[tuple[str, int]] = []
        far: list[tuple[str, int]] = []
        for address in dict.fromkeys(record.addresses):
            scope = scope_of(address)
            if scope is not Scope.UNKNOWN:
                (near if scope is Scope.LOOPBACK else far).append((address_text(address), 0))
        self._enter(record.owner, Answer(domain=domain, addresses=(*far, *near)), now_seconds)
        # Names of the machine itself are from /etc/hosts: nothing that others would mean.
        self._enter(record.netns, Answer(domain=domain, addresses=tuple(far)), now_seconds)

    def introduce(self, record: FlowRecord) -> None:
        """Takes in a flow: one with a resolver says whose the answers on its socket are."""
        if record.remote_port != DNS_PORT:
            return
        socket = self._sockets.get(record.cookie)
        if socket is not None:
            self._sockets.move_to_end(record.cookie)
            return
        socket = self._sockets[record.cookie] = _Socket(record.owner, record.netns)
        if len(self._sockets) > MAX_SOCKETS:
            self._sockets.popitem(last=False)
        answers = self._unowned.pop(record.cookie, ())
        self._unowned_answers -= len(answers)
        for answer, time_seconds in answers:
            self._enter(socket.owner, answer, time_seconds)
            self._enter(socket.netns, answer, time_seconds)

    def domain_of(self, flow: AttributedFlow, /) -> str:
        """The peer's domain in reversed notation, empty where unknown."""
        key = (flow.cookie, flow.remote_address)
        kept = self._connections.get(key)
        if kept is not None and kept[1]:
            self._connections.move_to_end(key)
            return kept[0]
        address, now_seconds = flow.remote_address, flow.time_seconds
        domain = self._names.get(flow.owner, address, now_seconds=now_seconds)
        is_own = bool(domain)
        if not domain:
            domain = (
                kept[0]
                if kept is not None
                else self._names.get(flow.netns, address, now_seconds=now_seconds)
            )
        if domain:
            self._connections[key] = (domain, is_own)
            self._connections.move_to_end(key)
            if len(self._connections) > MAX_CONNECTIONS:
                self._connections.popitem(last=False)
        return domain

    def _messages(self, record: DnsRecord) -> list[Message]:
        is_cut = bool(record.flags & DnsFlag.CUT)
        if record.protocol == _TCP:
            return self._streams.feed(record.cookie, record.payload, is_cut=is_cut)
        return [(record.payload, is_cut)]

    def _keep(self, record: DnsRecord, answer: Answer) -> None:
        time_seconds = self._to_unix(record.time_ns)
        socket = self._sockets.get(record.cookie)
        if socket is not None:
            self._enter(socket.owner, answer, time_seconds)
        else:
            self._await_owner(record.cookie, answer, time_seconds)
        netns = record.netns or (socket.netns if socket is not None else 0)
        if netns:
            self._enter(netns, answer, time_seconds)

    def _await_owner(self, cookie: int, answer: Answer, time_seconds: float) -> None:
        answers = self._unowned.setdefault(cookie, [])
        self._unowned.move_to_end(cookie)
        # The next flow record of a socket that is used over and over will say whose it is.
        if len(answers) >= MAX_UNOWNED_OF_SOCKET:
            return
        answers.append((answer, time_seconds))
        self._unowned_answers += 1
        while self._unowned_answers > MAX_UNOWNED:
            _cookie, oldest = self._unowned.popitem(last=False)
            self._unowned_answers -= len(oldest)

    def _enter(self, holder: Holder, answer: Answer, time_seconds: float) -> None:
        least = OWN_SECONDS if isinstance(holder, ProcessKey) else OTHERS_SECONDS
        for address, ttl_seconds in answer.addresses:
            dropped = self._names.put(
                holder,
                address,
                answer.domain,
                expires_seconds=time_seconds + min(max(ttl_seconds, least), MAX_SECONDS),
            )
            if dropped:
                self._health.count(catalog.EVENTS_LOST, ("domain", "table_full"), dropped)

    def _lose(self, reason: str) -> None:
        self._health.count(catalog.EVENTS_LOST, ("dns_record", reason))
