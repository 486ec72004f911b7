"""Addresses, URLs and the entries of `log.ignore`: what is accepted, and its one spelling."""

import ipaddress
import re
from urllib.parse import urlsplit

MAX_PORT = 65_535

# RFC 1035, section 2.3.4, with the underscore that service names use (RFC 8552).
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_DOMAIN_CHARACTERS = 253
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PORT = re.compile(r"[0-9]{1,5}")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


def split_listen_address(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`; the host is empty for all addresses, IPv6 without brackets.

    Raises ValueError that says what is wrong.
    """
    if address.startswith(("unix:", "/", "@")):
        raise ValueError(f"{address!r}: Unix sockets are not supported")
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"{address!r} has no port: write ':10054' or 'host:10054'")
    if not _PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise ValueError(f"{address!r}: the port must be a number from 0 to {MAX_PORT}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ValueError(f"{address!r}: {host!r} is not an IPv6 address") from error
    elif ":" in host:
        raise ValueError(f"{address!r}: write an IPv6 address in brackets, like '[::1]:10054'")
    elif host and not _is_host(host):
        raise ValueError(f"{address!r}: {host!r} is neither an address nor a host name")
    return host, int(port)


def check_telemetry_path(path: str) -> str:
    """Raises ValueError unless metrics can be served there beside the exporter's own pages."""
    if not path.startswith("/"):
        raise ValueError(f"must begin with '/', not {path!r}")
    if path == "/":
        raise ValueError("must not be '/': the landing page is there")
    if path == "/-" or path.startswith("/-/"):
        raise ValueError(f"must not be under '/-/', where the health checks are: {path!r}")
    if not _PRINTABLE.fullmatch(path) or set(path) & set("?#%\\"):
        raise ValueError(f"must be a plain path without spaces, '?', '#' or '%': {path!r}")
    return path


def check_url(url: str, *, with_user: bool = False) -> str:
    """Raises ValueError unless it is an http or https URL; the text never repeats the URL.

    `with_user`: it may carry a user and a password, since it is never printed.
    """
    if not _PRINTABLE.fullmatch(url):
        raise ValueError("must be a URL without spaces; write others as percent escapes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"must be a URL: {error}") from error
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must be a URL that begins with http:// or https://")
    if not host:
        raise ValueError("must be a URL with a host")
    if port == 0:
        raise ValueError("must be a URL with a port from 1 to 65535, or none")
    if parts.fragment:
        raise ValueError("must be a URL without '#'")
    if "@" in parts.netloc and not with_user:
        raise ValueError("must be a URL without a user and a password")
    return url


def parse_ignore(entry: object) -> str | int:
    """One entry of `log.ignore` in its one spelling: hash, port, subnet or reversed domain.

    Raises ValueError that says what is wrong with the entry.
    """
    if isinstance(entry, int) and not isinstance(entry, bool):
        if 0 <= entry <= MAX_PORT:
            return entry
        raise ValueError(f"{entry} is not a port from 0 to {MAX_PORT}")
    if not isinstance(entry, str):
        raise ValueError(f"{entry!r:.60} is neither hash, domain, subnet nor port")
    text = entry.lower()
    if _SHA256.fullmatch(text):
        return text
    if text.isdigit():
        raise ValueError(f"{entry!r:.80} in quotes is no port: write the number without quotes")
    if (network := _network(text)) is not None:
        return network
    if "/" in text or ":" in text:
        raise ValueError(f"{entry!r:.80} is not a subnet like '10.0.0.0/8' or 'fd00::/8'")
    if not _is_host(text) or text.split(".")[0].isdigit():
        raise ValueError(
            f"{entry!r:.80} is neither a hash, a subnet nor a domain in reversed notation "
            "like 'com.example'"
        )
    return text


def _network(text: str) -> str | None:
    """A subnet or address as a subnet; None if it is neither.

    Raises ValueError where bits beyond the mask are set: it may be wrong in either part.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{text!r} has bits set beyond its mask: did you mean '{network}'?")
    return str(network)


def _is_host(text: str) -> bool:
    return len(text) <= _MAX_DOMAIN_CHARACTERS and all(
        _LABEL.fullmatch(label) for label in text.lower().split(".")
    )
