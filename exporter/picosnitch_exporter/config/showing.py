"""The settings in effect, as a configuration file."""

import yaml

from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.keys import BY_NAME, IN_FILE, Key, value_of
from picosnitch_exporter.settings import Settings


def show(settings: Settings) -> str:
    """YAML with every nested key and its value; secrets hidden.

    Loading it gives the same settings, except for the secrets that are hidden.
    """
    top: dict[str, Plain] = {}
    for key in IN_FILE:
        group = top
        for name in key.path[:-1]:
            inner = group.setdefault(name, {})
            assert isinstance(inner, dict)  # noqa: S101  # no setting is a group too
            group = inner
        group[key.path[-1]] = _plain(settings, key)
    # ASCII: a raw U+0085 would come back as a line break, and no terminal obeys an escaped one.
    # yaml has no type for what it returns without a stream.
    text: str = yaml.safe_dump(top, sort_keys=False, width=100)
    return text


def _plain(settings: Settings, key: Key) -> Plain:
    if key.name in _FILLED_BY and value_of(settings, _FILLED_BY[key.name]):
        return key.kind.plain(key.default)  # the path of its file is shown instead
    return key.kind.plain(value_of(settings, key))


_FILLED_BY = {key.fills: key for key in BY_NAME.values() if key.fills is not None}
