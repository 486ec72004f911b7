"""YAML as a configuration file needs it: strict, bounded, and every key with its line.

JSON is YAML, so picosnitch's own `config.json` with its `#` comments is read the same way.
Beyond YAML's own rules, these are refused: a key twice, an alias (a few lines of them expand to
gigabytes), a tag (`!!python/...`), more than one document, and anything but a mapping at the top.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import yaml

from picosnitch_exporter.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    from yaml import CSafeLoader as Loader
except (
    ImportError
):  # pragma: no cover - PyYAML was built without libyaml: slower, the same otherwise
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

Plain = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None
"""What a value of the file is, without lines."""

MAX_DEPTH = 16
"""Four levels are in use; the bound keeps recursion away from the interpreter's."""

_MAX_BITS = 64
"""Of a number: no setting takes more."""

# YAML allows these, and nothing else that does not print.
_NOT_ALLOWED = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_JSON_START = re.compile(r"(?:\s|#[^\n]*\n)*\{")
_LEADING_TABS = re.compile(r"^[ \t]*\t[ \t]*", re.MULTILINE)
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A value and the line (from 1) on which its key stands."""

    line: int
    value: "str | int | float | bool | list[Located] | dict[str, Located] | None"

    def plain(self) -> Plain:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def parse(text: str, *, source: str) -> dict[str, Located]:
    """The mapping at the top of a document; an empty document is an empty mapping.

    Raises ConfigurationError with `source`, the line, and what is wrong there.
    """
    if found := _NOT_ALLOWED.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigurationError(
            f"{source}:{line}: the character U+{ord(found.group()):04X} is not allowed here: "
            "remove it, or write it as an escape in double quotes"
        )
    if _JSON_START.match(text):
        # JSON may be indented with tabs, YAML may not; inside braces the indentation says nothing.
        text = _LEADING_TABS.sub(lambda tabs: " " * len(tabs.group()), text)
    try:
        return _Reader(text, source=source).mapping_at_the_top()
    except yaml.YAMLError as error:
        # All but those about single characters, which are gone by now, know where they are.
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        parts = (getattr(error, "context", None), getattr(error, "problem", None))
        problem = " ".join(part for part in parts if part)
        line = mark.line + 1 if mark else 1
        raise ConfigurationError(f"{source}:{line}: not valid YAML: {problem}") from error


class _Reader:
    """Events of the parser to located values; events, since nodes come with aliases resolved."""

    def __init__(self, text: str, *, source: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=Loader)
        self._source = source
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def mapping_at_the_top(self) -> dict[str, Located]:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return {}
        top = self._value(next(self._events), depth=0)
        next(self._events)  # the end of the document
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            raise self._error(end, "a second document starts here: leave one '---' at most")
        if top.value is None:
            return {}
        if not isinstance(top.value, dict):
            raise self._error(start, "must hold 'key: value' lines at the top")
        return top.value

    def _value(self, event: yaml.Event, *, depth: int) -> Located:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"alias *{event.anchor}: write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._error(event, "tags ('!...') are not supported: remove it")
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} levels deep")
        line = _line(event)
        if isinstance(event, yaml.MappingStartEvent):
            return Located(line=line, value=self._mapping(depth=depth))
        if isinstance(event, yaml.SequenceStartEvent):
            return Located(line=line, value=self._sequence(depth=depth))
        return Located(line=line, value=self._scalar(cast("yaml.ScalarEvent", event)))

    def _mapping(self, *, depth: int) -> dict[str, Located]:
        entries: dict[str, Located] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a key must be text")
            # The text as written: YAML 1.1 takes a plain `on` or `443` for something else.
            key = event.value
            if key in entries:
                first = entries[key].line
                raise self._error(event, f"{key!r} stands twice, first on line {first}")
            value = self._value(next(self._events), depth=depth + 1)
            entries[key] = Located(line=_line(event), value=value.value)
        return entries

    def _sequence(self, *, depth: int) -> list[Located]:
        items: list[Located] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, depth=depth + 1))
        return items

    def _scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        if not event.implicit[0]:
            return text
        resolve: Callable[..., str] = self._resolver.resolve  # untyped in PyYAML's stubs
        tag = resolve(yaml.ScalarNode, text, (True, False))
        node = yaml.ScalarNode(tag, text)
        try:
            match tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return bool(self._constructor.construct_yaml_bool(node))
                case "int":
                    return _bounded(int(self._constructor.construct_yaml_int(node)))
                case "float":
                    return float(self._constructor.construct_yaml_float(node))
                case _:  # dates too: no setting is one
                    return text
        except (ValueError, OverflowError) as error:
            raise self._error(event, f"{text[:40]!r} is not a number: put it in quotes") from error

    def _error(self, event: yaml.Event, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._source}:{_line(event)}: {problem}")


def _bounded(number: int) -> int:
    # One of thousands of hexadecimal digits is read, and then can't be printed.
    if number.bit_length() > _MAX_BITS:
        raise OverflowError(number.bit_length())
    return number


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 1
