import json
import sys

import pytest

from picosnitch_exporter.settings import OtlpSettings, Settings
from picosnitch_exporter.terminal import doctor


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def finding(otlp: OtlpSettings, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    doctor.run(Settings(otlp=otlp), as_json=True)
    (found,) = [one for one in json.loads(capsys.readouterr().out) if one["name"] == "otlp"]
    return {name: str(value) for name, value in found.items()}


def test_otlp_is_off_when_there_is_no_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    found = finding(OtlpSettings(), capsys)

    assert (found["state"], found["found"]) == ("ok", "off")


def test_otlp_says_where_it_goes_when_there_is_an_endpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = finding(OtlpSettings(endpoint="http://a:4318", logs=True), capsys)

    assert found["state"] == "ok"
    assert found["found"] == "goes to http://a:4318/v1/metrics, http://a:4318/v1/logs"


def test_otlp_fails_when_its_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})

    found = finding(OtlpSettings(endpoint="http://a:4317", protocol="grpc"), capsys)

    assert found["state"] == "failed"
    assert found["remedy"] == "pip install 'picosnitch-exporter[otlp-grpc]'"


def test_otlp_fails_when_a_setting_can_not_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    found = finding(OtlpSettings(logs=True), capsys)

    assert found["state"] == "failed"
    assert found["found"].startswith("otlp.logs: there is nowhere to send them")
