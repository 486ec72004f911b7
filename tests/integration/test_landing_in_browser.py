"""The page at `/` as Chromium shows it and tells it to a screen reader, without JavaScript."""

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest

from picosnitch_exporter.model import Snapshot, Verdict, VirusTotalResult
from picosnitch_exporter.outputs.http import WebServer
from picosnitch_exporter.outputs.listen import bind
from picosnitch_exporter.settings import WebSettings
from picosnitch_exporter.state.health import Health
from tests.browser import TAB, Browser, browser
from tests.unit.snapshots import column, executable, facts, labels, snapshot

LOGIN = "reader:pass%20word"
HOSTILE = "/tmp/\u202egpj.sh\n\x1b[31m<script>document.write('owned')</script>"  # noqa: S108 - a name
SHOWN = r"/tmp/\u202egpj.sh\n\x1b[31m<script>document.write('owned')</script>"  # noqa: S108 - a name
LONG = "/opt" + "/a-folder-with-a-name" * 20
CAPTION = "The 3 that moved most bytes since they were first counted"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if platform.freedesktop_os_release().get("ID") != "debian" and not shutil.which("chromedriver"):
        pytest.skip("no Chromium: this system has it in another way than as a package")
    with browser() as running:
        yield running


def busy() -> Snapshot:
    programs = [executable(0xAB << 248, exe="/usr/bin/curl"), executable(2, exe=HOSTILE)]
    programs.append(executable(3, exe=LONG))
    return snapshot(
        transmit=column([(labels(one), 3 << (30 - 10 * n)) for n, one in enumerate(programs)]),
        receive=column([(labels(one), 512) for one in programs]),
        connections=column([(labels(one), 12_345) for one in programs]),
        executables=tuple(
            facts(number, of=one, virustotal=VirusTotalResult(verdict=Verdict.MALICIOUS))
            for number, one in enumerate(programs)
        ),
    )


@contextmanager
def served(shown: Snapshot, settings: WebSettings | None = None) -> Iterator[str]:
    """Host and port of a web server with that to show."""
    failures: list[BaseException] = []
    server = WebServer(
        sockets=bind(["127.0.0.1:0"]),
        snapshot=lambda: shown,
        health=Health(),
        readiness=lambda: None,
        settings=settings or WebSettings(),
        failed=failures.append,
        version="1.2.3",
    )
    server.start()
    try:
        host, port = server.addresses[0]
        yield f"{host}:{port}"
    finally:
        server.close()
    assert failures == []


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(busy()) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, address: str) -> Browser:
    chromium.complaints()
    chromium.open(f"http://{address}/")
    return chromium


def test_scripts_do_not_run_in_this_browser(chromium: Browser) -> None:
    chromium.open("data:text/html,<noscript>none</noscript><script>document.write('some')</script>")
    assert chromium.text() == "none"


def test_page_says_what_there_is(page: Browser) -> None:
    text = page.text()
    for part in ("Status\nready", "Version\n1.2.3", "Executables\n3", "Series of traffic\n9"):
        assert part in text
    assert "/usr/bin/curl\nSHA-256 ab0000000000…\n3.0 GiB 512 B 12,345 malicious\n" in text


def test_name_that_means_harm_is_only_shown(page: Browser) -> None:
    assert f"\n{SHOWN}\n" in page.text()


def test_browser_refuses_nothing_of_the_page(page: Browser) -> None:
    assert page.complaints() == []


def test_screen_reader_hears_headings_table_and_links_in_order(page: Browser) -> None:
    nodes = page.nodes()
    told = {"RootWebArea", "main", "heading", "region", "table", "columnheader", "link"}
    assert [(node.role, node.name) for node in nodes if node.role in told] == [
        ("RootWebArea", "picosnitch-exporter: ready"),
        ("main", ""),
        ("heading", "picosnitch-exporter"),
        ("heading", "State"),
        ("heading", "Top executables"),
        ("region", CAPTION),
        ("table", CAPTION),
        ("columnheader", "Executable"),
        ("columnheader", "Sent"),
        ("columnheader", "Received"),
        ("columnheader", "Connections"),
        ("columnheader", "VirusTotal"),
        ("heading", "More"),
        ("link", "Metrics, for Prometheus"),
        ("link", "Whether it is ready"),
        ("link", "Whether it is alive"),
    ]
    assert [node.level for node in nodes if node.role == "heading"] == [1, 2, 2, 2]


def test_screen_reader_hears_whose_numbers_these_are(page: Browser) -> None:
    nodes = [node for node in page.nodes() if node.role in {"rowheader", "cell"}]
    assert [
        ("rowheader", "/usr/bin/curl SHA-256 ab0000000000…"),
        ("cell", "3.0 GiB"),
        ("cell", "512 B"),
        ("cell", "12,345"),
        ("cell", "malicious"),
        ("rowheader", f"{SHOWN} SHA-256 000000000000…"),
    ] == [(node.role, node.name) for node in nodes[:6]]


def test_keyboard_reaches_the_table_and_each_link(page: Browser) -> None:
    reached = []
    for _each in range(4):
        page.press(TAB)
        reached += [node.name for node in page.nodes() if node.is_focused and node.role[0] != "R"]
    assert reached == [
        CAPTION,
        "Metrics, for Prometheus",
        "Whether it is ready",
        "Whether it is alive",
    ]


def test_page_is_no_wider_than_a_telephone(page: Browser) -> None:
    page.resize(320, 640)
    assert page.overflow() == 0


def test_nothing_is_shown_when_nobody_has_logged_in(chromium: Browser, tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(b"pass word", bcrypt.gensalt(4)).decode()
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users: {{reader: '{hashed}'}}\n")
    with served(busy(), WebSettings(config_file=file)) as address:
        chromium.complaints()
        chromium.open(f"http://{address}/")
        refused, complaints = chromium.text(), chromium.complaints()
        chromium.open(f"http://{LOGIN}@{address}/")
        allowed = chromium.text()
        chromium.follow("Metrics, for Prometheus")
        metrics = chromium.text()
    assert "curl" not in refused
    assert "status of 401" in complaints[0]
    assert "/usr/bin/curl" in allowed
    assert 'picosnitch_network_receive_bytes_total{sha256="ab00' in metrics
