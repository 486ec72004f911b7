"""What a setting can be: each kind reads a value of the file, writes it back, and says its range.

`parse` raises ValueError with a phrase that continues 'the key ...': 'must be true or false'.
Paths come out as they were written; the loader knows what they are relative to.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from picosnitch_exporter.config.addresses import (
    check_telemetry_path,
    check_url,
    parse_ignore,
    split_listen_address,
)
from picosnitch_exporter.config.document import Plain

HIDDEN = "<secret>"
"""What `show` prints in place of a secret."""

MAX_LISTEN_ADDRESSES = 16
MAX_IGNORE_ENTRIES = 10_000

_CREDENTIAL = re.compile(r"[\x21-\x7e]*")
_USER = re.compile(r"[^\s:/\x00-\x1f\x7f]{1,256}")
_NODE = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


class Kind(Protocol):
    """One type of setting."""

    @property
    def description(self) -> str:
        """What it accepts, for the reference."""
        ...

    def parse(self, value: Plain) -> object:
        """The value as it stands in `Settings`; raises ValueError."""
        ...

    def plain(self, value: object) -> Plain:
        """A value of `Settings` as it stands in a file, so that `parse` gives it back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A switch."""

    @property
    def description(self) -> str:
        return "true or false"

    def parse(self, value: Plain) -> bool:
        if not isinstance(value, bool):
            raise ValueError(must_be(self.description, value))
        return value

    def plain(self, value: object) -> Plain:
        return bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoFlag:
    """A switch that the exporter may set itself: None in `Settings`."""

    @property
    def description(self) -> str:
        return "true, false or auto"

    def parse(self, value: Plain) -> bool | None:
        if value == "auto":
            return None
        if not isinstance(value, bool):
            raise ValueError(must_be(self.description, value))
        return value

    def plain(self, value: object) -> Plain:
        return "auto" if value is None else bool(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A whole number within bounds."""

    minimum: int
    maximum: int
    power_of_two: bool = False
    nullable: bool = False

    @property
    def description(self) -> str:
        what = "a power of two" if self.power_of_two else "a whole number"
        null = ", or null" if self.nullable else ""
        return f"{what} from {self.minimum} to {self.maximum}{null}"

    def parse(self, value: Plain) -> int | None:
        if value is None and self.nullable:
            return None
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not self.minimum <= value <= self.maximum
            or (self.power_of_two and value & (value - 1))
        ):
            raise ValueError(must_be(self.description, value))
        return value

    def plain(self, value: object) -> Plain:
        return value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def description(self) -> str:
        return one_of(self.words)

    def parse(self, value: Plain) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(must_be(self.description, value))
        return value

    def plain(self, value: object) -> Plain:
        return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text that `check` accepts."""

    description: str
    check: Callable[[str], str]
    nullable: bool = False

    def parse(self, value: Plain) -> str | None:
        if self.nullable and value in (None, ""):
            return None
        if not isinstance(value, str):
            raise ValueError(must_be(self.description, value))
        return self.check(value)

    def plain(self, value: object) -> Plain:
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Text that is never printed, in messages neither; `empty` is what stands for none."""

    description: str
    check: Callable[[str], str]
    empty: str | None

    def parse(self, value: Plain) -> str | None:
        if value in (None, ""):
            return self.empty
        if not isinstance(value, str):
            raise ValueError("must be text: put it in quotes")
        if value == HIDDEN:
            raise ValueError(f"is {HIDDEN}, which --show prints instead of it: write the real one")
        return self.check(value)

    def plain(self, value: object) -> Plain:
        return HIDDEN if value else self.empty


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePath:
    """A file or folder."""

    nullable: bool = False

    @property
    def description(self) -> str:
        return "a path, or null" if self.nullable else "a path"

    def parse(self, value: Plain) -> Path | None:
        if self.nullable and value in (None, ""):
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(must_be(self.description, value))
        return Path(value)

    def plain(self, value: object) -> Plain:
        return None if value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddresses:
    """Where HTTP is served."""

    @property
    def description(self) -> str:
        return f"a list of 1 to {MAX_LISTEN_ADDRESSES} addresses, `host:port`"

    def parse(self, value: Plain) -> tuple[str, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_LISTEN_ADDRESSES:
            raise ValueError(must_be(self.description.replace("`", ""), value))
        addresses: list[str] = []
        for item in value:
            if not isinstance(item, str):
                raise ValueError(f"{item!r:.60} must be text like ':10054' (in quotes)")
            split_listen_address(item)
            if item in addresses:
                raise ValueError(f"names {item!r} twice")
            addresses.append(item)
        return tuple(addresses)

    def plain(self, value: object) -> Plain:
        return list(cast("tuple[str, ...]", value))


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreList:
    """What the logs leave out."""

    @property
    def description(self) -> str:
        return "a list of SHA-256 hashes, reversed domains, subnets and port numbers"

    def parse(self, value: Plain) -> tuple[str | int, ...]:
        if not isinstance(value, list):
            raise ValueError(must_be(self.description, value))
        if len(value) > MAX_IGNORE_ENTRIES:
            raise ValueError(f"has {len(value)} entries, more than {MAX_IGNORE_ENTRIES}")
        # Once each, in their order: a long list grows by pasting.
        return tuple(dict.fromkeys(parse_ignore(entry) for entry in value))

    def plain(self, value: object) -> Plain:
        return list(cast("tuple[str | int, ...]", value))


def check_credential(text: str) -> str:
    """Raises ValueError unless it can be sent in an HTTP header."""
    if not _CREDENTIAL.fullmatch(text):
        raise ValueError("must be printable ASCII without spaces")
    return text


def check_user(text: str) -> str:
    """Raises ValueError unless it can be the name of a user."""
    if not _USER.fullmatch(text):
        raise ValueError(must_be("the name of a user", text))
    return text


def check_group(text: str) -> str:
    """Raises ValueError unless it can be the name of a group."""
    if not _USER.fullmatch(text):
        raise ValueError(must_be("the name of a group", text))
    return text


def check_node(text: str) -> str:
    """Raises ValueError unless it can be the name of a Kubernetes node (RFC 1123)."""
    if not _NODE.fullmatch(text):
        raise ValueError(must_be("the name of a node", text))
    return text


def check_base_url(text: str) -> str:
    """A URL that paths are appended to."""
    return check_url(text).rstrip("/")


def check_secret_url(text: str) -> str:
    """A URL that is a secret as a whole, as those of chat services are."""
    return check_url(text, with_user=True)


def check_proxy_url(text: str) -> str:
    """A URL of a proxy, spoken to without TLS, as is usual for proxies that tunnel."""
    if not check_secret_url(text).startswith("http://"):
        raise ValueError("must be a URL that begins with http://")
    return text


def one_of(words: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def must_be(what: str, value: Plain) -> str:
    """The message of a value that is something else, which it repeats in short."""
    match value:
        case bool():
            given = "true" if value else "false"
        case None:
            given = "null"
        case list():
            given = f"a list of {len(value)}"
        case dict():
            given = "a mapping"
        case _:
            given = f"{value!r:.80}"
    return f"must be {what}, not {given}"


TELEMETRY_PATH = Text(description="a path that begins with /", check=check_telemetry_path)
