"""From the file, the flags and the environment to `Settings`: strict, all or nothing."""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from picosnitch_exporter.config import document, files
from picosnitch_exporter.config.document import Located, Plain
from picosnitch_exporter.config.keys import (
    BY_NAME,
    BY_PICOSNITCH,
    IN_FILE,
    INERT,
    KEYS,
    Key,
    value_of,
)
from picosnitch_exporter.config.kinds import Secret
from picosnitch_exporter.config.sql_server import is_secret_parameter
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.settings import ServerSettings, Settings

DEFAULT_FILE = Path("/etc/picosnitch-exporter/config.yaml")
"""Read where no file is named and this one exists."""

_Group = TypeVar("_Group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What loading came to."""

    settings: Settings
    source: Path | None
    """The file that was read."""
    notices: tuple[str, ...]
    """What the operator should hear, although it is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A value that somebody gave, and how to name it in a message."""

    key: Key
    written: str
    """The name in the way it was used: nested, picosnitch's, or the flag."""
    where: str
    """`config.yaml:12: `, or empty for a flag."""
    value: Plain
    base: Path
    """What a relative path is relative to."""

    def error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self.where}{self.written}: {problem}")


def load(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, Plain],
) -> Loaded:
    """The settings of a file (None: the default one, if it exists), under those of the flags.

    `overrides` has nested names. Relative paths are taken from the file's folder, those of flags
    from the working directory. Raises ConfigurationError; the message names file, line and key.
    """
    if path is None and files.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    given: dict[str, _Given] = {}
    notices: list[str] = []
    if path is not None:
        given = _read_file(path, notices)
    for name, value in overrides.items():
        key = BY_NAME[name]
        flag = key.flag or name
        base = _working_folder()
        given[name] = _Given(key=key, written=flag, where="", value=value, base=base)
    settings = Settings()
    for item in given.values():
        settings = _replaced(settings, item.key.path, _parsed(item))
    settings = _with_credentials(settings, environment)
    settings = _with_secrets(settings, given)
    return Loaded(settings=settings, source=path, notices=tuple(notices))


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise ConfigurationError("the working directory is gone: change to another one") from error


def _read_file(path: Path, notices: list[str]) -> dict[str, _Given]:
    content = files.read(path)
    top = document.parse(content.text, source=str(path))
    given: dict[str, _Given] = {}
    for written, key, located in _settings_in(top, path, notices):
        item = _Given(
            key=key,
            written=written,
            where=f"{path}:{located.line}: ",
            value=located.plain(),
            base=path.absolute().parent,
        )
        if key.name in given:
            first = given[key.name].written
            raise item.error(f"is the same setting as {first}, which is set too: remove one")
        given[key.name] = item
    secrets = [item.written for item in given.values() if _holds_secret(item)]
    files.refuse_readable(path, content.mode, secrets=secrets)
    return given


def _settings_in(
    top: dict[str, Located], path: Path, notices: list[str]
) -> list[tuple[str, Key, Located]]:
    """(name as written, key, value) of all that a file sets."""
    found: list[tuple[str, Key, Located]] = []
    for name, located in top.items():
        if key := BY_PICOSNITCH.get(name):
            found.append((name, key, located))
        elif name in INERT:
            notices.append(
                f"{path}:{located.line}: {name}: belongs to picosnitch's own interface and does "
                "nothing here"
            )
        else:
            found.extend(_nested(name, located, path))
    return found


_NESTED = {key.name: key for key in IN_FILE}
_GROUPS = {".".join(key.path[:length]) for key in IN_FILE for length in range(1, len(key.path))}


