"""The completions do in real shells what the command line takes; the man page is right roff."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from picosnitch_exporter import cli
from picosnitch_exporter.terminal.command_line import describe

HYPHENS = {0x2010: "-", 0x2212: "-"}
COMMANDS = describe(cli._parser(["query"]))


def script(shell: str, capsys: pytest.CaptureFixture[str], folder: Path) -> Path:
    assert cli.main(["completion", shell]) == 0
    file = folder / f"completion.{shell}"
    file.write_text(capsys.readouterr().out)
    return file


@pytest.fixture
def bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    file = script("bash", capsys, tmp_path)

    def complete(*words: str) -> list[str]:
        program = (
            'shopt -s nullglob; compopt() { :; }; source "$0"; COMP_WORDS=("$@"); '
            "COMP_CWORD=$(($# - 1)); _picosnitch_exporter; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        return subprocess.run(
            ["bash", "--norc", "-uc", program, file, "picosnitch-exporter", *words],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        ).stdout.split()

    return complete


@pytest.fixture
def fish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    file = script("fish", capsys, tmp_path)

    def complete(*words: str) -> list[str]:
        line = " ".join(["picosnitch-exporter", *words])
        out = subprocess.run(
            ["fish", "--no-config", "-c", f"source {file}; complete -C '{line}'"],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        ).stdout
        return [candidate.partition("\t")[0] for candidate in out.splitlines()]

    return complete


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["que"], ["query"]),
        (["query", "--form"], ["--format"]),
        (["query", "--format", ""], ["csv", "json", "table"]),
        (["run", "--log.level", "d"], ["debug"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["check-config", "completion."], ["completion.{shell}"]),
        (["run", "--config.file", "completion."], ["completion.{shell}"]),
    ],
)
def test_shell_completes(
    request: pytest.FixtureRequest, shell: str, words: list[str], expected: list[str]
) -> None:
    complete: Callable[..., list[str]] = request.getfixturevalue(shell)

    assert [text.format(shell=shell) for text in expected] == sorted(complete(*words))


def test_bash_completes_the_value_after_an_equals_sign(bash: Callable[..., list[str]]) -> None:
    assert bash("run", "--log.format", "=") == ["logfmt", "json"]
    assert bash("run", "--log.format", "=", "j") == ["json"]


def test_bash_knows_every_command_and_flag(bash: Callable[..., list[str]]) -> None:
    commands = {command.name for command in COMMANDS[1:]}

    assert commands <= set(bash(""))
    for command in COMMANDS[1:]:
        flags = {flag for argument in command.arguments for flag in argument.flags}
        assert flags <= set(bash(command.name, "-"))


def test_zsh_reads_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = script("zsh", capsys, tmp_path)
    text = file.read_text()

    # Loaded as compinit does; what completes is a function of the terminal's, without one here.
    program = "autoload -Uz compinit; compinit -D -u; source $1; print $_comps[picosnitch-exporter]"
    result = subprocess.run(
        ["zsh", "-f", "-c", program, "zsh", file], check=True, capture_output=True, text=True
    )

    assert (result.stdout, result.stderr) == ("_picosnitch-exporter\n", "")
    for command in COMMANDS[1:]:
        assert f"\t{command.name}) _arguments " in text
        for argument in command.arguments:
            assert all(f"{flag}" in text for flag in argument.flags)


def test_man_page_is_without_fault_and_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["man"]) == 0
    page = capsys.readouterr().out

    result = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n"],
        check=True,
        input=page,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )

    assert result.stderr == ""
    text = re.sub(r"\s+", " ", result.stdout.translate(HYPHENS))
    for command in COMMANDS:
        for argument in command.arguments:
            assert all(flag in text for flag in argument.flags)
    assert "picosnitch-exporter query --since 24h --by exe" in text
