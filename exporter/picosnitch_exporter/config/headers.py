"""Headers that go with each request: secrets, as they may hold a token.

As text they have the form of OTEL_EXPORTER_OTLP_HEADERS, `name=value,name=value` with percent
escapes, in a file also a line each. Source: OpenTelemetry's OTLP exporter specification, RFC 9110.
"""

import re
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.kinds import HIDDEN, Secret

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,256}")
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: values of `-bin` are bytes.
_GRPC_NAME = re.compile(r"[a-z0-9_.-]+(?<!-bin)")
_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
_SEPARATOR = re.compile(r"[,\r\n]")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers(Secret):
    """Names and values: a mapping, or text; never printed."""

    def parse(self, value: Plain) -> Pairs:  # type: ignore[override]  # Secret gives one text
        """The pairs; raises ValueError."""
        if value is None or value in ("", {}):
            return ()
        if value == HIDDEN:
            raise ValueError(f"is {HIDDEN}, which --show prints instead of it: write the real ones")
        if isinstance(value, str):
            return parse_headers(value)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise ValueError("must be a mapping of names to texts: put the values in quotes")
        return _checked(cast("dict[str, str]", value))

    def plain(self, value: object) -> Plain:
        """What stands for them in a file."""
        return HIDDEN if value else None


def parse_headers(text: str) -> Pairs:
    """(name in lower case, value) of each; the message of a ValueError repeats nothing of it."""
    pairs: dict[str, str] = {}
    for item in _SEPARATOR.split(text):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError("must be name=value pairs, separated by commas")
        pairs[unquote(name).strip()] = unquote(value).strip()
    return _checked(pairs)


def check_grpc_names(pairs: Pairs) -> None:
    """Raises ValueError for what HTTP takes as a name, but gRPC does not with a text."""
    for number, (name, _value) in enumerate(pairs, 1):
        if not _GRPC_NAME.fullmatch(name):
            # Not which: without its name, a secret that ends in '=' is taken for one.
            raise ValueError(
                f"header {number} can't go over gRPC: a name there has a-z, 0-9, '_', '.' and '-', "
                "and does not end in -bin"
            )


def _checked(pairs: dict[str, str]) -> Pairs:
    for number, (name, value) in enumerate(pairs.items(), 1):
        if not _NAME.fullmatch(name.lower()):
            # Not which: with a colon in place of '=' the secret is a part of it.
            raise ValueError(f"header {number} has no valid name")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of {name!r} must be printable ASCII")
    return tuple((name.lower(), value) for name, value in pairs.items())
