"""From `--web.listen-address` to listening sockets.

Apart from the server, so that a port below 1024 can be bound while that is still allowed.
"""

import errno
import socket
from collections.abc import Iterable

from picosnitch_exporter.config.addresses import split_listen_address
from picosnitch_exporter.errors import RequirementError, UsageError

FLAG = "--web.listen-address"
BACKLOG = 128
"""Connections that the kernel holds until they are accepted; prometheus_client's 5 was too few for
50 scrapers at once."""
_Resolved = tuple[str | int, ...] | tuple[int, bytes]
"""What bind takes; the second is getaddrinfo's where IPv6 is compiled out of Python."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""accept(2): there is no room for another connection now."""
PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EINTR,
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
"""accept(2): of the connection that was to be accepted, not of the listening socket."""
_ANY = ("", "::")
# An address that a name resolves to may be of a family that is switched off here.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(addresses: Iterable[str]) -> tuple[socket.socket, ...]:
    """Listen on every address: `HOST:PORT`, `[IPv6]:PORT`, or `:PORT` for all of the machine's.

    A name is bound to each address it resolves to. Port 0 lets the kernel choose.

    Raises
    ------
    UsageError
        if an address can't be understood or resolved.
    RequirementError
        if it is taken, not this machine's, or needs a privilege.
    """
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets += _bind_one(address)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return tuple(sockets)


def _bind_one(address: str) -> list[socket.socket]:
    host, port = _parsed(address)
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, resolved in _resolved(address, host=host, port=port):
            # `:PORT` stands for one socket that takes both families; 0.0.0.0 only stands in for it.
            if not host and listeners:
                break
            try:
                listeners.append(_listener(family, resolved, dual_stack=host in _ANY))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise _explained(address, error) from error
    return listeners


def _resolved(address: str, *, host: str, port: int) -> list[tuple[int, _Resolved]]:
    if not host:
        return [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{FLAG}={address}: {host} is no address and does not resolve ({error}); "
            "use an address of this machine, or :PORT for all of them"
        ) from error
    # In order, each once: /etc/hosts may name an address twice.
    return list(dict.fromkeys((family, where) for family, _, _, _, where in found))


def _parsed(address: str) -> tuple[str, int]:
    try:
        return split_listen_address(address)
    except ValueError as error:
        raise UsageError(f"{FLAG}={error}") from error


def _listener(family: int, address: _Resolved, *, dual_stack: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for the connections of the run before to time out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  (the standard library's signature)
    except BaseException:
        listener.close()
        raise
    return listener


def _explained(address: str, error: OSError) -> RequirementError:
    port = address.rpartition(":")[2]
    match error.errno:
        case errno.EADDRINUSE:
            advice = (
                f"is taken; `ss -ltnp sport = :{port}` names by whom. Stop that program, or "
                f"choose another address with {FLAG}"
            )
        case errno.EACCES:
            advice = (
                f"needs the capability CAP_NET_BIND_SERVICE; choose a port above 1023 with {FLAG}"
            )
        case errno.EADDRNOTAVAIL:
            advice = (
                f"is no address of this machine; choose one that `ip address` lists with {FLAG}"
            )
        case _:
            advice = f"can't be listened on: {error.strerror}; choose another with {FLAG}"
    return RequirementError(f"{address} {advice}")
