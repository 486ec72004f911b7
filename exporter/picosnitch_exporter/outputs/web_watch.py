"""The rules of the web configuration file, always the newest that are right.

Whether the file, or one that it names, has changed is looked at for every connection. One that has
become wrong leaves the old rules in force. What reads it, YAML with it, is imported only where
there is a file: it takes 1 MB of memory.
"""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from picosnitch_exporter import catalog
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.outputs.web_rules import Signature, WebRules, signature_of
from picosnitch_exporter.state.health import Health

if TYPE_CHECKING:
    from picosnitch_exporter.outputs.basic_auth import Authenticator

_log = logging.getLogger(__name__)


class WebConfig:
    """The rules of the file, always the newest that are right; none without a file.

    Raises
    ------
    ConfigurationError
        from the constructor: names the file and the key.
    """

    def __init__(self, *, path: Path | None, health: Health) -> None:
        self._path = path
        self._health = health
        self._authenticator: Authenticator | None = None
        self._lock = threading.Lock()
        self._signatures: dict[Path, Signature] = {}
        self._rules = WebRules()
        if path is not None:
            from picosnitch_exporter.outputs import basic_auth, web_config

            self._authenticator = basic_auth.Authenticator()
            self._rules = web_config.load(path, self._signatures)

    def current(self) -> WebRules:
        """Look whether a file has changed, and give the rules for a new connection."""
        if self._path is None:
            return self._rules
        with self._lock:
            if any(signature_of(path) != seen for path, seen in self._signatures.items()):
                self._reload(self._path)
            return self._rules

    def authenticate(self, rules: WebRules, authorization: str, *, timeout_seconds: float) -> bool:
        """As `Authenticator.allows`, for the users of the rules."""
        if self._authenticator is None:
            return True
        return self._authenticator.allows(
            rules.users, authorization, timeout_seconds=timeout_seconds
        )

    def _reload(self, path: Path) -> None:
        from picosnitch_exporter.outputs.web_config import load

        signatures: dict[Path, Signature] = {}
        try:
            self._rules = load(path, signatures)
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is to be served
            # The files of the old rules stay watched as well. None is read again until it changes.
            signatures = {
                **{old: signature_of(old) for old in self._signatures},
                **signatures,
            }
            self._health.count(catalog.WEB_CONFIG_RELOADS, ("failure",))
            _log.error(Event("web_config_kept", {"error": str(error)}))
        else:
            self._health.count(catalog.WEB_CONFIG_RELOADS, ("success",))
            _log.info(Event("web_config_reloaded", {"file": str(path)}))
        self._signatures = signatures
