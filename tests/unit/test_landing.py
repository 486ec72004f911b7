"""The page at `/`, read as a parser reads it; tests/integration has it in a browser."""

from html.parser import HTMLParser

import pytest

from picosnitch_exporter.model import Executable, Sha256, Snapshot, Verdict, VirusTotalResult
from picosnitch_exporter.outputs.landing import TOP, landing_page
from tests.unit.snapshots import column, executable, facts, labels, snapshot

VOID = {"meta"}


class Page(HTMLParser):
    """The elements in order, each with its attributes and text; raises where they don't nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.elements[index][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(parts).strip() for name, _attributes, parts in self.elements if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _parts in self.elements if name == tag]


def page(of: Snapshot, *, reason: str | None = None) -> Page:
    return Page(
        landing_page(
            version="1.2.3", reason_not_ready=reason, snapshot=of, telemetry_path="/metrics"
        )
    )


def busy(count: int, *, verdict: Verdict = Verdict.DISABLED) -> Snapshot:
    programs = [executable(number, exe=f"/bin/{number}<&'\"") for number in range(count)]
    return snapshot(
        transmit=column([(labels(one), 1000 * number) for number, one in enumerate(programs)]),
        receive=column([(labels(one), 2048) for one in programs]),
        connections=column([(labels(one), 3) for one in programs]),
        executables=tuple(
            facts(number, of=one, virustotal=VirusTotalResult(verdict=verdict))
            for number, one in enumerate(programs)
        ),
    )


def test_page_has_a_language_a_title_and_headings_in_order() -> None:
    read = page(busy(2))

    assert read.attributes("html") == [{"lang": "en"}]
    assert read.texts("title") == ["picosnitch-exporter: ready"]
    assert [name for name, _a, _t in read.elements if name[0] == "h" and name[1:].isdigit()] == [
        "h1",
        "h2",
        "h2",
        "h2",
    ]
    assert len(read.attributes("main")) == 1


def test_table_has_a_caption_and_a_scope_for_every_heading() -> None:
    read = page(busy(3))

    assert len(read.texts("caption")) == len(read.texts("table")) == 1
    assert [one["scope"] for one in read.attributes("th")] == ["col"] * 4 + ["row"] * 3
    assert len(read.attributes("td")) == 3 * 3


def test_largest_come_first_and_no_more_than_a_few() -> None:
    read = page(busy(TOP + 5))

    assert read.texts("th")[4] == f"/bin/{TOP + 4}<&'\"SHA-256 000000000000…"
    assert len(read.attributes("tr")) == TOP + 1
    assert read.texts("td")[:3] == ["13.7 KiB", "2.0 KiB", "3"]


def test_verdicts_are_a_column_when_virustotal_is_asked() -> None:
    read = page(busy(1, verdict=Verdict.SUSPICIOUS))

    assert read.texts("th")[4] == "VirusTotal"
    assert read.texts("td") == ["0 B", "2.0 KiB", "3", "suspicious"]
    assert read.texts("strong") == ["suspicious"]


@pytest.mark.parametrize(
    ("exe", "sha256", "shown"),
    [
        ("/tmp/\u202egpj.sh", "ab" * 32, r"/tmp/\u202egpj.shSHA-256 abababababab…"),  # noqa: S108
        ("/a\n\x1b]0;owned\x07", "", r"/a\n\x1b]0;owned\x07"),
        ("/a\udcff", "", r"/a\xff"),
        ("/usr/bin/größe 漢字", "", "/usr/bin/größe 漢字"),
        ("other", "other", "other"),
        ("", "", "(unknown)"),
    ],
)
def test_name_shows_what_a_browser_would_obey_or_hide(exe: str, sha256: str, shown: str) -> None:
    program = Executable(exe=exe, sha256=Sha256(sha256))
    read = page(snapshot(transmit=column([(labels(program), 1)])))

    assert read.texts("th")[-1] == shown


def test_page_says_so_when_nothing_has_talked() -> None:
    read = page(snapshot(), reason="<starting>")

    assert "None yet." in read.texts("p")
    assert read.texts("dd")[0] == "not ready: <starting>"


@pytest.mark.parametrize("element", ["script", "link", "img", "iframe", "form", "object"])
def test_page_loads_and_runs_nothing(element: str) -> None:
    read = page(busy(3))

    assert read.attributes(element) == []
    assert not [
        one for _n, attributes, _t in read.elements for one in attributes if one[:2] == "on"
    ]


def test_links_stay_on_the_exporter() -> None:
    assert [one["href"] for one in page(busy(1)).attributes("a")] == [
        "/metrics",
        "/-/ready",
        "/-/healthy",
    ]
