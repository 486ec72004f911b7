from dataclasses import replace
from pathlib import Path

import pytest

from picosnitch_exporter.config import load
from picosnitch_exporter.config.headers import parse_headers
from picosnitch_exporter.config.otel import OtlpPlan, OtlpTarget, plan
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.settings import OtlpSettings

HERE = OtlpSettings(endpoint="http://collector:4318")


def made(otlp: OtlpSettings = HERE, **variables: str) -> OtlpPlan:
    result = plan(otlp, variables)
    assert result is not None
    return result


def metrics(otlp: OtlpSettings = HERE, **variables: str) -> OtlpTarget:
    target = made(otlp, **variables).metrics
    assert target is not None
    return target


def logs(otlp: OtlpSettings, **variables: str) -> OtlpTarget:
    target = made(otlp, **variables).logs
    assert target is not None
    return target


def test_nothing_is_sent_when_there_is_no_endpoint() -> None:
    assert plan(OtlpSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "}) is None


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://collector:4318", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/", "http://collector:4318/v1/metrics"),
        ("http://prometheus:9090/api/v1/otlp", "http://prometheus:9090/api/v1/otlp/v1/metrics"),
        ("http://collector:4318/v1/metrics", "http://collector:4318/v1/metrics"),
        ("http://collector:4318/v1/logs", "http://collector:4318/v1/metrics"),
    ],
)
def test_path_of_the_signal_is_added_when_the_protocol_is_http(
    endpoint: str, expected: str
) -> None:
    assert metrics(OtlpSettings(endpoint=endpoint)).url == expected
    assert metrics(OtlpSettings(), OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=endpoint).url == endpoint


def test_no_path_is_added_when_the_protocol_is_grpc() -> None:
    otlp = OtlpSettings(endpoint="https://collector:4317", protocol="grpc", logs=True)

    assert metrics(otlp).url == logs(otlp).url == "https://collector:4317"
    assert metrics(otlp).is_grpc


def test_general_variable_counts_when_no_endpoint_is_set() -> None:
    otlp = OtlpSettings(logs=True)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a/base/"}

    assert metrics(otlp, **variables).url == "http://a/base/v1/metrics"
    assert logs(otlp, **variables).url == "http://a/base/v1/logs"


def test_signals_go_to_different_places_when_each_has_its_variable() -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://b:4317",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "all=1",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "X-Token=two%20words",
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
    }
    otlp = OtlpSettings(logs=True)

    expected = OtlpTarget(
        url="http://a/v1/metrics",
        is_grpc=False,
        headers=(("all", "1"),),
        timeout_seconds=2.5,
        is_compressed=False,
        certificate=None,
        client_certificate=None,
        client_key=None,
    )
    assert metrics(otlp, **variables) == expected
    assert logs(otlp, **variables) == replace(
        expected,
        url="http://b:4317",
        is_grpc=True,
        headers=(("x-token", "two words"),),
        timeout_seconds=10,
        is_compressed=True,
    )


@pytest.mark.parametrize(
    ("insecure", "scheme"), [("true", "http"), ("false", "https"), ("", "https")]
)
def test_scheme_says_whether_tls_is_used_when_grpc_has_only_a_host(
    insecure: str, scheme: str
) -> None:
    target = metrics(
        OtlpSettings(protocol="grpc"),
        OTEL_EXPORTER_OTLP_ENDPOINT="collector:4317",
        OTEL_EXPORTER_OTLP_INSECURE=insecure,
    )

    assert target.url == f"{scheme}://collector:4317"


def test_setting_wins_when_the_variable_says_something_else() -> None:
    otlp = replace(
        HERE,
        timeout_seconds=3,
        compression="gzip",
        temporality="delta",
        interval_seconds=7,
        headers=(("a", "b"),),
    )
    variables = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://other/v1/metrics",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_EXPORTER_OTLP_HEADERS": "c=d",
    }

    assert made(otlp, **variables) == made(otlp)
    assert made(otlp).interval_seconds == 7


def test_interval_and_temporality_come_from_variables_when_at_their_defaults() -> None:
    result = made(
        OTEL_METRIC_EXPORT_INTERVAL="1500",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="Delta",
    )

    assert (result.interval_seconds, result.is_delta) == (1.5, True)
    assert (made().interval_seconds, made().is_delta) == (60, False)


def test_lowmemory_is_cumulative_when_preferred() -> None:
    assert not made(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="lowmemory").is_delta


