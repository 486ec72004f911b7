"""Pairs of programs, what they do, and what has to be shown for each of them afterwards."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.kernel.generator import Generator, Options, Outcome, Program, Value
from tests.kernel.network import Network
from tests.kernel.scrape import Account, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One of the two programs; `scope` is that of its peer."""

    scenario: str
    options: Options = field(default_factory=dict)
    scope: str = "loopback"
    receive_scope: str = ""
    """Of what it receives, if not `scope`: a group is answered by a host."""
    connections: int = 1
    protocol: str = ""
    """If not the case's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A server, which is ready first, and a client; `place` is where they run.

    host: both in the host's network; left: both in one namespace; veth: client left, server right.
    """

    name: str
    protocol: str
    client: End
    server: End | None = None
    place: str = "host"
    with_port: bool = True
    """The client gets the server's port."""

    def __str__(self) -> str:
        return self.name


Expected = Mapping[str, Account]


def pair(  # noqa: PLR0913 - each is a thing in which cases differ
    name: str,
    scenario: str,
    *,
    protocol: str = "",
    both: Options | None = None,
    server: Options | None = None,
    client: Options | None = None,
    host: str = "127.0.0.1",
    scope: str = "loopback",
    place: str = "host",
    connections: int = 1,
) -> Case:
    """`scenario`-server at `host`, and `scenario`-client that talks to it."""
    common: dict[str, Value] = dict(both or {})
    return Case(
        name=name,
        protocol=protocol or scenario,
        place=place,
        server=End(
            scenario=f"{scenario}-server",
            options={"bind": host} | common | dict(server or {}),
            scope=scope,
            connections=connections,
        ),
        client=End(
            scenario=f"{scenario}-client",
            options={"host": host} | common | dict(client or {}),
            scope=scope,
            connections=connections,
        ),
    )


def perform(case: Case, generator: Generator, network: Network) -> Expected:
    """Run both ends with executables of their own; what has to be shown of them.

    Raises
    ------
    UnsupportedError
        if this kernel can't.
    """
    client_netns = {"host": None, "left": network.left, "veth": network.left}[case.place]
    server_netns = network.right if case.place == "veth" else client_netns
    client = generator.copy("client")
    with ExitStack() as stack:
        options: dict[str, Value] = dict(case.client.options)
        sink = server = None
        if case.server:
            server = generator.copy("server")
            sink = stack.enter_context(
                server.start(case.server.scenario, case.server.options, netns=server_netns)
            )
            port = sink.ready().port
            if case.with_port:
                options["port"] = port
        with client.start(case.client.scenario, options, netns=client_netns) as source:
            moved = source.done()
        expected = {client.sha256: _account(case, case.client, client, moved, "outbound")}
        if server and sink and case.server:
            if case.server.options.get("mode") == "echo":
                sink.close()
            expected[server.sha256] = _account(case, case.server, server, sink.done(), "inbound")
    return expected


def _account(case: Case, end: End, program: Program, moved: Outcome, direction: str) -> Account:
    assert not moved.notes.get("drops"), f"{program.path}: datagrams were dropped"
    protocol = end.protocol or case.protocol
    receive_scope = end.receive_scope or end.scope
    connections: dict[Key, int] = {}
    if end.connections:
        connections[protocol, end.scope, direction] = end.connections
    return Account(
        transmit=_only(protocol, end.scope, moved.sent),
        receive=_only(protocol, receive_scope, moved.received),
        connections=connections,
    )


def _only(protocol: str, scope: str, value: int) -> dict[Key, int]:
    return {(protocol, scope): value} if value else {}
