"""`run` reads its settings in a child, and imports nothing that is off."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from picosnitch_exporter import entry
from picosnitch_exporter.service import late
from picosnitch_exporter.settings import Settings, WebSettings


class Started:
    """In the place of the daemon: remembers what it was started with."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.settings: Settings | None = None
        self.notices: Sequence[str] = ()

    def __call__(self, settings: Settings, notices: Sequence[str]) -> int:
        self.settings, self.notices = settings, notices
        return self.code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr("picosnitch_exporter.daemon.start", started)
    return started


def config(folder: Path, text: str) -> str:
    file = folder / "config.yaml"
    file.write_text(text)
    return f"--config.file={file}"


def test_settings_and_notices_arrive_when_the_child_has_read_them(
    started: Started, tmp_path: Path
) -> None:
    started.code = 7
    file = config(tmp_path, "{log: {ignore: [53, 10.0.0.0/8, com.example]}, Dash theme: x}")
    assert entry.main(["run", file, "--web.listen-address=:1"]) == 7
    assert started.settings is not None
    assert started.settings.web == WebSettings(listen_addresses=(":1",))
    assert started.settings.log.ignore
    assert len(started.notices) == 1


def test_child_says_what_is_wrong_when_there_is_something(
    started: Started, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["run", config(tmp_path, "nonsense: 1")]) == 2
    assert started.settings is None
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("picosnitch-exporter: ")
    assert "nonsense" in line


def test_nothing_is_started_when_help_is_asked_for(
    started: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["run", "--help"]) == 0
    assert started.settings is None
    assert capfd.readouterr().out.startswith("usage: picosnitch-exporter run")


def test_nothing_of_the_command_line_is_left_when_it_runs(tmp_path: Path) -> None:
    absent = {"argparse", "picosnitch_exporter.cli", "subprocess", "yaml"}
    script = f"""
import sys
from picosnitch_exporter import entry
entry.outcome.of = lambda command: command()
import picosnitch_exporter.daemon
def start(settings, notices):
    print(*sys.modules)
    return 0
picosnitch_exporter.daemon.start = start
sys.exit(entry.main(["run", "--storage.path={tmp_path}"]))
"""
    assert absent.isdisjoint(modules_after(script))


OFF = {"argparse", "bcrypt", "opentelemetry", "psycopg", "pymysql", "subprocess", "yaml"}
LATE = {
    *("dns", "html", "idna", "prometheus_client", "ssl"),
    *("email", "http.client", "importlib.metadata", "random", "tempfile", "urllib.request"),
}
"""What the exporter process imports once there is work for it, and what that imports."""


def test_nothing_without_work_is_imported_when_the_exporter_process_starts() -> None:
    script = "import sys, picosnitch_exporter.service.process; print(*sys.modules)"
    assert (OFF | LATE) & modules_after(script) == set()


def test_all_that_is_late_is_imported_when_it_could_not_be_read_later() -> None:
    script = (
        "import sys; from picosnitch_exporter import privileges; "
        "privileges.may_list = lambda account, folder: False; "
        "from picosnitch_exporter.service import late; late.import_out_of_reach(None); "
        "print(*sys.modules)"
    )
    assert {*late.MODULES, "dns", "html", "prometheus_client"} <= modules_after(script)


def test_nothing_that_is_off_is_imported_when_the_sensor_starts() -> None:
    needless = OFF | LATE | {"bz2", "csv", "ctypes.util", "hashlib", "platform", "sqlite3"}
    needless |= {"importlib.resources", "picosnitch_exporter.sensor.bcc"}
    script = "import sys, picosnitch_exporter.sensor.process; print(*sys.modules)"
    assert needless & modules_after(script) == set()


def modules_after(script: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return set(result.stdout.split())