@pytest.mark.parametrize(
    ("variables", "has_metrics", "has_logs"),
    [
        ({"OTEL_METRICS_EXPORTER": "none"}, False, True),
        ({"OTEL_LOGS_EXPORTER": "console"}, True, False),
        ({"OTEL_METRICS_EXPORTER": "console, otlp"}, True, True),
    ],
)
def test_signal_is_not_sent_when_its_exporter_is_another(
    variables: dict[str, str],
    has_metrics: bool,  # noqa: FBT001
    has_logs: bool,  # noqa: FBT001
) -> None:
    result = made(replace(HERE, logs=True), **variables)

    assert (result.metrics is not None, result.logs is not None) == (has_metrics, has_logs)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
    ],
)
def test_nothing_is_sent_when_all_is_switched_off(variables: dict[str, str]) -> None:
    assert plan(replace(HERE, logs=True), variables) is None


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "must be a whole number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0", "must be a whole number of milliseconds"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "9" * 5000, "must be a whole number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "must be none or gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "token", "must be name=value pairs"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=b,a b=c", "header 2 has no valid name"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0d%0ax", "the value of 'a' must be printable"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem", "/nowhere/ca.pem can't be read by"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "low", "must be cumulative, delta"),
    ],
)
def test_message_names_the_variable_when_its_value_is_wrong(
    variable: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        plan(HERE, {variable: value})

    assert str(raised.value).startswith(f"{variable}: {expected}")


def test_endpoint_variable_is_refused_when_it_is_no_url() -> None:
    with pytest.raises(ConfigurationError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL"):
        plan(OtlpSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})


def test_logs_need_an_endpoint_when_they_are_on() -> None:
    with pytest.raises(ConfigurationError, match=r"^otlp\.logs: .* set otlp\.endpoint"):
        plan(OtlpSettings(logs=True), {})


def test_file_is_named_by_its_key_when_it_can_not_be_read() -> None:
    with pytest.raises(ConfigurationError, match=r"^otlp\.certificate: /nowhere can't be read"):
        plan(replace(HERE, certificate=Path("/nowhere")), {})


def test_key_needs_a_certificate_when_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "key").touch()

    with pytest.raises(ConfigurationError, match=r"^otlp\.client_key: needs"):
        plan(replace(HERE, client_key=tmp_path / "key"), {})


def test_files_come_from_settings_or_variables_when_either_names_them(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    target = metrics(
        replace(HERE, client_certificate=tmp_path / "cert", client_key=tmp_path / "key"),
        OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE=str(tmp_path / "ca"),
    )

    assert target.certificate == tmp_path / "ca"
    assert (target.client_certificate, target.client_key) == (tmp_path / "cert", tmp_path / "key")


def test_files_are_named_once_when_both_signals_use_them(tmp_path: Path) -> None:
    for name in ("ca", "cert"):
        (tmp_path / name).touch()
    otlp = replace(
        HERE, logs=True, certificate=tmp_path / "ca", client_certificate=tmp_path / "cert"
    )

    assert made(otlp).files == (tmp_path / "ca", tmp_path / "cert")
    assert made().files == ()


def test_headers_are_read_when_a_file_has_a_line_for_each(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization=Bearer abc=\n\nx-scope=a%2Cb\n")
    (tmp_path / "headers").chmod(0o600)
    (tmp_path / "c.yaml").write_text("otlp: {headers_file: headers}")

    settings = load(tmp_path / "c.yaml", environment={}, overrides={})

    assert settings.otlp.headers == (("authorization", "Bearer abc="), ("x-scope", "a,b"))
    assert "Bearer" not in repr(settings)


def test_headers_are_a_secret_when_they_stand_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("otlp: {headers: {Authorization: Bearer abc}}")
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"others can read it"):
        load(file, environment={}, overrides={})
    file.chmod(0o600)

    settings = load(file, environment={}, overrides={})

    assert settings.otlp.headers == (("authorization", "Bearer abc"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{headers: [a]}", "must be a mapping of names to texts"),
        ("{headers: {a: 1}}", "must be a mapping of names to texts"),
        ("{headers: <secret>}", "is <secret>, which --show prints instead"),
        ("{headers: {'a b': c}}", "header 1 has no valid name"),
    ],
)
def test_headers_are_refused_when_they_are_no_pairs(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"otlp: {text}")
    file.chmod(0o600)

    with pytest.raises(ConfigurationError, match=f"otlp.headers: {expected}"):
        load(file, environment={}, overrides={})


@pytest.mark.parametrize(
    "text", ["authorization: Basic c2VjcmV0Cg==", "Bearer c2VjcmV0Cg==", "a=b,c: c2VjcmV0Cg=="]
)
def test_message_repeats_no_secret_when_it_stands_where_a_name_belongs(text: str) -> None:
    with pytest.raises(ValueError, match="has no valid name") as raised:
        parse_headers(text)
    assert "c2VjcmV0" not in str(raised.value)


def test_empty_items_are_left_out_when_headers_are_text() -> None:
    assert parse_headers(" , a=1,,b = 2 ,") == (("a", "1"), ("b", "2"))
    assert parse_headers("") == ()


@pytest.mark.parametrize("name", ["s3cret-bin", "-bin", "s3cret!", "s3c+ret"])
def test_header_is_refused_when_grpc_does_not_send_its_name(name: str) -> None:
    written = replace(HERE, headers=((name, "s3cret"),))
    variable = "OTEL_EXPORTER_OTLP_METRICS_HEADERS"

    for otlp, place in ((written, "otlp.headers"), (HERE, variable)):
        with pytest.raises(ConfigurationError, match=f"^{place}: header 1 can't go over") as error:
            plan(replace(otlp, protocol="grpc"), {variable: f"{name}=s3cret"})
        assert "s3c" not in str(error.value)
    assert metrics(written).headers == ((name, "s3cret"),)


def test_header_goes_over_grpc_when_its_name_is_one_there() -> None:
    headers = (("x-api_key.v1", "1"), ("bin", "2"), ("x-bins", "3"))

    assert metrics(replace(HERE, headers=headers, protocol="grpc")).headers == headers
