"""Names of addresses, as many as there is room for."""

from collections import OrderedDict

from picosnitch_exporter.model import ProcessKey

MAX_NAMES = 65_536
"""Of addresses, each for a process or a network namespace: 32 MB if there were so many."""
MAX_CHARACTERS = 4 << 20
"""Of all these names; most have 10 to 40, hostile ones up to 1,000."""

Holder = ProcessKey | int
"""Who knows a name: a process, or whoever is in a network namespace, by its number."""


class NameTable:
    """Names by who knows them and address; those unused for longest go first beyond a bound."""

    def __init__(self, *, max_names: int = MAX_NAMES, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_names = max_names
        self._max_characters = max_characters
        self._names: OrderedDict[tuple[Holder, str], tuple[str, float]] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._names)

    def put(self, holder: Holder, address: str, domain: str, *, expires_seconds: float) -> int:
        """Keeps the latest name of an address; how many others had to go for it."""
        key = (holder, address)
        self._drop(key)
        self._names[key] = (domain, expires_seconds)
        self._characters += len(domain)
        dropped = 0
        while len(self._names) > self._max_names or self._characters > self._max_characters:
            _key, (old, _expires) = self._names.popitem(last=False)
            self._characters -= len(old)
            dropped += 1
        return dropped

    def get(self, holder: Holder, address: str, *, now_seconds: float) -> str:
        """The name, empty where there is none or none any more."""
        key = (holder, address)
        found = self._names.get(key)
        if found is None:
            return ""
        domain, expires_seconds = found
        if expires_seconds < now_seconds:
            self._drop(key)
            return ""
        self._names.move_to_end(key)
        return domain

    def _drop(self, key: tuple[Holder, str]) -> None:
        found = self._names.pop(key, None)
        if found is not None:
            self._characters -= len(found[0])
