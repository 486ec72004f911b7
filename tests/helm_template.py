"""Renders the chart as `helm template` would, as far as its templates go; for want of helm itself.

Of Go's text/template: `if`, `end`, pipelines, brackets, strings, fields of the root. Of Helm's
functions those in `FUNCTIONS`. Anything else is an error, so that no template outgrows its test.
Sources: https://pkg.go.dev/text/template, https://helm.sh/docs/chart_template_guide/function_list/.

TemplateError                something that is not rendered here
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()|]|\.?[A-Za-z][A-Za-z0-9.]*|\S')

Value = Any


class TemplateError(Exception):
    """Something that is not rendered here."""


def _to_json(value: Value) -> str:
    # As Go's: no blanks, keys sorted, and what HTML minds escaped.
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.translate({ord(one): f"\\u{ord(one):04x}" for one in "<>&"})


def _merge(target: dict[str, Value], *others: Mapping[str, Value]) -> dict[str, Value]:
    for other in others:
        for key, value in other.items():
            target.setdefault(key, value)
    return target


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "toJson": _to_json,
    "trim": str.strip,
    "printf": lambda text, *values: text % values,
    "default": lambda fallback, value: value or fallback,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "dict": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)),
    "merge": _merge,
}


class Chart:
    """A chart's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.values: dict[str, Value] = yaml.safe_load((folder / "values.yaml").read_text())
        self.about: dict[str, Value] = yaml.safe_load((folder / "Chart.yaml").read_text())

    def render(self, namespace: str, **changed: Value) -> list[dict[str, Value]]:
        """All objects, with values changed by their paths: `podMonitor__enabled=True`."""
        root = self._root(namespace, changed)
        objects = []
        for path in sorted((self._folder / "templates").glob("*.yaml")):
            text = _Renderer(root).render(path.read_text())
            objects += [one for one in yaml.safe_load_all(text) if one]
        return objects

    def notes(self, namespace: str) -> str:
        """What is said after an installation."""
        text = (self._folder / "templates" / "NOTES.txt").read_text()
        return _Renderer(self._root(namespace, {})).render(text)

    def _root(self, namespace: str, changed: Mapping[str, Value]) -> dict[str, Value]:
        values = json.loads(json.dumps(self.values))
        for path, value in changed.items():
            *groups, name = path.split("__")
            group = values
            for part in groups:
                group = group[part]
            if name not in group:
                raise TemplateError(f"{path} is no value of the chart")
            group[name] = value
        return {
            "Values": values,
            "Chart": {"AppVersion": self.about["appVersion"], "Name": self.about["name"]},
            "Release": {"Namespace": namespace, "Name": "test", "Service": "Helm"},
            "Files": {"Get": lambda name: (self._folder / name).read_text()},
        }


class _Renderer:
    def __init__(self, root: Mapping[str, Value]) -> None:
        self._root = root

    def render(self, text: str) -> str:
        shown: list[str] = []
        conditions: list[bool] = []
        position = 0
        trims_next = False
        for action in _ACTION.finditer(text):
            literal = text[position : action.start()]
            literal = literal.lstrip() if trims_next else literal
            literal = literal.rstrip() if action[1] else literal
            if all(conditions):
                shown.append(literal)
            position, trims_next = action.end(), bool(action[3])
            word, _blank, rest = action[2].partition(" ")
            if word == "if":
                conditions.append(bool(all(conditions) and self._evaluate(rest)))
            elif word == "end":
                conditions.pop()
            elif all(conditions):
                shown.append(_shown(self._evaluate(action[2])))
        if conditions:
            raise TemplateError("an if without its end")
        tail = text[position:]
        return "".join(shown) + (tail.lstrip() if trims_next else tail)

    def _evaluate(self, text: str) -> Value:
        tokens = _TOKEN.findall(text)
        value, rest = self._pipeline(tokens)
        if rest:
            raise TemplateError(f"{text}: what is {rest[0]}")
        return value

    def _pipeline(self, tokens: list[str]) -> tuple[Value, list[str]]:
        value, tokens = self._command(tokens, piped=())
        while tokens and tokens[0] == "|":
            value, tokens = self._command(tokens[1:], piped=(value,))
        return value, tokens

    def _command(self, tokens: list[str], *, piped: tuple[Value, ...]) -> tuple[Value, list[str]]:
        terms: list[Value] = []
        while tokens and tokens[0] not in {"|", ")"}:
            term, tokens = self._term(tokens)
            terms.append(term)
        first, *arguments = terms
        if callable(first):
            return first(*arguments, *piped), tokens
        if arguments or piped:
            raise TemplateError(f"{first!r} is no function")
        return first, tokens

    def _term(self, tokens: list[str]) -> tuple[Value, list[str]]:
        token, *rest = tokens
        if token == "(":
            value, rest = self._pipeline(rest)
            return value, rest[1:]
        if token.startswith('"'):
            return json.loads(token), rest
        if token.startswith("."):
            value = self._root
            for name in token[1:].split("."):
                if name not in value:
                    raise TemplateError(f"{token}: there is no {name}")
                value = value[name]
            return value, rest
        if token not in FUNCTIONS:
            raise TemplateError(f"{token} is no function that is known here")
        return FUNCTIONS[token], rest


def _shown(value: Value) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"{value!r} would be shown as Go does it: use toJson")
    return value