def _nested(name: str, located: Located, path: Path) -> list[tuple[str, Key, Located]]:
    if key := _NESTED.get(name):
        return [(name, key, located)]
    if name not in _GROUPS:
        raise ConfigurationError(f"{path}:{located.line}: {name}: {_unknown(name)}")
    if located.value is None:
        return []  # all of its keys are commented out
    if not isinstance(located.value, dict):
        raise ConfigurationError(
            f"{path}:{located.line}: {name}: must be a group of settings: {_members(name)}"
        )
    # A name with a dot in it would otherwise be taken for two levels.
    for inner, item in located.value.items():
        if "." in inner:
            raise ConfigurationError(f"{path}:{item.line}: {name}: {_unknown(inner)}")
    return [
        setting
        for inner, item in located.value.items()
        for setting in _nested(f"{name}.{inner}", item, path)
    ]


def _members(group: str) -> str:
    return ", ".join(name.removeprefix(f"{group}.") for name in _NESTED if name.startswith(group))


def _unknown(name: str) -> str:
    """What to say about a key that does not exist."""
    last = name.rpartition(".")[2]
    # A setting that stands in the wrong group, or at the top, is found by its last part.
    same = [known for known in _NESTED if known.rpartition(".")[2] == last]
    known_names = [*_NESTED, *_GROUPS, *BY_PICOSNITCH, *INERT]
    by_lower = {known.lower(): known for known in known_names}
    near = difflib.get_close_matches(name[:80].lower(), by_lower, n=1, cutoff=0.6)
    candidates = same or [by_lower[match] for match in near]
    hint = f"did you mean {' or '.join(repr(item) for item in candidates)}?" if candidates else ""
    return f"unknown key: {hint or 'docs/configuration.md lists them all'}"


def _parsed(item: _Given) -> object:
    try:
        value = item.key.kind.parse(item.value)
    except ValueError as error:
        raise item.error(str(error)) from error
    if isinstance(value, Path):
        return item.base / value
    if isinstance(value, ServerSettings) and value.password_file is not None:
        return dataclasses.replace(value, password_file=item.base / value.password_file)
    return value


def _holds_secret(item: _Given) -> bool:
    if isinstance(item.key.kind, Secret):
        return bool(item.value)
    if isinstance(item.value, dict):
        return any(value and is_secret_parameter(name) for name, value in item.value.items())
    return False


def _with_credentials(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Credentials of systemd as the files of secrets that are not set otherwise.

    https://systemd.io/CREDENTIALS/: an absolute folder that only the service can read.
    """
    folder = Path(environment.get("CREDENTIALS_DIRECTORY", ""))
    for key in KEYS:
        if key.credential is None or key.fills is None or not folder.is_absolute():
            continue
        if value_of(settings, key) or value_of(settings, BY_NAME[key.fills]):
            continue
        if files.exists(folder / key.credential):
            settings = _replaced(settings, key.path, folder / key.credential)
    return settings


def _with_secrets(settings: Settings, given: Mapping[str, _Given]) -> Settings:
    """The contents of the files that hold secrets, in the settings that they are for."""
    for key in KEYS:
        path = value_of(settings, key)
        if key.fills is None or not isinstance(path, Path):
            continue
        target = BY_NAME[key.fills]
        if value_of(settings, target):
            other = given[target.name].written
            raise given[key.name].error(f"is set together with {other}: remove one of them")
        settings = _replaced(settings, target.path, _checked(target, _secret(key.name, path), path))
    server = settings.log.server
    if server is not None and server.password_file is not None:
        password = ("password", _secret("log.server.password_file", server.password_file))
        server = dataclasses.replace(server, parameters=(*server.parameters, password))
        settings = _replaced(settings, ("log", "server"), server)
    return settings


def _secret(name: str, path: Path) -> str:
    try:
        return files.read_secret(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _checked(target: Key, secret: str, path: Path) -> object:
    try:
        return target.kind.parse(secret)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {target.name}: {error}") from error


def _replaced(group: _Group, path: tuple[str, ...], value: object) -> _Group:
    """The frozen settings with one of them changed."""
    name, *rest = path
    if rest:
        value = _replaced(getattr(group, name), tuple(rest), value)
    return dataclasses.replace(group, **{name: value})  # type: ignore[type-var]
