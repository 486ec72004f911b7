"""What the documents say can be done: links, commands, examples, messages, hooks and keys."""

import ast
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from picosnitch_exporter import cli, errors
from picosnitch_exporter.config import load_with_notices
from picosnitch_exporter.config.keys import BY_PICOSNITCH, IN_FILE, INERT
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.sensor.object_hooks import FEXIT, TRACEPOINT, Programs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "exporter" / "picosnitch_exporter"
PAGES = (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
GROUPS = {key.path[0] for key in IN_FILE}
PROGRAM = re.compile(r"(?:sudo )?(?:\.venv/bin/)?(picosnitch-exporter .*)")
RUN_HERE = {"query", "completion", "man", "version", "check-config"}
"""What needs neither root nor a running exporter."""
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.PicosnitchError)
} - {"WireError"}
"""A WireError is about a bug, or somebody who forges frames."""
LEAST_WORDS = 8
"""Letters of a message that stand in the code: less is only a frame for others."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(language: str, pages: tuple[Path, ...] = PAGES) -> Iterator[tuple[str, str]]:
    for page in pages:
        for found, body in FENCE.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield name_of(page), body


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for page, body in (*blocks("console"), *blocks("sh")):
        for line in body.replace("\\\n", " ").splitlines():
            match = PROGRAM.match(line)
            if match:
                words = shlex.split(match[1], comments=True)
                ends = [words.index(one) for one in ("|", ">", "&&") if one in words]
                found.append((page, words[1 : min(ends, default=len(words))]))
    return found


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(CODE.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        path, _hash, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    missing = [one for one in re.findall(r"docs/[\w/-]+\.md", text) if not (ROOT / one).exists()]
    assert missing == []


def test_pages_that_messages_name_exist() -> None:
    for text in messages():
        for one in re.findall(r"docs/[\w/-]+\.md", text):
            assert (ROOT / one).exists(), text


def test_index_has_every_page() -> None:
    index = DOCS / "README.md"
    linked = set(LINK.findall(index.read_text(encoding="utf-8")))

    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page != index}
    assert pages - linked == set()


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda one: str(one)[:60])
def test_command_is_one_that_the_program_takes(page: str, words: list[str]) -> None:
    if "--help" in words:
        return  # is run below
    _arguments, unknown = cli._parser(words).parse_known_args(words)
    assert unknown == [], page


def test_commands_that_can_be_run_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("config.yaml").write_text("log: {write_limit_seconds: 30}")
    Path("config.yaml").chmod(0o600)
    Database(tmp_path / "snitch.db", boot_id="0", retention_days=1).close()
    ran = 0
    for page, words in commands():
        if words[0] not in RUN_HERE and "--help" not in words:
            continue
        given = ["config.yaml" if word.endswith((".json", ".yaml")) else word for word in words]
        storage = ["--storage.path=."] if words[0] == "query" else []
        assert cli.main([*given, *storage]) == 0, f"{page}: {words}: {capsys.readouterr().err}"
        ran += 1
    assert ran > 5


@pytest.mark.parametrize(("page", "body"), [*blocks("yaml")], ids=lambda one: str(one)[:40])
def test_example_is_a_valid_configuration(page: str, body: str, tmp_path: Path) -> None:
    documents = [one for one in yaml.safe_load_all(body) if isinstance(one, dict)]
    for document in documents:
        if not set(document) <= GROUPS | set(BY_PICOSNITCH):
            continue  # of Prometheus, Kubernetes, Grafana
        file = tmp_path / "config.yaml"
        file.write_text(body, encoding="utf-8")
        file.chmod(0o600)
        try:
            load_with_notices(file, environment={}, overrides={})
        except ConfigurationError as error:
            # The files with secrets are the reader's.
            if not str(error).endswith("can't be read: No such file or directory"):
                raise AssertionError(f"{page}: {error}") from error


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, body in (*blocks("console"), *blocks("sh")):
        for target in re.findall(r"^(?:sudo )?make ([a-z-]+)", body, re.MULTILINE):
            assert target in targets, f"{page}: make {target}"


def literal(node: ast.expr) -> str:
    """A message as it stands in the code, with … for what differs."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(map(literal, values))
        case ast.BinOp(left=left, right=right):
            return literal(left) + literal(right)
        case _:
            return "…"


def messages() -> list[str]:
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[first, *_rest]) if name in ERRORS:
                    found.append(literal(first))
    return [text for text in found if sum(map(str.isalpha, text)) >= LEAST_WORDS]


def explained() -> list[str]:
    found: list[str] = []
    for line in (DOCS / "troubleshooting.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## Not a message"):
            break
        if line.startswith("| `"):
            found += CODE.findall(line.split(" | ")[0])
    return found


def test_every_message_is_explained() -> None:
    missing = [text for text in messages() if not any(one in text for one in explained())]

    assert missing == [], "docs/troubleshooting.md needs a line for each of these"


def test_every_explained_message_exists() -> None:
    known = messages()

    assert [one for one in explained() if not any(one in text for text in known)] == []


@pytest.mark.parametrize("programs", [TRACEPOINT, FEXIT], ids=lambda programs: programs.plan)
def test_kernel_page_has_the_hooks_of_a_plan(programs: Programs) -> None:
    page = (DOCS / "kernels.md").read_text(encoding="utf-8")

    _before, _heading, rest = page.partition(f"\n### Plan `{programs.plan}`\n")
    section, _heading, _after = rest.partition("\n#")
    table = [line for line in section.splitlines() if line.startswith("| `")]
    assert table == [
        f"| `{hook.program}` | {hook.target.value} | {hook.minimum_kernel} | {hook.purpose} |"
        for hook in programs.hooks
    ]


def test_page_for_users_of_picosnitch_has_each_of_its_keys() -> None:
    page = (DOCS / "picosnitch.md").read_text(encoding="utf-8").replace("\n", " ")

    assert [key for key in (*BY_PICOSNITCH, *INERT) if f"`{key}`" not in page] == []
    named = set(re.findall(r"`([a-z]+\.[a-z_.]+)`", page)) - {"exe.log", "error.log", "conn.log"}
    settings = {key.name for key in IN_FILE}
    assert {one for one in named if one.split(".")[0] in GROUPS} - settings == set()


def test_documents_do_not_name_this_machine() -> None:
    own = os.fspath(ROOT)
    assert [name_of(page) for page in PAGES if own in page.read_text(encoding="utf-8")] == []
