"""The table of settings, its page, the contract's defaults and the flags say the same."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from picosnitch_exporter import cli
from picosnitch_exporter.config import show
from picosnitch_exporter.config.keys import BY_NAME, BY_PICOSNITCH, KEYS, value_of
from picosnitch_exporter.config.reference import markdown
from picosnitch_exporter.settings import ServerSettings, Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

CONTRACT = """
web:           {listen_addresses: [":10054"], telemetry_path: /metrics, config_file: null}
storage:       {path: /var/lib/picosnitch}
bpf:           {plan: auto, ring_buffer_pages: 64, keep_on_exit: true, linger_seconds: 900,
                bandwidth: true}
identity:      {every_exe: false, rlimit_nofile: null, st_dev_mask: null}
log:
  write_limit_seconds: 10
  addresses: true
  commands: true
  ports: true
  ignore: []
  sqlite:      {enabled: true, retention_days: 90}
  text:        {enabled: false}
  server:      {}
metrics:       {max_executables: 2000, stale_after_seconds: 86400}
otlp:          {endpoint: null, protocol: http/protobuf, interval_seconds: 60, logs: false}
virustotal:    {api_key: "", api_key_file: null, file_upload: false, request_limit_seconds: 15,
                base_url: "https://www.virustotal.com/api/v3"}
notifications: {desktop: true, user: null, webhook_url: null, syslog: false}
kubernetes:    {enabled: auto}
"""

PICOSNITCH = {
    "Bandwidth monitor": True,
    "DB retention (days)": 90,
    "DB sql log": True,
    "DB sql server": {},
    "DB text log": False,
    "DB write limit (seconds)": 10,
    "Desktop notifications": True,
    "Every exe (not just conns)": False,
    "Log addresses": True,
    "Log commands": True,
    "Log ports": True,
    "Log ignore": [],
    "Perf ring buffer (pages)": 64,
    "Set RLIMIT_NOFILE": None,
    "Set st_dev mask": None,
    "VT API key": "",
    "VT file upload": False,
    "VT request limit (seconds)": 15,
}


def leaves(group: object, prefix: str = "") -> list[str]:
    names: list[str] = []
    assert dataclasses.is_dataclass(group)
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, ServerSettings):
            names += leaves(value, f"{name}.")
        else:
            names.append(name)
    return names


def flattened(mapping: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in mapping.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in BY_NAME:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def test_page_is_what_the_table_says() -> None:
    command = "run: python -m picosnitch_exporter.config.reference > docs/configuration.md"

    assert markdown() == PAGE.read_text(encoding="utf-8"), command


def test_table_has_each_field_of_the_settings_once() -> None:
    assert sorted(leaves(Settings())) == sorted(key.name for key in KEYS)


def test_nested_defaults_are_those_of_the_contract() -> None:
    shown = flattened(yaml.safe_load(show(Settings())))

    contract = flattened(yaml.safe_load(CONTRACT))
    assert contract == {name: shown[name] for name in contract}


def test_picosnitch_defaults_are_those_of_the_contract() -> None:
    assert {
        name: key.kind.plain(value_of(Settings(), key)) for name, key in BY_PICOSNITCH.items()
    } == PICOSNITCH


def test_each_doc_is_one_sentence_without_a_full_stop() -> None:
    assert [key.name for key in KEYS if not key.doc or key.doc.endswith(".")] == []


@pytest.mark.parametrize(
    "flag",
    [
        "--config.file",
        "--web.listen-address",
        "--web.telemetry-path",
        "--web.config.file",
        "--storage.path",
        "--bpf.plan",
        "--log.level",
        "--log.format",
    ],
)
def test_run_has_each_flag_of_the_contract(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["run", "--help"])

    assert f"  {flag} " in capsys.readouterr().out
    assert f"| `{flag}` |" in PAGE.read_text(encoding="utf-8")
