"""A mapping bounded by entries and by bytes, from which what is used least recently goes first."""

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values with what the names in them weigh, in bytes. The latest one stays, however heavy."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """The value, which is used thereby; None where there is none."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def pop(self, key: Key) -> Value | None:
        """The value, which is in here no more."""
        found = self._entries.pop(key, None)
        if found is None:
            return None
        self._bytes -= found[1]
        return found[0]

    def put(self, key: Key, value: Value, *, weight_bytes: int) -> None:
        """Keeps the value in place of the one before."""
        _before, before_bytes = self._entries.get(key, (None, 0))
        self._entries[key] = (value, weight_bytes)
        self._entries.move_to_end(key)
        self._bytes += weight_bytes - before_bytes
        while len(self._entries) > self._max_entries or (
            self._bytes > self._max_bytes and len(self._entries) > 1
        ):
            _key, (_value, gone_bytes) = self._entries.popitem(last=False)
            self._bytes -= gone_bytes
