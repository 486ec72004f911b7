"""From files, flags and the environment to settings."""

import os
from pathlib import Path

import pytest
import yaml

from picosnitch_exporter.config import load, load_with_notices, loading, show
from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.loading import Loaded
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.settings import ServerSettings, Settings


@pytest.fixture(autouse=True)
def default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "config.yaml"
    path.parent.mkdir()
    monkeypatch.setattr(loading, "DEFAULT_FILE", path)
    return path


class Folder:
    """Loads texts from a file in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "c.yaml"

    def loaded(self, text: str, *, mode: int = 0o600, **environment: str) -> Loaded:
        self.file.write_text(text, encoding="utf-8")
        self.file.chmod(mode)
        return load_with_notices(self.file, environment=environment, overrides={})

    def settings(self, text: str, *, mode: int = 0o600, **environment: str) -> Settings:
        return self.loaded(text, mode=mode, **environment).settings

    def problem(self, text: str, *, mode: int = 0o600, **environment: str) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.loaded(text, mode=mode, **environment)
        message = str(caught.value)
        assert "\n" not in message
        return message.removeprefix(f"{self.file}:")

    def secret(self, text: str, *, name: str = "key", mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def with_flags(**overrides: Plain) -> Settings:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(None, environment={}, overrides=named)


def test_settings_are_the_defaults_when_nothing_is_given() -> None:
    assert load(None, environment={}, overrides={}) == Settings()


def test_default_file_is_read_when_it_exists(default_file: Path) -> None:
    default_file.write_text("log: {ports: false}", encoding="utf-8")

    loaded = load_with_notices(None, environment={}, overrides={})

    assert loaded.source == default_file
    assert not loaded.settings.log.ports


def test_named_file_is_read_instead_of_the_default_one(default_file: Path, folder: Folder) -> None:
    default_file.write_text("log: {ports: false}", encoding="utf-8")

    assert folder.settings("log: {commands: false}").log.ports


def test_default_file_is_an_error_when_it_cannot_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / ("x" * 300))

    with pytest.raises(ConfigurationError, match="can't be read: File name too long"):
        load(None, environment={}, overrides={})


def test_picosnitch_file_is_read_as_it_stands(folder: Folder) -> None:
    loaded = folder.loaded("""\
{
  "Bandwidth monitor": false, # Log traffic
  "DB retention (days)": 30,
  "DB sql log": false,
  "DB sql server": {"client": "pymysql", "table_name": "hosts", "host": "db", "port": 3306},
  "DB text log": true,
  "DB write limit (seconds)": 1,
  "Dash scroll zoom": true,
  "Dash theme": "",
  "Desktop notifications": false,
  "Every exe (not just conns)": true,
  "GeoIP lookup": true,
  "Log addresses": false,
  "Log commands": false,
  "Log ports": false,
  "Log ignore": [80, "10.0.0.0/8"],
  "Perf ring buffer (pages)": 256,
  "Set RLIMIT_NOFILE": 4096,
  "Set st_dev mask": 255,
  "VT API key": "k",
  "VT file upload": true,
  "VT request limit (seconds)": 0
}
""")

    settings = loaded.settings
    assert [notice.split(": ")[1] for notice in loaded.notices] == [
        "Dash scroll zoom",
        "Dash theme",
        "GeoIP lookup",
    ]
    assert not settings.bpf.bandwidth
    assert settings.bpf.ring_buffer_pages == 256
    assert settings.identity.every_exe
    assert settings.identity.rlimit_nofile == 4096
    assert settings.identity.st_dev_mask == 255
    assert not settings.log.sqlite.enabled
    assert settings.log.sqlite.retention_days == 30
    assert settings.log.text.enabled
    assert settings.log.write_limit_seconds == 1
    assert (settings.log.addresses, settings.log.commands, settings.log.ports) == (False,) * 3
    assert settings.log.ignore == (80, "10.0.0.0/8")
    assert settings.log.server == ServerSettings(
        client="pymysql", table_name="hosts", parameters=(("host", "db"), ("port", 3306))
    )
    assert not settings.notifications.desktop
    assert settings.virustotal.api_key == "k"
    assert settings.virustotal.file_upload
    assert settings.virustotal.request_limit_seconds == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: {portz: 1}", "1: log.portz: unknown key: did you mean 'log.ports'?"),
        ("\nDB Text log: true", "2: DB Text log: unknown key: did you mean 'DB text log'?"),
        ("retention_days: 1", "1: retention_days: unknown key: did you mean 'log.sqlite.ret"),
        ("enabled: 1", "1: enabled: unknown key: did you mean 'log.sqlite.enabled' or 'log.text"),
        ("logging: {level: debug}", "1: logging: unknown key: "),
        ("zzzzzz: 1", "1: zzzzzz: unknown key: docs/configuration.md lists them all"),
        ("log: {sqlite.enabled: false}", "1: log: unknown key: did you mean 'log.sqlite.ena"),
        ("log: {DB text log: true}", "1: log.DB text log: unknown key: did you mean 'DB text l"),
        ("log: 1", "1: log: must be a group of settings: write_limit_seconds, addresses"),
        ("log: {sqlite: true}", "1: log.sqlite: must be a group of settings: enabled, retention"),
        ("log:\n  ports: 1", "2: log.ports: must be true or false, not 1"),
        ("DB retention (days): x", "1: DB retention (days): must be a whole number from 1"),
        (
            "DB text log: true\nlog: {text: {enabled: true}}",
            "2: log.text.enabled: is the same setting as DB text log, which is set too",
        ),
        (
            "log.ports: true\nlog: {ports: true}",
            "2: log.ports: is the same setting as log.ports, which is set too",
        ),
    ],
)
def test_file_is_refused_with_line_and_key(folder: Folder, text: str, expected: str) -> None:
    assert folder.problem(text).startswith(expected)


def test_group_may_be_empty_when_all_of_it_is_commented_out(folder: Folder) -> None:
    assert folder.settings("log:\n  # ports: false\nweb:\n") == Settings()


def test_flag_wins_over_the_file(folder: Folder) -> None:
    folder.settings("web: {telemetry_path: /a, listen_addresses: [':1']}")

    settings = load(folder.file, environment={}, overrides={"web.telemetry_path": "/b"})

    assert settings.web.telemetry_path == "/b"
    assert settings.web.listen_addresses == (":1",)


def test_flag_is_named_when_its_value_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match=r"^--web\.listen-address: 'x' has no port"):
        with_flags(web__listen_addresses=["x"])


def test_path_is_relative_to_the_file_when_it_stands_there(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")

    settings = folder.settings("{web: {config_file: w.yaml}, storage: {path: /srv/x}}")

    assert settings.web.config_file == folder.path / "w.yaml"
    assert settings.storage.path == Path("/srv/x")


def test_path_is_relative_to_the_working_directory_when_it_is_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert with_flags(storage__path="data").storage.path == tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("VT API key: s3cret", "VT API key"),
        ("virustotal: {api_key: s3cret}", "virustotal.api_key"),
        ("notifications: {webhook_url: 'http://a/s3cret'}", "notifications.webhook_url"),
        ("log: {server: {client: psycopg, password: s3cret}}", "log.server"),
        ("DB sql server: {client: pymysql, passwd: s3cret}", "DB sql server"),
    ],
)
@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_file_with_a_secret_is_refused_when_others_can_read_it(
    folder: Folder, text: str, named: str, mode: int
) -> None:
    message = folder.problem(text, mode=mode)

    assert f"({named})" in message
    assert f"chmod 600 {folder.file}" in message
    assert "s3cret" not in message
    assert "s3cret" not in repr(folder.settings(text, mode=0o600))
    assert "s3cret" not in show(folder.settings(text, mode=0o600))


@pytest.mark.parametrize(
    "text", ["virustotal: {api_key: ''}", "log: {server: {client: psycopg, host: db}}", ""]
)
def test_file_without_a_secret_may_be_readable(folder: Folder, text: str) -> None:
    folder.settings(text, mode=0o644)


def test_secret_comes_from_its_file(folder: Folder) -> None:
    folder.secret(" s3cret\n", mode=0o640)

    settings = folder.settings("virustotal: {api_key_file: key}", mode=0o644)

    assert settings.virustotal.api_key == "s3cret"
    assert settings.virustotal.api_key_file == folder.path / "key"
    shown = yaml.safe_load(show(settings))["virustotal"]
    assert (shown["api_key"], shown["api_key_file"]) == ("", str(folder.path / "key"))


def test_password_comes_from_its_file(folder: Folder) -> None:
    folder.secret("s3cret\n")

    settings = folder.settings(
        "log: {server: {client: psycopg, host: db, password_file: key}}", mode=0o644
    )

    assert settings.log.server is not None
    assert settings.log.server.parameters == (("host", "db"), ("password", "s3cret"))
    assert yaml.safe_load(show(settings))["log"]["server"] == {
        "client": "psycopg",
        "table_name": "connections",
        "password_file": str(folder.path / "key"),
        "host": "db",
    }


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("s3cret", 0o604, "virustotal.api_key_file: {}: holds a secret, and everybody can read it"),
        (" \n", 0o600, "virustotal.api_key_file: {}: is empty: write the secret into it"),
        ("two words", 0o600, "{}: virustotal.api_key: must be printable ASCII without spaces"),
        ("x" * 70_000, 0o600, "virustotal.api_key_file: {}: is larger than 65536 bytes"),
    ],
)
def test_secret_file_is_refused(folder: Folder, content: str, mode: int, expected: str) -> None:
    path = folder.secret(content, mode=mode)

    problem = folder.problem("virustotal: {api_key_file: key}")
    assert problem.startswith(expected.format(path))


def test_password_file_is_refused_by_its_setting_when_it_is_not_there(folder: Folder) -> None:
    server = "{client: psycopg, password_file: nowhere}"

    problem = folder.problem(f"log: {{server: {server}}}")

    assert problem == (
        f"log.server.password_file: {folder.path / 'nowhere'}: can't be read: "
        "No such file or directory"
    )


def test_key_and_file_of_the_key_are_refused_together(folder: Folder) -> None:
    message = folder.problem("{VT API key: a, virustotal: {api_key_file: key}}")

    assert (
        message == "1: virustotal.api_key_file: is set together with VT API key: remove one of them"
    )


def test_key_is_the_credential_of_systemd_when_there_is_one(folder: Folder) -> None:
    folder.secret("s3cret", name="vt-api-key")

    settings = folder.settings("", CREDENTIALS_DIRECTORY=str(folder.path))

    assert settings.virustotal.api_key == "s3cret"


@pytest.mark.parametrize("text", ["VT API key: mine", "virustotal: {api_key_file: key}"])
def test_configured_key_wins_over_the_credential(folder: Folder, text: str) -> None:
    folder.secret("theirs", name="vt-api-key")
    folder.secret("mine")

    settings = folder.settings(text, CREDENTIALS_DIRECTORY=str(folder.path))

    assert settings.virustotal.api_key == "mine"


def test_credential_is_not_needed(folder: Folder) -> None:
    assert folder.settings("", CREDENTIALS_DIRECTORY=str(folder.path)) == Settings()


def test_file_is_refused_when_it_is_not_a_regular_one(folder: Folder) -> None:
    fifo = folder.path / "fifo"
    os.mkfifo(fifo)

    for path, expected in [
        (fifo, "is not a regular file"),
        (folder.path, "is not a regular file"),
        (folder.path / "no", "can't be read: No such file"),
    ]:
        with pytest.raises(ConfigurationError, match=f"{path}: {expected}"):
            load(path, environment={}, overrides={})


def test_file_is_refused_when_it_is_not_utf_8(folder: Folder) -> None:
    folder.file.write_bytes(b"log:\n  ports: \xff\n")

    with pytest.raises(ConfigurationError, match=r"c\.yaml:2: is not UTF-8"):
        load(folder.file, environment={}, overrides={})


def test_byte_order_mark_is_skipped(folder: Folder) -> None:
    assert not folder.settings("\ufefflog: {ports: false}").log.ports
