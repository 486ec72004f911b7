import base64
import contextlib
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.config import files
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.outputs import basic_auth
from picosnitch_exporter.outputs.basic_auth import CACHED_LOGINS, Authenticator
from picosnitch_exporter.outputs.http import WebServer
from picosnitch_exporter.outputs.listen import bind
from picosnitch_exporter.outputs.tls import check_sans
from picosnitch_exporter.outputs.web_config import check_web_config
from picosnitch_exporter.outputs.web_rules import WebRules
from picosnitch_exporter.outputs.web_watch import WebConfig
from picosnitch_exporter.settings import WebSettings
from picosnitch_exporter.state.health import Health
from tests.unit.snapshots import snapshot

TIMEOUT_SECONDS = 10.0
SECRET = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()


@dataclass(frozen=True, kw_only=True)
class Certificates:
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def context(self, client: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.path("ca.pem")))
        if client is not None:
            context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        return context


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def issue(folder: Path, name: str, names: str, *, signed: bool = True) -> None:
    """`folder/name.pem` and `.key`; signed by `ca.pem` or by itself."""
    signer: list[str | Path] = []
    if signed:
        signer = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key"]
    constraint = "critical,CA:FALSE" if signed else "critical,CA:TRUE"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"),
        *("-addext", f"basicConstraints={constraint}"),
        *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
        *signer,
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    issue(folder, "ca", "DNS:ca.example", signed=False)
    issue(folder, "server", "DNS:localhost,IP:127.0.0.1")
    issue(folder, "renewed", "DNS:localhost,IP:127.0.0.1,DNS:renewed.example")
    issue(folder, "scraper", "DNS:scraper.example,IP:::1,URI:spiffe://example/scraper")
    issue(folder, "stranger", "DNS:stranger.example,email:a@example.com")
    return Certificates(folder=folder)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "web-config.yml"


class Server:
    def __init__(self, config_file: Path) -> None:
        self.health = Health()
        self.server = WebServer(
            sockets=bind(["127.0.0.1:0"]),
            snapshot=snapshot,
            health=self.health,
            readiness=lambda: None,
            settings=WebSettings(config_file=config_file),
            failed=lambda _error: None,
            version="1",
        )
        self.server.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.addresses[0], timeout=TIMEOUT_SECONDS)

    def get(
        self, path: str = "/-/healthy", *headers: str, context: ssl.SSLContext | None = None
    ) -> tuple[int, str]:
        """Status and the rest of the answer."""
        request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""])
        with self.connect() as plain:
            client = context.wrap_socket(plain, server_hostname="localhost") if context else plain
            with client:
                client.sendall(request.encode())
                received = b""
                while some := client.recv(65536):
                    received += some
        status, _space, rest = received.decode().removeprefix("HTTP/1.1 ").partition(" ")
        return int(status), rest

    def wait_for_drop(self, reason: str) -> None:
        """The client may see the alert before the server has ended the connection."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        pause = threading.Event()
        while self.counted(catalog.HTTP_CONNECTIONS_DROPPED)[(reason,)] != 1:
            assert time.monotonic() < deadline, f"never dropped for {reason}"
            pause.wait(0.005)

    def counted(self, metric: catalog.Metric) -> dict[tuple[str, ...], float]:
        for family in self.health.collect():
            if family.metric is metric:
                return {one.labels: one.value for one in family.readings}
        return {}


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Those that the test puts here are closed at its end."""
    started: list[Server] = []
    yield started
    for server in started:
        server.server.close()


def serve(servers: list[Server], config_file: Path, text: str) -> Server:
    config_file.write_text(text)
    servers.append(Server(config_file))
    return servers[-1]


def login(user: str, password: str | bytes) -> str:
    raw = password if isinstance(password, bytes) else password.encode()
    return "Basic " + base64.b64encode(user.encode() + b":" + raw).decode()


def replace(file: Path, content: str | bytes) -> None:
    """As editors and cert-manager do: a new file under the old name."""
    new = file.with_suffix(".new")
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    new.replace(file)


def tls_section(certificates: Certificates, *more: str, name: str = "server") -> str:
    lines = [
        "tls_server_config:",
        f"  cert_file: {certificates.path(name + '.pem')}",
        f"  key_file: {certificates.path(name + '.key')}",
        *(f"  {line}" for line in more),
        "",
    ]
    return "\n".join(lines)


