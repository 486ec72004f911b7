"""Whatever is configured: it comes out as it was shown, or a ConfigurationError says why not."""

from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.config import load, show
from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.headers import Headers
from picosnitch_exporter.config.keys import BY_PICOSNITCH, IN_FILE, Key
from picosnitch_exporter.config.kinds import (
    HIDDEN,
    AutoFlag,
    Choice,
    FilePath,
    Flag,
    IgnoreList,
    ListenAddresses,
    Number,
    Secret,
)
from picosnitch_exporter.config.sql_server import SqlServer
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.settings import Settings

ports = st.integers(0, 65_535)
labels = st.from_regex(r"[a-z][a-z0-9_-]{0,20}[a-z0-9]", fullmatch=True)
parameters = st.dictionaries(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,62}", fullmatch=True).filter(
        lambda name: name not in {"client", "table_name", "password_file"}
    ),
    st.text().filter(lambda text: text != HIDDEN)
    | st.integers(-(2**63), 2**63)
    | st.booleans()
    | st.none(),
    max_size=4,
)
TEXTS: dict[str, st.SearchStrategy[Plain]] = {
    "web.telemetry_path": st.from_regex(r"/[a-z][a-z0-9/_.-]{0,20}", fullmatch=True),
    "storage.user": st.none() | labels,
    "otlp.endpoint": st.none() | labels.map(lambda host: f"http://{host}:4318/v1"),
    "virustotal.base_url": labels.map(lambda host: f"https://{host}/api/v3"),
    "notifications.user": st.none() | labels,
    "storage.group": st.none() | labels,
    "kubernetes.node_name": st.none() | st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
    "kubernetes.api_url": st.none() | labels.map(lambda host: f"https://{host}:6443"),
}


def numbers(kind: Number) -> st.SearchStrategy[Plain]:
    if kind.power_of_two:
        return st.integers(0, 16).map(lambda bits: 1 << bits)
    within = st.integers(kind.minimum, kind.maximum)
    return within | st.none() if kind.nullable else within


addresses: st.SearchStrategy[Plain] = st.builds(
    "{}:{}".format, st.sampled_from(["", "localhost", "0.0.0.0", "[::1]"]), ports
)
ignored: st.SearchStrategy[Plain] = (
    ports
    | st.ip_addresses().map(str)
    | st.from_regex(r"[0-9a-f]{63}[a-f]", fullmatch=True)
    | st.lists(labels, min_size=1, max_size=4).map(".".join)
)
servers: st.SearchStrategy[Plain] = st.just({}) | st.builds(
    lambda client, rest: {"client": client, **rest},
    st.sampled_from(["mariadb", "psycopg", "psycopg2", "pymysql"]),
    parameters,
)
BY_KIND: dict[type, st.SearchStrategy[Plain]] = {
    Flag: st.booleans(),
    AutoFlag: st.sampled_from([True, False, "auto"]),
    FilePath: st.text(min_size=1).filter(lambda text: "\0" not in text),
    ListenAddresses: st.lists(addresses, min_size=1, max_size=4, unique_by=str),
    IgnoreList: st.lists(ignored, max_size=6),
    SqlServer: servers,
    Secret: st.just(""),
    Headers: st.just(None),
}


def values(key: Key) -> st.SearchStrategy[Plain]:
    """Values that the setting accepts."""
    if isinstance(key.kind, Number):
        return numbers(key.kind)
    if isinstance(key.kind, Choice):
        return st.sampled_from(key.kind.words)
    return TEXTS[key.name] if key.name in TEXTS else BY_KIND[type(key.kind)]


SECRET_FILES = {key.name for key in IN_FILE if key.fills is not None}
valid = st.fixed_dictionaries(
    {}, optional={key.name: values(key) for key in IN_FILE if key.name not in SECRET_FILES}
)


def nested(flat: dict[str, Plain]) -> dict[str, Plain]:
    top: dict[str, Plain] = {}
    for name, value in flat.items():
        group = top
        *groups, last = name.split(".")
        for part in groups:
            group = cast("dict[str, Plain]", group.setdefault(part, {}))
        group[last] = value
    return top


def load_text(folder: Path, text: str | bytes) -> Settings:
    file = folder / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(0o600)
    return load(file, environment={}, overrides={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


def without_secrets(settings: Settings, shown: str) -> tuple[str, bool]:
    """What was shown with the secrets put back, if there are any."""
    top = yaml.safe_load(shown)
    hidden = False
    if settings.log.server is not None:
        for name, value in settings.log.server.parameters:
            if top["log"]["server"][name] == HIDDEN:
                top["log"]["server"][name] = value
                hidden = True
    return (yaml.safe_dump(top, sort_keys=False), hidden)


@given(flat=valid)
def test_settings_survive_being_shown(folder: Path, flat: dict[str, Plain]) -> None:
    settings = load_text(folder, yaml.safe_dump(nested(flat), sort_keys=False))
    shown = show(settings)
    again, hidden = without_secrets(settings, shown)

    assert load_text(folder, again if hidden else shown) == settings
    assert show(load_text(folder, again)) == shown


@given(flat=valid)
def test_picosnitch_names_mean_the_same_as_nested_ones(
    folder: Path, flat: dict[str, Plain]
) -> None:
    old_names = {key.name: name for name, key in BY_PICOSNITCH.items()}
    old = {old_names[name]: value for name, value in flat.items() if name in old_names}
    new = {name: value for name, value in flat.items() if name in old_names}

    assert load_text(folder, yaml.safe_dump(old)) == load_text(folder, yaml.safe_dump(nested(new)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
names = st.sampled_from([key.name for key in IN_FILE])


@given(flat=st.dictionaries(names, plain, max_size=4))
def test_wrong_value_is_a_configuration_error_that_names_the_key(
    folder: Path, flat: dict[str, Plain]
) -> None:
    text = yaml.safe_dump(nested(flat))
    try:
        load_text(folder, text)
    except ConfigurationError as error:
        message = str(error)
        assert "\n" not in message
        assert any(name in message for name in flat) or "c.yaml:" in message


@given(text=st.binary() | st.text().map(str.encode))
def test_nothing_but_a_configuration_error_comes_out(folder: Path, text: bytes) -> None:
    try:
        load_text(folder, text)
    except ConfigurationError as error:
        assert str(folder) in str(error)  # noqa: PT017  # it need not be raised
