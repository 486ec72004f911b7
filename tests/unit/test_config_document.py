"""YAML, strictly: what is refused, and on which line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.config import document
from picosnitch_exporter.config.document import Plain, parse
from picosnitch_exporter.errors import ConfigurationError


def plain(text: str) -> dict[str, Plain]:
    return {key: value.plain() for key, value in parse(text, source="c.yaml").items()}


def refusal(text: str, loader: type) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "Loader", loader)
        try:
            parse(text, source="c.yaml")
        except ConfigurationError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "--- null\n", "---\n...\n"])
def test_document_is_an_empty_mapping_when_nothing_is_set(text: str) -> None:
    assert plain(text) == {}


def test_scalars_have_the_types_of_yaml() -> None:
    text = "{a: true, b: 10, c: 0x1f, d: 1.5, e: null, f: text, g: '10', h: 2026-01-31, i: <<}"

    assert plain(text) == {
        "a": True,
        "b": 10,
        "c": 31,
        "d": 1.5,
        "e": None,
        "f": "text",
        "g": "10",
        "h": "2026-01-31",
        "i": "<<",
    }


def test_key_is_its_text_when_yaml_takes_it_for_something_else() -> None:
    assert plain("{on: 1, 443: 2, null: 3}") == {"on": 1, "443": 2, "null": 3}


def test_json_with_comments_and_tabs_is_read() -> None:
    text = '# mine\n{\n\t"a (b)": [1, "x"],\t# why\n \t"c": {}\n}\n'

    assert plain(text) == {"a (b)": [1, "x"], "c": {}}


def test_values_know_the_lines_of_their_keys() -> None:
    top = parse("a:\n  b: 1\n\nc:\n  - x\n", source="c.yaml")

    assert (top["a"].line, top["c"].line) == (1, 4)
    assert isinstance(top["a"].value, dict)
    assert top["a"].value["b"].line == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: 'a' stands twice, first on line 1"),
        ("g:\n  a: 1\n  a: 2\n", "c.yaml:3: 'a' stands twice, first on line 2"),
        ("a: &x [1]\nb: *x\n", "c.yaml:2: alias *x: write the value out"),
        ("a: !!python/object:os.system x\n", "c.yaml:1: tags ('!...') are not supported"),
        ("a: !x [1]\n", "c.yaml:1: tags ('!...') are not supported"),
        ("- a\n", "c.yaml:1: must hold 'key: value' lines at the top"),
        ("text\n", "c.yaml:1: must hold 'key: value' lines at the top"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2: a second document starts here"),
        ("{[a]: 1}\n", "c.yaml:1: a key must be text"),
        ("a: 0b_\n", "c.yaml:1: '0b_' is not a number: put it in quotes"),
        ("a: 1" + ":0" * 200 + ".0\n", "c.yaml:1: '1:0:0"),
        ("a: 0x" + "f" * 5000 + "\n", "c.yaml:1: '0xffff"),
        ("a: 1\nb: [1\n", "c.yaml:3: not valid YAML: "),
        ("a: 1\n\tb: 2\n", "c.yaml:2: not valid YAML: "),
        ("a: 1\nb: '\x07'\n", "c.yaml:2: the character U+0007 is not allowed here"),
        ("a: " + "[" * 20 + "]" * 20, "c.yaml:1: nested more than 16 levels deep"),
    ],
)
@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader])
def test_document_is_refused_with_its_line(text: str, expected: str, loader: type) -> None:
    assert refusal(text, loader).startswith(expected)


@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader])
def test_document_is_refused_when_its_depth_is_the_parsers_limit(loader: type) -> None:
    # The libyaml of PyYAML 6.0.4 has a bound of its own, which it may look ahead to.
    message = refusal("a: " + "[" * 100_000, loader)

    assert message.startswith("c.yaml:1: ")
    assert "nested more than 16 levels deep" in message or "maximum nesting depth" in message


@given(st.text() | st.text(alphabet="ab:-[]{}#&*!|>'\"%@`? \n\t01,.~<"))
def test_nothing_but_a_configuration_error_comes_out(text: str) -> None:
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        message = refusal(text, loader)

        assert not message or message.startswith("c.yaml:")
