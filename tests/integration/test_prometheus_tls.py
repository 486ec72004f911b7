"""A real Prometheus scrapes the real exporter over TLS, with a password and a certificate."""

import base64
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bcrypt
import pytest

from tests.kernel.exporter import Exporter
from tests.monitoring_servers import Json, Prometheus, await_true, prometheus

WAIT_SECONDS: Final = 60.0
PASSWORD: Final = "pässword of the scraper"
ROUNDS: Final = 10
"""As htpasswd -B has it: some 60 ms, which no scrape may cost."""


def issue(folder: Path, name: str, *more: str) -> None:
    """A certificate for this host, signed by `ca`, or by itself if it is that."""
    signer = [] if name == "ca" else ["-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key"]
    constraint = f"critical,CA:{'TRUE' if name == 'ca' else 'FALSE'}"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", f"/CN={name}", *more),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", f"basicConstraints={constraint}"),
        *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem", *signer),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (folder / f"{name}.key").chmod(0o644)  # for the accounts of exporter and Prometheus


class SecureExporter(Exporter):
    """One that is only asked over TLS, with a password and a certificate."""

    folder_of_keys: Path

    def _get(self, path: str) -> "urllib.response.addinfourl":
        folder = self.folder_of_keys
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "scraper.pem", folder / "scraper.key")
        login = base64.b64encode(f"scraper:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"https://{self.address}{path}", headers={"Authorization": f"Basic {login}"}
        )
        answer: urllib.response.addinfourl = urllib.request.urlopen(  # noqa: S310
            request, timeout=10, context=context
        )
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Both of them, and where the certificates are."""

    exporter: SecureExporter
    prometheus: Prometheus
    folder: Path

    def up(self, instance: str) -> float:
        return self.prometheus.value(f'up{{instance="{instance}"}}')


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if os.geteuid() != 0:
        pytest.fail("the exporter loads BPF programs: run this as root")
    # Not pytest's own folder, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-test-tls-"))
    folder.chmod(0o755)
    try:
        for name in ("ca", "server", "scraper"):
            issue(folder, name)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(ROUNDS)).decode()
        (folder / "web.yml").write_text(
            "tls_server_config:\n"
            "  cert_file: server.pem\n"
            "  key_file: server.key\n"
            "  client_ca_file: ca.pem\n"
            "  client_auth_type: RequireAndVerifyClientCert\n"
            f"basic_auth_users: {{scraper: '{hashed}'}}\n"
        )
        SecureExporter.folder_of_keys = folder
        settings = {"web": {"config_file": str(folder / "web.yml")}}
        with (
            SecureExporter.start(settings) as exporter,
            prometheus(config=config(folder), rules=[], history={}) as server,
        ):
            server.point_at({"secure": [exporter.address]})
            made = Stack(exporter=exporter, prometheus=server, folder=folder)
            await_true(lambda: made.up("secure") == 1, "it is scraped", seconds=WAIT_SECONDS)
            yield made
    finally:
        shutil.rmtree(folder)


def config(folder: Path) -> Json:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": "picosnitch",
                "scheme": "https",
                "basic_auth": {"username": "scraper", "password": PASSWORD},
                "tls_config": {
                    "ca_file": str(folder / "ca.pem"),
                    "cert_file": str(folder / "scraper.pem"),
                    "key_file": str(folder / "scraper.key"),
                },
            }
        ],
    }


def test_metrics_arrive_when_scraped_over_tls_with_a_password(stack: Stack) -> None:
    expr = 'picosnitch_exporter_build_info{instance="secure"}'
    await_true(lambda: stack.prometheus.value(expr) == 1, expr, seconds=WAIT_SECONDS)
    assert stack.prometheus.scrape_problems() == []


def test_a_scrape_does_not_cost_a_hash(stack: Stack) -> None:
    """The password is hashed once; Prometheus itself says how long its scrapes took."""
    expr = 'min_over_time(scrape_duration_seconds{instance="secure"}[1m])'
    await_true(lambda: 0 < stack.prometheus.value(expr) < 0.05, expr, seconds=WAIT_SECONDS)


def test_new_certificate_is_served_when_it_was_renewed(stack: Stack) -> None:
    """Read again by a process that reaches next to no files any more."""
    renewed = stack.folder / "renewed"
    renewed.mkdir()
    for name in ("ca.pem", "ca.key"):
        shutil.copy(stack.folder / name, renewed)
    issue(renewed, "server")
    for name in ("server.key", "server.pem"):
        (renewed / name).replace(stack.folder / name)
    expected = (stack.folder / "server.pem").read_text().strip()
    host, _colon, port = stack.exporter.address.rpartition(":")

    def served() -> str:
        return ssl.get_server_certificate((host, int(port))).strip()

    await_true(lambda: served() == expected, "the new certificate", seconds=WAIT_SECONDS)
    assert stack.up("secure") == 1


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"basic_auth": {"username": "scraper", "password": "wrong"}}, "401"),
        ({"tls_config": {"insecure_skip_verify": True}}, "certificate required"),
        ({"scheme": "http", "tls_config": {}}, "400"),
    ],
)
def test_scrape_fails_when_credentials_are_wrong(
    stack: Stack, wrong: dict[str, object], problem: str
) -> None:
    refused = config(stack.folder)
    refused["scrape_configs"][0] |= wrong
    with prometheus(config=refused, rules=[], history={}) as server:
        server.point_at({"refused": [stack.exporter.address]})
        await_true(
            lambda: any(problem in said for said in server.scrape_problems()),
            f"{problem} in {server.scrape_problems()}",
            seconds=WAIT_SECONDS,
        )
        assert server.value('up{instance="refused"}') == 0
    assert stack.exporter.page("/-/healthy") == "healthy\n"
