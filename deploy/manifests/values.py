"""What a Helm chart leaves open: values with a place and a default.

An object holds a `Value` where the chart has an expression and the kustomize base the default.
`toJson` writes any value as one line of YAML, so no expression needs to know its indentation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
_MARK = "@@{}@@"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of the chart; `comment` stands above it in values.yaml."""

    path: str
    default: Json
    comment: str
    as_text: bool = False
    """The object holds it as JSON in a string: the configuration file in a ConfigMap."""

    @property
    def expression(self) -> str:
        """As Helm's templates have it."""
        text = f"toJson .Values.{self.path}"
        return f"{{{{ {text} | toJson }}}}" if self.as_text else f"{{{{ {text} }}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """Something else that only Helm knows."""

    text: str
    default: Json


Tree = Json | Value | Expression | Sequence["Tree"] | Mapping[str, "Tree"]


def plain(tree: Tree) -> Json:
    """An object with the defaults in their places, as the kustomize base has it."""
    if isinstance(tree, Value):
        return json.dumps(tree.default) if tree.as_text else tree.default
    if isinstance(tree, Expression):
        return tree.default
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [plain(value) for value in tree]
    return tree


def template(tree: Tree) -> str:
    """An object with expressions in their places, as the chart has it."""
    expressions: list[str] = []

    def marked(part: Tree) -> Json:
        if isinstance(part, Value | Expression):
            expressions.append(part.expression if isinstance(part, Value) else part.text)
            return _MARK.format(len(expressions) - 1)
        if isinstance(part, Mapping):
            return {key: marked(value) for key, value in part.items()}
        if isinstance(part, Sequence) and not isinstance(part, str):
            return [marked(value) for value in part]
        return part

    text = dump(marked(tree))
    for index, expression in enumerate(expressions):
        mark = _MARK.format(index)
        text = text.replace(f"'{mark}'", expression).replace(mark, expression)
    return text


def values_of(trees: Sequence[Tree]) -> dict[str, Value]:
    """All values of some objects, by their paths.

    Raises
    ------
    ValueError
        if two of the same path differ.
    """
    found: dict[str, Value] = {}
    waiting: list[Tree] = list(trees)
    while waiting:
        part = waiting.pop()
        if isinstance(part, Value):
            if found.setdefault(part.path, part) != part:
                raise ValueError(f"{part.path} is given twice: make it one Value")
        elif isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, Sequence) and not isinstance(part, str):
            waiting.extend(part)
    return found


def values_file(values: Sequence[Value]) -> str:
    """values.yaml, in the order given, with the comments."""
    lines: list[str] = []
    opened: list[str] = []
    for value in values:
        *groups, name = value.path.split(".")
        if groups != opened:
            lines.append("")
            lines.extend(
                f"{'  ' * depth}{group}:"
                for depth, group in enumerate(groups)
                if opened[: depth + 1] != groups[: depth + 1]
            )
            opened = groups
        indent = "  " * len(groups)
        lines.extend(f"{indent}# {line}" for line in value.comment.splitlines())
        body = dump({name: value.default}).rstrip()
        lines.extend(f"{indent}{line}" for line in body.splitlines())
    return "\n".join(lines).strip() + "\n"


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - PyYAML's signature
        """Lists stand further in than their key, as in all of Kubernetes' examples."""
        super().increase_indent(flow, False)  # noqa: FBT003 - as above

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - as above
        """Written out each time: no reader has to look for an anchor."""
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    style = "|" if "\n" in data else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Json) -> str:
    """As YAML, in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1000)