def test_everything_is_served_when_the_file_is_empty(
    servers: list[Server], config_file: Path
) -> None:
    server = serve(servers, config_file, "")
    assert server.get("/metrics")[0] == 200


def test_tls_is_spoken_when_a_certificate_is_given(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    server = serve(servers, config_file, tls_section(certificates))
    status, rest = server.get("/metrics", context=certificates.context())
    assert status == 200
    assert rest.endswith("0\r\n\r\n")
    assert server.get(context=certificates.context())[0] == 200


def test_paths_are_relative_to_the_file_when_not_absolute(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    for name in ("server.pem", "server.key"):
        (config_file.parent / name).write_bytes(certificates.path(name).read_bytes())
    text = "tls_server_config: {cert_file: server.pem, key_file: server.key}"
    server = serve(servers, config_file, text)
    assert server.get(context=certificates.context())[0] == 200


def test_certificate_may_stand_in_the_file_when_not_a_path(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    lines = ["tls_server_config:", "  client_auth_type: RequireAndVerifyClientCert"]
    for key, name in (("cert", "server.pem"), ("key", "server.key"), ("client_ca", "ca.pem")):
        text = certificates.path(name).read_text()
        lines += [f"  {key}: |", *(f"    {line}" for line in text.splitlines())]
    server = serve(servers, config_file, "\n".join(lines))
    assert server.get(context=certificates.context("scraper"))[0] == 200


def test_version_is_refused_when_below_the_minimum(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    server = serve(servers, config_file, tls_section(certificates, "min_version: TLS13"))
    old = certificates.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        server.get(context=old)
    assert server.get(context=certificates.context())[0] == 200
    server.wait_for_drop("tls")


def test_cipher_suite_is_used_when_chosen(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    server = serve(
        servers,
        config_file,
        tls_section(
            certificates,
            "max_version: TLS12",
            "cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]",
            "curve_preferences: [CurveP256]",
            "prefer_server_cipher_suites: false",
        ),
    )
    context = certificates.context()
    with (
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        assert (client.cipher() or ("",))[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        assert client.version() == "TLSv1.2"


def test_only_tls_1_3_is_spoken_when_all_chosen_suites_are_of_it(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    text = tls_section(certificates, "cipher_suites: [TLS_AES_128_GCM_SHA256]")
    server = serve(servers, config_file, text)
    old = certificates.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        server.get(context=old)


def test_plain_request_is_told_when_it_comes_to_a_tls_port(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    server = serve(servers, config_file, tls_section(certificates))
    status, rest = server.get()
    assert (status, "this port speaks HTTPS" in rest) == (400, True)


def test_client_is_refused_when_its_certificate_is_not_of_the_ca(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    text = tls_section(
        certificates,
        f"client_ca_file: {certificates.path('ca.pem')}",
        "client_auth_type: RequireAndVerifyClientCert",
    )
    server = serve(servers, config_file, text)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        server.get(context=certificates.context())
    assert server.get(context=certificates.context("scraper"))[0] == 200


@pytest.mark.parametrize("allowed", ["scraper.example", "::1", "spiffe://example/scraper"])
def test_client_is_refused_when_its_name_is_not_allowed(
    servers: list[Server], config_file: Path, certificates: Certificates, allowed: str
) -> None:
    text = tls_section(
        certificates,
        f"client_ca_file: {certificates.path('ca.pem')}",
        "client_auth_type: RequireAndVerifyClientCert",
        f"client_allowed_sans: ['{allowed}']",
    )
    server = serve(servers, config_file, text)
    assert server.get(context=certificates.context("scraper"))[0] == 200
    with pytest.raises((OSError, ValueError)):
        server.get(context=certificates.context("stranger"))
    server.wait_for_drop("tls")


def test_any_client_is_allowed_when_no_names_are_given(certificates: Certificates) -> None:
    with socket.socket() as plain:
        unconnected = certificates.context().wrap_socket(plain, server_hostname="localhost")
        check_sans(unconnected, ())
        unconnected.close()


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready", "/nowhere"])
def test_every_path_is_protected_when_there_are_users(
    servers: list[Server], config_file: Path, path: str
) -> None:
    server = serve(servers, config_file, f"basic_auth_users: {{alice: '{SECRET}'}}")
    status, rest = server.get(path)
    assert status == 401
    assert 'WWW-Authenticate: Basic realm="picosnitch-exporter"' in rest
    assert server.get(path, f"Authorization: {login('alice', 'secret')}")[0] != 401
    assert server.get(path, f"Authorization: {login('alice', 'wrong')}")[0] == 401


def test_scrape_is_answered_when_over_tls_with_a_login(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    text = f"{tls_section(certificates)}basic_auth_users: {{alice: '{SECRET}'}}"
    server = serve(servers, config_file, text)
    header = f"Authorization: {login('alice', 'secret')}"
    assert server.get("/metrics", header, context=certificates.context())[0] == 200


def allows(authenticator: Authenticator, users: dict[str, str], header: str) -> bool:
    return authenticator.allows(users, header, timeout_seconds=TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !",
        "Basic YWxpY2U=",  # no colon
        "Basic YWxpY2U6c2VjcmV0, Basic YWxpY2U6c2VjcmV0",
        "Bearer YWxpY2U6c2VjcmV0",
        "Basic YWxpY2U6c2VjcmV",  # cut base64
        login("alice", ""),
        login("alice", "Secret"),
        login("alice", "sec\0ret"),
        login("alice\0", "secret"),
        login("Alice", "secret"),
        login("", "secret"),
        "Basic " + base64.b64encode(b"\xff:secret").decode(),
    ],
)
def test_login_is_refused_when_wrong_or_malformed(header: str) -> None:
    assert not allows(Authenticator(), {"alice": SECRET}, header)


def test_login_is_not_needed_when_there_are_no_users() -> None:
    assert allows(Authenticator(), {}, "")


def test_login_is_right_when_the_hash_or_scheme_is_spelled_otherwise() -> None:
    users = {"bob": SECRET.replace("$2b$", "$2y$")}
    assert allows(Authenticator(), users, login("bob", "secret").replace("Basic", "basic "))


def test_login_is_refused_when_bcrypt_refuses_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As releases before 4.1 do where it has a NUL."""

    def refuse(_password: bytes, _hashed: bytes) -> bool:
        raise ValueError("NUL")

    monkeypatch.setattr(bcrypt, "checkpw", refuse)
    assert not allows(Authenticator(), {"bob": SECRET}, login("bob", "\0"))


def test_password_is_cut_at_72_bytes_when_longer() -> None:
    users = {"bob": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()}
    assert allows(Authenticator(), users, login("bob", b"x" * 100))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hashes that a password was compared with, in order."""
    compared: list[str] = []
    real = basic_auth._matches

    def noted(password: bytes, against: str) -> bool:
        compared.append(against)
        return real(password, against)

    monkeypatch.setattr(basic_auth, "_matches", noted)
    return compared


def test_right_login_costs_one_hash_when_repeated(hashed: list[str]) -> None:
    authenticator = Authenticator()
    users = {"alice": SECRET}
    assert all(allows(authenticator, users, login("alice", "secret")) for _ in range(3))
    assert hashed == [SECRET]
    assert not any(allows(authenticator, users, login("alice", "wrong")) for _ in range(2))
    assert len(hashed) == 3


def test_unknown_user_costs_the_dearest_hash_when_refused(hashed: list[str]) -> None:
    users = {"alice": SECRET, "bob": bcrypt.hashpw(b"x", bcrypt.gensalt(5)).decode()}
    assert not allows(Authenticator(), users, login("mallory", "secret"))
    assert [against[:7] for against in hashed] == ["$2b$05$"]
    # A real comparison, with which no password agrees.
    assert bcrypt.hashpw(b"secret", hashed[0][:29].encode())[:7] == b"$2b$05$"


def test_remembered_login_ends_when_the_password_changes() -> None:
    authenticator = Authenticator()
    assert allows(authenticator, {"alice": SECRET}, login("alice", "secret"))
    assert not allows(authenticator, {"alice": OTHER}, login("alice", "secret"))
    assert not allows(authenticator, {"bob": OTHER}, login("alice", "secret"))


def test_remembered_logins_are_bounded_when_there_are_many() -> None:
    authenticator = Authenticator()
    for number in range(CACHED_LOGINS + 5):
        assert allows(authenticator, {str(number): SECRET}, login(str(number), "secret"))
    assert len(authenticator._right) == CACHED_LOGINS


def test_login_times_out_when_others_are_being_checked() -> None:
    authenticator = Authenticator()
    with authenticator._hashing, pytest.raises(TimeoutError):
        authenticator.allows({"a": SECRET}, login("a", "secret"), timeout_seconds=0.01)


def test_headers_are_sent_when_set(servers: list[Server], config_file: Path) -> None:
    text = """
        http_server_config:
          http2: true
          headers:
            Strict-Transport-Security: max-age=1
            X-Frame-Options: deny
            X-XSS-Protection: ''
            Content-Security-Policy: default-src 'self'
    """
    server = serve(servers, config_file, text)
    _status, rest = server.get("/")
    for line in (
        "Strict-Transport-Security: max-age=1",
        "X-Frame-Options: deny",
        "Content-Security-Policy: default-src 'self'",
        "X-Content-Type-Options: nosniff",
    ):
        assert rest.count(f"\r\n{line}\r\n") == 1
    assert "X-XSS-Protection" not in rest


def test_new_rules_apply_when_the_file_changes(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    server = serve(servers, config_file, f"basic_auth_users: {{alice: '{SECRET}'}}")
    header = f"Authorization: {login('alice', 'secret')}"
    assert server.get("/", header)[0] == 200
    replace(config_file, f"basic_auth_users: {{alice: '{OTHER}'}}")
    assert server.get("/", header)[0] == 401
    replace(config_file, tls_section(certificates))
    assert server.get(context=certificates.context())[0] == 200
    assert server.counted(catalog.WEB_CONFIG_RELOADS) == {("success",): 2, ("failure",): 0}


def test_new_certificate_is_served_when_its_file_changes(
    servers: list[Server], config_file: Path, certificates: Certificates
) -> None:
    folder = config_file.parent
    for suffix in (".pem", ".key"):
        content = certificates.path("server" + suffix).read_bytes()
        (folder / f"current{suffix}").write_bytes(content)
    text = "tls_server_config: {cert_file: current.pem, key_file: current.key}"
    server = serve(servers, config_file, text)

    def served_names() -> set[str]:
        context = certificates.context()
        with (
            server.connect() as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            certificate = client.getpeercert() or {}
            return {str(name[1]) for name in certificate["subjectAltName"]}

    assert "renewed.example" not in served_names()
    replace(folder / "current.pem", certificates.path("renewed.pem").read_bytes())
    # Between the two files they don't fit together: the old pair stays.
    assert "renewed.example" not in served_names()
    replace(folder / "current.key", certificates.path("renewed.key").read_bytes())
    assert "renewed.example" in served_names()
    assert server.counted(catalog.WEB_CONFIG_RELOADS) == {("success",): 1, ("failure",): 1}


def test_old_rules_stay_when_the_file_becomes_wrong(
    config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_file.write_text(f"basic_auth_users: {{alice: '{SECRET}'}}")
    health = Health()
    config = WebConfig(path=config_file, health=health)
    replace(config_file, "basic_auth_users: {alice: plain}")
    with caplog.at_level(logging.ERROR):
        assert dict(config.current().users) == {"alice": SECRET}
        assert dict(config.current().users) == {"alice": SECRET}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "basic_auth_users.alice" in caplog.text
    config_file.unlink()
    assert dict(config.current().users) == {"alice": SECRET}
    replace(config_file, f"basic_auth_users: {{bob: '{SECRET}'}}")
    assert dict(config.current().users) == {"bob": SECRET}
    (reloads,) = (
        family.readings
        for family in health.collect()
        if family.metric is catalog.WEB_CONFIG_RELOADS
    )
    assert {one.labels: one.value for one in reloads} == {("success",): 1, ("failure",): 2}


def test_file_is_read_once_when_it_does_not_change(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.write_text("")
    config = WebConfig(path=config_file, health=Health())
    rules = config.current()
    monkeypatch.setattr(files, "read", None)
    assert config.current() is rules


def test_nobody_is_asked_when_there_is_no_file() -> None:
    assert WebConfig(path=None, health=Health()).current() == WebRules()


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        ("unknown: unknown key", "unknown: 1"),
        ("tls_server_config: must hold", "tls_server_config: 1"),
        ("tls_server_config.certificate: unknown key", "tls_server_config: {certificate: x}"),
        ("tls_server_config.cert_file: missing", "tls_server_config: {min_version: TLS12}"),
        ("tls_server_config.key_file: missing", "tls_server_config: {cert_file: x}"),
        ("tls_server_config.cert_file: must be text", "tls_server_config: {cert_file: 1}"),
        (
            "tls_server_config.cert_file: stands beside cert",
            "tls_server_config: {cert_file: x, cert: x}",
        ),
        (
            "tls_server_config.cert_file: .*/x: can't be read: No such file",
            "tls_server_config: {cert_file: x, key_file: x}",
        ),
        (
            r"tls_server_config.cert_file: '.*/a\\x00b': is not the name of a file",
            'tls_server_config: {cert_file: "a\\0b", key_file: x}',
        ),
        (
            "tls_server_config.cert_file: /dev/null: is not a regular file",
            "tls_server_config: {cert_file: /dev/null, key_file: x}",
        ),
        (
            "tls_server_config.cipher_suites: must be a list",
            "tls_server_config: {cipher_suites: x}",
        ),
        (
            "tls_server_config.cipher_suites: must be a list of texts",
            "tls_server_config: {cipher_suites: [1]}",
        ),
        ("http_server_config.http2: must be true or false", "http_server_config: {http2: 1}"),
        ("http_server_config.http3: unknown key", "http_server_config: {http3: true}"),
        (
            "http_server_config.headers.Server: unknown key",
            "http_server_config: {headers: {Server: x}}",
        ),
        (
            "http_server_config.headers.X-Frame-Options: must be deny or sameorigin",
            "http_server_config: {headers: {X-Frame-Options: allow}}",
        ),
        (
            "http_server_config.headers.X-XSS-Protection: must be printable ASCII",
            'http_server_config: {headers: {X-XSS-Protection: "a\\r\\nb: c"}}',
        ),
        ("basic_auth_users.alice: must be a bcrypt hash", "basic_auth_users: {alice: secret}"),
        (
            "basic_auth_users.alice: must be a bcrypt hash",
            f"basic_auth_users: {{alice: '{SECRET.replace('$04$', '$32$')}'}}",
        ),
        ("basic_auth_users.: a user name", f"basic_auth_users: {{'': '{SECRET}'}}"),
        ("basic_auth_users.a:b: a user name", f"basic_auth_users: {{'a:b': '{SECRET}'}}"),
    ],
)
def test_file_is_refused_when_wrong(config_file: Path, problem: str, text: str) -> None:
    config_file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"{config_file}.*{problem}"):
        check_web_config(config_file)


@pytest.mark.parametrize(
    ("problem", "lines"),
    [
        ("min_version: 'TLS10' is unknown", ["min_version: TLS10"]),
        ("max_version: TLS12 is below TLS13", ["min_version: TLS13", "max_version: TLS12"]),
        ("cipher_suites: 'RC4' is unknown", ["cipher_suites: [RC4]"]),
        (
            "cipher_suites: none of them is for TLS 1.2",
            ["cipher_suites: [TLS_AES_128_GCM_SHA256]", "max_version: TLS12"],
        ),
        ("curve_preferences: 'P1' is unknown", ["curve_preferences: [P1]"]),
        ("client_auth_type: 'Any' is unknown", ["client_auth_type: Any"]),
        (
            "client_auth_type: RequireAnyClientCert does not verify",
            ["client_auth_type: RequireAnyClientCert"],
        ),
        ("client_ca_file: missing", ["client_auth_type: RequireAndVerifyClientCert"]),
        ("client_auth_type: set it to", ["client_ca_file: x"]),
        ("client_allowed_sans: needs client_auth_type", ["client_allowed_sans: [x]"]),
        (
            "client_ca_file: not a PEM file",
            ["client_ca: no PEM", "client_auth_type: VerifyClientCertIfGiven"],
        ),
    ],
)
def test_tls_is_refused_when_wrong(
    config_file: Path, certificates: Certificates, problem: str, lines: list[str]
) -> None:
    config_file.write_text(tls_section(certificates, *lines))
    with pytest.raises(ConfigurationError, match=f"{config_file}: tls_server_config.{problem}"):
        check_web_config(config_file)


def test_certificate_is_refused_when_it_is_not_the_keys(
    config_file: Path, certificates: Certificates
) -> None:
    text = tls_section(certificates).replace("server.key", "renewed.key")
    config_file.write_text(text)
    with pytest.raises(ConfigurationError, match="can't be used together"):
        check_web_config(config_file)


def test_key_is_refused_when_it_asks_for_a_password(
    config_file: Path, certificates: Certificates, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    openssl("ec", "-in", certificates.path("server.key"), "-aes256", "-passout", "pass:x",
            "-out", encrypted)  # fmt: skip
    text = tls_section(certificates).replace(str(certificates.path("server.key")), str(encrypted))
    config_file.write_text(text)
    with pytest.raises(ConfigurationError, match="can't be used together"):
        check_web_config(config_file)


def test_file_is_refused_when_missing_or_not_text(config_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read: No such file"):
        check_web_config(config_file)
    config_file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        check_web_config(config_file)


@contextlib.contextmanager
def fifo(path: Path) -> Iterator[None]:
    """A FIFO whose writers have nothing to say, so that who waits for one fails and goes on."""
    os.mkfifo(path)
    ending = threading.Event()

    def write() -> None:
        while not ending.wait(0.1):
            with contextlib.suppress(OSError):  # nobody reads
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ending.set()
        writer.join()


def test_file_is_refused_when_it_is_no_regular_one(config_file: Path) -> None:
    with fifo(config_file), pytest.raises(ConfigurationError, match="is not a regular file"):
        check_web_config(config_file)
    with pytest.raises(ConfigurationError, match="/dev/null: is not a regular file"):
        check_web_config(Path("/dev/null"))
    config_file.unlink()
    config_file.write_bytes(b"#" * (files.MAX_BYTES + 1))
    with pytest.raises(ConfigurationError, match="is larger than"):
        check_web_config(config_file)


@pytest.mark.parametrize("key", ["cert_file", "key_file", "client_ca_file"])
def test_file_for_tls_is_refused_when_nobody_writes_to_it(
    config_file: Path, certificates: Certificates, tmp_path: Path, key: str
) -> None:
    names = {
        "cert_file": certificates.path("server.pem"),
        "key_file": certificates.path("server.key"),
        "client_ca_file": certificates.path("ca.pem"),
        key: tmp_path / "fifo",
    }
    lines = [f"  {name}: {path}" for name, path in names.items()]
    policy = "  client_auth_type: RequireAndVerifyClientCert"
    config_file.write_text("\n".join(["tls_server_config:", *lines, policy]))
    problem = f"{config_file}: tls_server_config.{key}: {tmp_path}/fifo: is not a regular file"
    with fifo(tmp_path / "fifo"), pytest.raises(ConfigurationError, match=problem):
        check_web_config(config_file)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('tls_server_config: {cert_file: "a\\0b", key_file: x}', id="no name"),
        pytest.param(f"rate_limit: {{interval: 1{':0' * 200}.0}}", id="number that overflows"),
    ],
)
def test_old_rules_are_served_when_the_new_ones_are_beyond_reading(
    servers: list[Server], config_file: Path, text: str
) -> None:
    server = serve(servers, config_file, f"basic_auth_users: {{alice: '{SECRET}'}}")
    replace(config_file, text)
    assert [server.get()[0] for _ in range(2)] == [401, 401]
    assert server.counted(catalog.WEB_CONFIG_RELOADS) == {("success",): 0, ("failure",): 1}


def test_notice_is_logged_when_a_key_does_nothing(
    config_file: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    text = tls_section(certificates, "curve_preferences: [X25519, CurveP256]")
    config_file.write_text(f"{text}rate_limit: {{interval: 1s, burst: 2}}\n")
    check_web_config(config_file)
    assert "key=rate_limit" in caplog.text
    assert "key=tls_server_config.curve_preferences" in caplog.text


def test_handshake_is_ended_when_the_client_stays_silent(
    config_file: Path, certificates: Certificates
) -> None:
    config_file.write_text(tls_section(certificates))
    health = Health()
    server = WebServer(
        sockets=bind(["127.0.0.1:0"]),
        snapshot=snapshot,
        health=health,
        readiness=lambda: None,
        settings=WebSettings(config_file=config_file),
        failed=lambda _error: None,
        version="1",
        socket_seconds=0.1,
    )
    server.start()
    try:
        address = server.addresses[0]
        silent = [socket.create_connection(address, timeout=TIMEOUT_SECONDS) for _ in range(20)]
        assert [client.recv(1) for client in silent] == [b""] * 20
        for client in silent:
            client.close()
    finally:
        server.close()
    assert all(thread.name != "http-connection" for thread in threading.enumerate())


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_memory_files_are_closed_when_certificates_are_inline(
    config_file: Path, certificates: Certificates
) -> None:
    lines = ["tls_server_config:"]
    for key, name in (("cert", "server.pem"), ("key", "server.key")):
        text = certificates.path(name).read_text()
        lines += [f"  {key}: |", *(f"    {line}" for line in text.splitlines())]
    config_file.write_text("\n".join(lines))
    before = open_descriptors()
    check_web_config(config_file)
    assert open_descriptors() == before
