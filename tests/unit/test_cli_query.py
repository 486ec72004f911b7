import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter.cli import main
from picosnitch_exporter.log.sqlite import Database
from tests.log_samples import CURL, NOTHING, row


def test_log_is_missed_by_name_when_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", f"--storage.path={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_argument_is_named_when_it_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", f"--storage.path={tmp_path}", "--since=yesterdayish"]) == 2
    assert "--since" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["-1", "99999999999999999999"])
def test_limit_is_refused_when_no_database_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    assert main(["query", f"--storage.path={tmp_path}", f"--limit={limit}"]) == 2
    assert "--limit: must be from 0" in capsys.readouterr().err


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """With a log in which a path is no text, and another one that few terminals can show."""
    with closing(Database(tmp_path / "snitch.db", boot_id="boot")) as database:
        rows = tuple(row(program=replace(CURL, exe=exe)) for exe in ("/opt/a\udcff", "/opt/\u65e5"))
        database.commit(replace(NOTHING, rows=rows))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--exe=/opt/a\udcff"], ["/opt/a\\xff"]),
        (["--exe=/opt/\u65e5"], ["/opt/\u65e5"]),
        (["--domain=\udcff.com"], []),
        (["--container=\udcff"], []),
    ],
)
def test_rows_are_found_when_an_argument_is_no_text(
    storage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], found: list[str]
) -> None:
    assert main(["query", f"--storage.path={storage}", "--format=json", *arguments]) == 0
    assert [row["exe"] for row in json.loads(capsys.readouterr().out)] == found


def test_names_are_escaped_when_the_terminal_does_not_have_their_characters(storage: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "picosnitch_exporter", "query", f"--storage.path={storage}"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    ).stdout
    assert b"/opt/\\u65e5" in shown


def test_folder_is_named_when_it_has_gone(storage: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone} && exec {sys.executable} -m picosnitch_exporter query --limit=1"
    done = subprocess.run(
        ["sh", "-c", f"{command} --storage.path={storage}"],
        check=False,
        cwd=gone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "the working directory is gone" in done.stderr
