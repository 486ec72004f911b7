"""`--web.config.file`, in the format of Prometheus's exporter-toolkit, to the rules in force.

Source: exporter-toolkit, docs/web-configuration.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picosnitch_exporter.config import files
from picosnitch_exporter.config.document import Located, parse
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.outputs.basic_auth import is_bcrypt_hash
from picosnitch_exporter.outputs.tls import TlsSettings, make_context
from picosnitch_exporter.outputs.web_rules import Signature, WebRules, signature_of

_TOP = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_TLS_TEXTS = (
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_ca",
    "client_ca_file",
    "client_auth_type",
    "min_version",
    "max_version",
)
_TLS_LISTS = ("client_allowed_sans", "cipher_suites", "curve_preferences")
_TLS_SWITCH = "prefer_server_cipher_suites"
# The headers that may be set, and their values where not any will do.
_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

_log = logging.getLogger(__name__)


def check_web_config(path: Path) -> None:
    """Raise ConfigurationError if `run` would refuse the file, for `check-config` and `doctor`."""
    load(path, {})


def files_in_use(path: Path) -> tuple[Path, ...]:
    """The file and those that it names, which `WebConfig` reads again when they change.

    Raises
    ------
    ConfigurationError
        if `run` would refuse the file.
    """
    signatures: dict[Path, Signature] = {}
    load(path, signatures)
    return tuple(signatures)


def load(path: Path, signatures: dict[Path, Signature]) -> WebRules:
    """Read the file; `signatures` gets what was found on the disk before each file was read."""
    signatures[path] = signature_of(path)
    try:
        text = files.read(path).text
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; see --web.config.file") from error
    source = _Source(path=path)
    top = parse(text, source=str(path))
    source.only(top, _TOP, "")
    tls = _tls_settings(source, source.mapping(top, "tls_server_config"))
    http = source.mapping(top, "http_server_config")
    source.only(http, ("http2", "headers"), "http_server_config.")
    if source.switch(http, "http2", "http_server_config."):
        _log.info(_ignored("http_server_config.http2", "only HTTP/1.1 is served"))
    if source.mapping(top, "rate_limit"):
        _log.warning(_ignored("rate_limit", "connections are bounded instead"))
    headers = _headers(source, source.mapping(http, "headers", "http_server_config."))
    users = _users(source, source.mapping(top, "basic_auth_users"))
    if tls is None:
        return WebRules(headers=headers, users=users)
    signatures.update({file: signature_of(file) for file in tls.files})
    try:
        context = make_context(tls)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if len(tls.curve_preferences) > 1:
        key = "tls_server_config.curve_preferences"
        _log.warning(_ignored(key, "only a single curve can be set"))
    return WebRules(
        tls=context, client_allowed_sans=tls.client_allowed_sans, headers=headers, users=users
    )


def _ignored(key: str, reason: str) -> Event:
    return Event("web_config_ignored", {"key": key, "reason": reason})


def _tls_settings(source: "_Source", values: dict[str, Located]) -> TlsSettings | None:
    if not values:
        return None
    prefix = "tls_server_config."
    source.only(values, (*_TLS_TEXTS, *_TLS_LISTS, _TLS_SWITCH), prefix)
    texts = {key: source.text(values, key, prefix) for key in _TLS_TEXTS}
    lists = {key: source.texts(values, key, prefix) for key in _TLS_LISTS}
    certificate = source.path_or_text(texts, "cert", prefix)
    key = source.path_or_text(texts, "key", prefix)
    if certificate is None or key is None:
        missing = "cert_file" if certificate is None else "key_file"
        raise source.wrong(f"{prefix}{missing}", "missing: TLS needs a certificate and its key")
    preference = source.switch(values, _TLS_SWITCH, prefix)
    return TlsSettings(
        certificate=certificate,
        key=key,
        client_ca=source.path_or_text(texts, "client_ca", prefix),
        client_auth_type=texts["client_auth_type"],
        client_allowed_sans=lists["client_allowed_sans"],
        min_version=texts["min_version"] or "TLS12",
        max_version=texts["max_version"] or "TLS13",
        cipher_suites=lists["cipher_suites"],
        curve_preferences=lists["curve_preferences"],
        prefer_server_cipher_suites=True if preference is None else preference,
    )


def _headers(source: "_Source", values: dict[str, Located]) -> dict[str, str]:
    prefix = "http_server_config.headers."
    source.only(values, tuple(_HEADERS), prefix)
    headers = {}
    for name in values:
        text = source.text(values, name, prefix)
        allowed = _HEADERS[name]
        if not text:  # unset if blank, as the toolkit has it
            continue
        if allowed and text not in allowed:
            raise source.wrong(prefix + name, f"must be {' or '.join(allowed)}, not {text!r}")
        if not (text.isascii() and text.isprintable()):
            raise source.wrong(prefix + name, "must be printable ASCII")
        headers[name] = text
    return headers


def _users(source: "_Source", values: dict[str, Located]) -> dict[str, str]:
    prefix = "basic_auth_users."
    users = {}
    for name in values:
        hashed = source.text(values, name, prefix)
        if not name or ":" in name or "\0" in name:
            raise source.wrong(prefix + name, "a user name must not be empty or contain ':'")
        if not is_bcrypt_hash(hashed):
            raise source.wrong(
                prefix + name, "must be a bcrypt hash; `htpasswd -nBC 10 USER` makes one"
            )
        users[name] = hashed
    return users


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where values come from, and how to say what is wrong with them."""

    path: Path

    def wrong(self, key: str, problem: str, *, line: int | None = None) -> ConfigurationError:
        where = str(self.path) if line is None else f"{self.path}:{line}"
        return ConfigurationError(f"{where}: {key}: {problem}")

    def only(self, values: Mapping[str, Located], known: tuple[str, ...], prefix: str) -> None:
        for key, located in values.items():
            if key not in known:
                raise self.wrong(
                    prefix + key, f"unknown key; known are {', '.join(known)}", line=located.line
                )

    def mapping(
        self, values: Mapping[str, Located], key: str, prefix: str = ""
    ) -> dict[str, Located]:
        located = values.get(key)
        if located is None or located.value is None:
            return {}
        if not isinstance(located.value, dict):
            raise self.wrong(prefix + key, "must hold 'key: value' lines", line=located.line)
        return located.value

    def text(self, values: Mapping[str, Located], key: str, prefix: str) -> str:
        located = values.get(key)
        if located is None or located.value is None:
            return ""
        if not isinstance(located.value, str):
            raise self.wrong(prefix + key, "must be text; put it in quotes", line=located.line)
        return located.value

    def texts(self, values: Mapping[str, Located], key: str, prefix: str) -> tuple[str, ...]:
        located = values.get(key)
        if located is None or located.value is None:
            return ()
        items = located.plain()
        if not isinstance(items, list):
            raise self.wrong(prefix + key, "must be a list", line=located.line)
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            raise self.wrong(prefix + key, "must be a list of texts", line=located.line)
        return texts

    def switch(self, values: Mapping[str, Located], key: str, prefix: str) -> bool | None:
        located = values.get(key)
        if located is None or located.value is None:
            return None
        if not isinstance(located.value, bool):
            raise self.wrong(prefix + key, "must be true or false", line=located.line)
        return located.value

    def path_or_text(self, texts: Mapping[str, str], key: str, prefix: str) -> Path | str | None:
        text, file = texts[key], texts[f"{key}_file"]
        if text and file:
            raise self.wrong(f"{prefix}{key}_file", f"stands beside {key}: leave one of them")
        if file:
            # Relative to the file that names it, as the toolkit has it.
            return self.path.parent / file
        return text or None
