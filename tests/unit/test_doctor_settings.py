import json
import socket
import sys
from pathlib import Path

import pytest

from picosnitch_exporter.config.loading import Loaded
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.sensor.requirements import Finding, State
from picosnitch_exporter.service import live
from picosnitch_exporter.settings import (
    LogSettings,
    NotificationSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    WebSettings,
)
from picosnitch_exporter.terminal import doctor, settings_check

Capture = pytest.CaptureFixture[str]


def finding(name: str, settings: Settings) -> Finding:
    (found,) = [one for one in settings_check.check(settings) if one.name == name]
    return found


def test_every_finding_is_a_line_and_an_object(capsys: Capture) -> None:
    before = (Finding(name="first", state=State.WARNING, found="a\nb", remedy="mend it"),)
    doctor.run(Settings(), as_json=False, before=before)
    lines = capsys.readouterr().out.splitlines()
    doctor.run(Settings(), as_json=True, before=before)
    objects = json.loads(capsys.readouterr().out)

    assert [line.split()[1] for line in lines] == [one["name"] for one in objects]
    assert lines[0].split(maxsplit=2) == ["warning", "first", "a | b -> mend it"]


@pytest.mark.parametrize(
    ("loaded", "state", "found"),
    [
        (ConfigurationError("c.yaml:1: x: unknown"), State.FAILED, "c.yaml:1: x: unknown"),
        (Loaded(settings=Settings(), source=None, notices=()), State.OK, "no file, all defaults"),
        (Loaded(settings=Settings(), source=Path("/c"), notices=()), State.OK, "/c is valid"),
        (Loaded(settings=Settings(), source=Path("/c"), notices=("a", "b")), State.WARNING, "a; b"),
    ],
)
def test_configuration_is_told(
    loaded: Loaded | ConfigurationError, state: State, found: str
) -> None:
    told = doctor.configuration(loaded)

    assert (told.state, told.found) == (state, found)


def test_web_config_is_checked(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "web.yaml"
    file.write_text("tls_server_config: {cert_file: x}")

    found = finding("web_config", Settings(web=WebSettings(config_file=file)))

    assert found.state is State.FAILED
    assert "web.yaml" in found.found
    assert found.remedy.startswith("mend it, so that ")


def test_web_config_is_off_when_there_is_none() -> None:
    assert finding("web_config", Settings()).found == "none: no TLS, and anybody may ask"


def test_group_must_exist() -> None:
    found = finding("top", Settings(storage=StorageSettings(group="no-such-group")))

    assert found.state is State.FAILED
    assert "groupadd --system no-such-group" in found.found


def test_address_in_use_fails_unless_it_is_our_own_exporter(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(
            web=WebSettings(listen_addresses=(f"127.0.0.1:{taken.getsockname()[1]}",)),
            storage=StorageSettings(path=tmp_path),
        )
        assert finding("web", settings).state is State.FAILED
        listener = live.bind(tmp_path, readers=None)
        assert listener is not None
        with listener:
            found = finding("web", settings)

    assert (found.state, found.found.startswith("an exporter runs already")) == (State.OK, True)


def test_driver_of_the_log_server_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(log=LogSettings(server=ServerSettings(client="psycopg")))
    assert finding("log_server", settings).state is State.OK
    monkeypatch.setitem(sys.modules, "psycopg", None)

    found = finding("log_server", settings)

    assert found.state is State.FAILED
    assert "picosnitch-exporter[postgresql]" in found.found


def test_desktop_is_a_warning_when_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_check, "_is_installed", lambda _module: False)

    assert finding("desktop", Settings()).state is State.WARNING
    off = Settings(notifications=NotificationSettings(desktop=False))
    assert finding("desktop", off).found == "no notifications"
