from pathlib import Path

import pytest

from picosnitch_exporter.cli import main


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
