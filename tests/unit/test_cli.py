"""The command line: what each command calls, its exit code, and one line for what is wrong."""

import os
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from picosnitch_exporter import __version__, cli, terminal
from picosnitch_exporter.config import loading
from picosnitch_exporter.errors import ConfigurationError, KernelError, RequirementError
from picosnitch_exporter.settings import Settings

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / "none.yaml")


class Daemon(types.ModuleType):
    """In the place of the daemon and of doctor: remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__("picosnitch_exporter.daemon")
        self.settings: Settings | None = None
        self.called = ""
        self.before: object = ()
        self.notices: Sequence[str] = ()
        self.result: Callable[[], int] = lambda: 0

    def start(self, settings: Settings, notices: Sequence[str]) -> int:
        self.settings, self.notices = settings, notices
        return self.run(settings)

    def run(self, settings: Settings, *, as_json: bool = False, before: object = ()) -> int:
        self.settings, self.called, self.before = settings, f"run {as_json}", before
        return self.result()

    def configuration(self, loaded: object) -> str:
        return "wrong" if isinstance(loaded, ConfigurationError) else "right"

    def detach(self, settings: Settings) -> int:
        self.settings, self.called = settings, "detach"
        return self.result()


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    import picosnitch_exporter

    fake = Daemon()
    monkeypatch.setattr(picosnitch_exporter, "daemon", fake, raising=False)
    monkeypatch.setitem(sys.modules, "picosnitch_exporter.daemon", fake)
    monkeypatch.setattr(terminal, "doctor", fake, raising=False)
    return fake


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "picosnitch_exporter", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_version_is_printed_as_exporters_do(capsys: Output) -> None:
    assert cli.main(["version"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"picosnitch-exporter, version {__version__}"
    assert [line.split(":")[0] for line in lines[1:]] == ["  python version", "  platform"]


def test_version_flag_says_the_same(capsys: Output) -> None:
    cli.main(["version"])
    expected = capsys.readouterr().out

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", ["", "run", "doctor", "check-config", "detach", "version"])
def test_help_is_printed(name: str, capsys: Output) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: picosnitch-exporter {name}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: command"),
        (["walk"], "argument command: invalid choice: 'walk'"),
        (
            ["run", "--web.listen-adress=:1"],
            "run: unknown argument --web.listen-adress=:1: did you",
        ),
        (["run", "--web.listen"], "run: unknown argument --web.listen: did you mean --web.listen-"),
        (["version", "x"], "version: unknown argument x: see 'picosnitch-exporter version --help'"),
        (["check-config"], "check-config: the following arguments are required: FILE"),
        (["run", "--storage.path"], "run: argument --storage.path: expected one argument"),
        (
            ["run", "--log.level=loud"],
            "--log.level: must be debug, info, warn or error, not 'loud'",
        ),
        (["run", "--config.file=/no\n\x1b"], "/no\\n\\x1b: can't be read: No such file"),
        (["check-config", "/no/such"], "/no/such: can't be read: No such file"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], expected: str, capsys: Output
) -> None:
    assert cli.main(arguments) == 2

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"picosnitch-exporter: {expected}")


def test_run_passes_the_flags_on(daemon: Daemon) -> None:
    arguments = ["run", "--web.listen-address=:1", "--web.listen-address", "[::1]:2"]
    arguments += ["--web.telemetry-path=/m", "--web.config.file", "/w", "--storage.path=/s"]
    arguments += ["--log.level", "error", "--log.format=json", "--bpf.plan=fexit"]

    assert cli.main(arguments) == 0

    settings = daemon.settings
    assert settings is not None
    assert settings.web.listen_addresses == (":1", "[::1]:2")
    assert (settings.web.telemetry_path, settings.web.config_file) == ("/m", Path("/w"))
    assert settings.storage.path == Path("/s")
    assert (settings.logging.level, settings.logging.format) == ("error", "json")
    assert settings.bpf.plan == "fexit"
    assert daemon.called == "run False"


def test_flag_wins_over_the_file(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("{web: {telemetry_path: /a}, GeoIP lookup: true}")

    assert cli.main(["run", f"--config.file={file}", "--web.telemetry-path=/b"]) == 0
    assert daemon.settings is not None
    assert daemon.settings.web.telemetry_path == "/b"


def test_notice_is_handed_on_when_running(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("GeoIP lookup: true")

    assert cli.main(["run", f"--config.file={file}"]) == 0
    assert daemon.called
    assert ["GeoIP lookup" in notice for notice in daemon.notices] == [True]


@pytest.mark.parametrize(
    ("arguments", "called"),
    [(["detach"], "detach"), (["doctor"], "run False"), (["doctor", "--json"], "run True")],
)
def test_command_is_called_with_the_settings(
    daemon: Daemon, arguments: list[str], called: str
) -> None:
    daemon.result = lambda: 1

    assert cli.main(arguments) == 1
    assert (daemon.called, daemon.settings) == (called, Settings())


def test_doctor_goes_on_when_the_file_is_wrong(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nonsense: 1")

    assert cli.main(["doctor", f"--config.file={file}"]) == 0
    assert (daemon.before, daemon.settings) == (("wrong",), Settings())
    assert cli.main(["doctor", "--log.level=loud"]) == 2
    assert cli.main(["doctor"]) == 0
    assert daemon.before == ("right",)


def fail(error: BaseException) -> Callable[[], int]:
    def raise_it() -> int:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RequirementError("no BTF:\ninstall it"), 1, "picosnitch-exporter: no BTF:\\ninstall it\n"),
        (KernelError("refused"), 1, "picosnitch-exporter: refused\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_error_has_its_exit_code(
    daemon: Daemon, capsys: Output, error: BaseException, code: int, said: str
) -> None:
    daemon.result = fail(error)

    assert cli.main(["run"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_bug_is_not_hidden(daemon: Daemon) -> None:
    daemon.result = fail(RuntimeError("bug"))

    with pytest.raises(RuntimeError, match="bug"):
        cli.main(["run"])


def test_check_config_says_that_a_file_is_valid(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"Dash theme": "", "Log ports": false}')

    assert cli.main(["check-config", str(file)]) == 0

    said = capsys.readouterr()
    assert said.out == f"{file}: valid\n"
    assert said.err.startswith(f"picosnitch-exporter: {file}:1: Dash theme: belongs to")


def test_check_config_shows_all_settings(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"Log ports": false}')

    assert cli.main(["check-config", str(file), "--show"]) == 0
    assert not yaml.safe_load(capsys.readouterr().out)["log"]["ports"]


def test_module_is_the_command() -> None:
    result = command("run", "--no-such-flag")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("picosnitch-exporter: run: unknown argument --no-such-flag")


def write_to(output: int, *arguments: str, unbuffered: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "picosnitch_exporter", *arguments],
        check=False,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["run", "--help"]])
def test_closed_output_is_no_traceback(arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = write_to(writer, *arguments, unbuffered=unbuffered)
    os.close(writer)

    assert result.stderr == ""
    assert result.returncode in {0, 1}  # newer versions of argparse hide it


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_disk_is_one_line(unbuffered: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    result = write_to(full, "version", unbuffered=unbuffered)
    os.close(full)

    assert result.returncode == 1
    assert result.stderr == (
        "picosnitch-exporter: can't write to standard output: No space left on device\n"
    )


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = {"bcrypt", "ctypes", "jeepney", "opentelemetry", "prometheus_client", "psutil"}
    heavy |= {"http.server", "multiprocessing", "sqlite3", "ssl"}
    script = (
        "import sys; from picosnitch_exporter.cli import main; main(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert heavy & set(result.stderr.split()) == set()
