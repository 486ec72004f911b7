"""`tls_server_config` of the web configuration file to an SSLContext.

Source: exporter-toolkit, docs/web-configuration.md; names are those of Go's crypto/tls.
"""

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from picosnitch_exporter.config import files
from picosnitch_exporter.errors import ConfigurationError

_Value = TypeVar("_Value")

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTH = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_TLS13_SUITES = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
_CIPHER_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """The values of the file. Each of certificate, key and CA is a path or the PEM text itself."""

    certificate: Path | str
    key: Path | str
    client_ca: Path | str | None = None
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    curve_preferences: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """What has to be read again when it changes."""
        sources = (self.certificate, self.key, self.client_ca)
        return tuple(source for source in sources if isinstance(source, Path))


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Read certificate, key and CA, and set up a server's context.

    Raises
    ------
    ConfigurationError
        that names the key, if a value is unknown or a file can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _set_versions(context, settings)
    _set_ciphers(context, settings)
    _set_client_auth(context, settings)
    with (
        _as_path(settings.certificate, "cert_file") as certificate,
        _as_path(settings.key, "key_file") as key,
    ):
        try:
            # An encrypted key must not ask for its password on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise _wrong(
                "cert_file", f"certificate and key can't be used together: {error}"
            ) from error
    return context


def check_sans(connection: ssl.SSLSocket, allowed: tuple[str, ...]) -> None:
    """Compare the client's certificate with `client_allowed_sans`; nothing to do without any.

    Raises
    ------
    ssl.SSLCertVerificationError
        if none of its names is allowed.
    """
    if not allowed:
        return
    certificate = connection.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    for name in names:
        if isinstance(name, tuple) and _normalised(str(name[1]).strip()) in map(
            _normalised, allowed
        ):
            return
    raise ssl.SSLCertVerificationError("the client's certificate has no allowed name")


def _set_versions(context: ssl.SSLContext, settings: TlsSettings) -> None:
    lowest = _choice(_VERSIONS, settings.min_version, "min_version")
    highest = _choice(_VERSIONS, settings.max_version, "max_version")
    if lowest > highest:
        raise _wrong("max_version", f"{settings.max_version} is below {settings.min_version}")
    context.minimum_version = lowest
    context.maximum_version = highest


def _set_ciphers(context: ssl.SSLContext, settings: TlsSettings) -> None:
    if not settings.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    known = {**_CIPHER_SUITES, **dict.fromkeys(_TLS13_SUITES, "")}
    names = [_choice(known, name, "cipher_suites") for name in settings.cipher_suites]
    older = [name for name in names if name]
    if older:
        context.set_ciphers(":".join(older))
    elif names:
        # As with Go: suites of TLS 1.3 can't be chosen, but without others 1.2 has none.
        if context.maximum_version < ssl.TLSVersion.TLSv1_3:
            raise _wrong("cipher_suites", "none of them is for TLS 1.2, which is max_version")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    curves = [_choice(_CURVES, name, "curve_preferences") for name in settings.curve_preferences]
    if len(curves) == 1:
        # For more than one, Python has no call: all of OpenSSL's are offered (see web_config).
        context.set_ecdh_curve(curves[0])


def _set_client_auth(context: ssl.SSLContext, settings: TlsSettings) -> None:
    policy = settings.client_auth_type
    if policy in {"RequestClientCert", "RequireAnyClientCert", "RequireClientCert"}:
        raise _wrong(
            "client_auth_type",
            f"{policy} does not verify anything and is not supported; "
            "use RequireAndVerifyClientCert",
        )
    mode = _choice(_CLIENT_AUTH, policy, "client_auth_type")
    if settings.client_ca is None:
        if mode is not ssl.CERT_NONE:
            raise _wrong("client_ca_file", f"missing, but client_auth_type is {policy}")
    elif mode is ssl.CERT_NONE:
        raise _wrong("client_auth_type", "set it to RequireAndVerifyClientCert to use the CA")
    if settings.client_allowed_sans and mode is not ssl.CERT_REQUIRED:
        raise _wrong("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    if settings.client_ca is not None:
        with _as_path(settings.client_ca, "client_ca_file") as path:
            try:
                context.load_verify_locations(path)
            except (OSError, ValueError) as error:
                raise _wrong(
                    "client_ca_file", f"not a PEM file of certificates: {error}"
                ) from error
    context.verify_mode = mode


@contextlib.contextmanager
def _as_path(source: Path | str, key: str) -> Iterator[str]:
    """Give a path, which is what OpenSSL takes, also for PEM text, without putting it on a disk."""
    if isinstance(source, Path):
        try:
            # OpenSSL waits at a FIFO, and reads a device without end.
            files.check(source)
        except ConfigurationError as error:
            raise _wrong(key, str(error)) from error
        yield str(source)
        return
    descriptor = os.memfd_create("picosnitch-pem")
    try:
        with os.fdopen(os.dup(descriptor), "w") as file:
            file.write(source)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _choice(values: Mapping[str, _Value], name: str, key: str) -> _Value:
    try:
        return values[name]
    except KeyError:
        raise _wrong(
            key, f"{name!r} is unknown; known are {', '.join(filter(None, values))}"
        ) from None


def _normalised(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _wrong(key: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"tls_server_config.{key}: {problem}")
