"""Basic authentication against bcrypt hashes, at the price of one hash per user and not per scrape.

Source: RFC 7617. An unknown user costs what a known one does, so that the time does not tell
which names exist.
"""

import base64
import binascii
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping

CACHED_LOGINS = 128
_MAX_PASSWORD_BYTES = 72
"""bcrypt looks at no more, and bcrypt 5 refuses what other implementations cut."""
_HASH = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
_COSTS = range(4, 32)
_CREDENTIALS = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


def is_bcrypt_hash(text: str) -> bool:
    """Tell whether a password can be checked against it."""
    match = _HASH.fullmatch(text)
    return match is not None and int(match[1]) in _COSTS


class Authenticator:
    """Checks Authorization headers; any number of threads may ask at once."""

    def __init__(self) -> None:
        # A login that was right is remembered by this key, which nobody outside can know.
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, None] = OrderedDict()
        # One hash at a time: guessing must not take all processors.
        self._hashing = threading.Lock()

    def allows(
        self, users: Mapping[str, str], authorization: str, *, timeout_seconds: float
    ) -> bool:
        """Tell whether the header names a user and the password; `users` maps names to hashes.

        Raises
        ------
        TimeoutError
            if others' logins are still being checked at the end of the time.
        """
        if not users:
            return True
        credentials = _decoded(authorization)
        if credentials is None:
            return False
        user, password = credentials
        known = users.get(user)
        proof = self._proof(user, known or "", password)
        with self._lock:
            if proof in self._right:
                self._right.move_to_end(proof)
                return True
        if not self._hashing.acquire(timeout=timeout_seconds):
            raise TimeoutError("too many logins at once")
        try:
            matches = _matches(password, known or _dummy(users))
        finally:
            self._hashing.release()
        if known is None or not matches:
            return False
        with self._lock:
            self._right[proof] = None
            while len(self._right) > CACHED_LOGINS:
                self._right.popitem(last=False)
        return True

    def _proof(self, user: str, known: str, password: bytes) -> bytes:
        # With the hash in it, so that a changed password ends what was remembered. A user name
        # has no NUL: `_decoded` sees to it.
        text = b"\0".join((user.encode(), known.encode(), password))
        return hmac.digest(self._key, text, "sha256")


def _decoded(authorization: str) -> tuple[str, bytes] | None:
    match = _CREDENTIALS.fullmatch(authorization)
    if not match:
        return None
    try:
        user, colon, password = base64.b64decode(match[1], validate=True).partition(b":")
        name = user.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon and "\0" not in name else None


def _dummy(users: Mapping[str, str]) -> str:
    cost = max(hashed[4:6] for hashed in users.values())
    return f"$2b${cost}${'.' * 53}"


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password[:_MAX_PASSWORD_BYTES], hashed.encode())
    except ValueError:  # a NUL in the password, which older releases refuse
        return False
