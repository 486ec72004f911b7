"""What each kind of setting accepts, and what it says otherwise."""

import pytest

from picosnitch_exporter.config.addresses import parse_ignore, split_listen_address
from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.keys import BY_NAME, value_of
from picosnitch_exporter.settings import Settings

HASH = "0123456789abcdef" * 4


def problem(name: str, value: Plain) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        BY_NAME[name].kind.parse(value)
    return str(caught.value)


@pytest.mark.parametrize("name", BY_NAME)
def test_default_is_accepted_as_it_is_shown(name: str) -> None:
    kind, default = BY_NAME[name].kind, value_of(Settings(), BY_NAME[name])

    assert kind.parse(kind.plain(default)) == default


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bpf.bandwidth", "yes", "must be true or false, not 'yes'"),
        ("bpf.bandwidth", 1, "must be true or false, not 1"),
        ("bpf.bandwidth", None, "must be true or false, not null"),
        ("kubernetes.enabled", "on", "must be true, false or auto, not 'on'"),
        ("log.sqlite.retention_days", True, "must be a whole number from 1 to 36500, not true"),
        ("log.sqlite.retention_days", 0, "must be a whole number from 1 to 36500, not 0"),
        ("log.sqlite.retention_days", 1.0, "must be a whole number from 1 to 36500, not 1.0"),
        ("log.sqlite.retention_days", [1], "must be a whole number from 1 to 36500, not a list"),
        ("log.sqlite.retention_days", {}, "must be a whole number from 1 to 36500, not a mapping"),
        ("bpf.ring_buffer_pages", 48, "must be a power of two from 1 to 65536, not 48"),
        ("bpf.ring_buffer_pages", 1 << 17, "must be a power of two from 1 to 65536, not 131072"),
        ("identity.st_dev_mask", -1, "must be a whole number from 0 to 4294967295, or null"),
        ("bpf.plan", "kprobe", "must be auto, tracepoint, fexit or bcc, not 'kprobe'"),
        ("bpf.plan", None, "must be auto, tracepoint, fexit or bcc, not null"),
        ("storage.path", "", "must be a path, not ''"),
        ("storage.path", None, "must be a path, not null"),
        ("storage.user", 1000, "must be the name of a user, or null, not 1000"),
        ("storage.user", "a b", "must be the name of a user, not 'a b'"),
        ("web.telemetry_path", "metrics", "must begin with '/', not 'metrics'"),
        ("web.telemetry_path", "/", "must not be '/'"),
        ("web.telemetry_path", "/-/x", "must not be under '/-/'"),
        ("web.telemetry_path", "/-", "must not be under '/-/'"),
        ("web.telemetry_path", "/a b", "must be a plain path"),
        ("web.telemetry_path", "/a?b", "must be a plain path"),
        ("web.listen_addresses", ":1", "must be a list of 1 to 16 addresses, host:port"),
        ("web.listen_addresses", [], "must be a list of 1 to 16 addresses"),
        ("web.listen_addresses", [10054], "10054 must be text"),
        ("web.listen_addresses", [":1", ":1"], "names ':1' twice"),
        ("web.listen_addresses", ["localhost"], "'localhost' has no port"),
        ("web.listen_addresses", [":65536"], "':65536': the port must be a number from 0 to"),
        ("web.listen_addresses", [":\u0661"], "':\u0661': the port must be a number"),
        ("web.listen_addresses", ["::1:80"], "'::1:80': write an IPv6 address in brackets"),
        ("web.listen_addresses", ["[::g]:80"], "'[::g]:80': '::g' is not an IPv6 address"),
        ("web.listen_addresses", ["a b:80"], "'a b:80': 'a b' is neither an address nor"),
        ("web.listen_addresses", ["unix:/run/x:1"], "'unix:/run/x:1': Unix sockets are not"),
        ("otlp.endpoint", "localhost:4317", "must be a URL that begins with http"),
        ("otlp.endpoint", "http://", "must be a URL with a host"),
        ("otlp.endpoint", "http://[::1", "must be a URL: "),
        ("otlp.endpoint", "http://a:99999", "must be a URL: "),
        ("otlp.endpoint", "http://a:0", "must be a URL with a port"),
        ("otlp.endpoint", "http://a/#b", "must be a URL without '#'"),
        ("otlp.endpoint", "http://u:p@a", "must be a URL without a user and a password"),
        ("otlp.endpoint", "http://a b", "must be a URL without spaces"),
        ("log.ignore", "80", "must be a list of SHA-256 hashes"),
        ("log.ignore", [1] * 10_001, "has 10001 entries, more than 10000"),
        ("log.ignore", [-1], "-1 is not a port from 0 to 65535"),
        ("log.ignore", [True], "True is neither"),
        ("log.ignore", [None], "None is neither"),
        ("log.ignore", ["443"], "'443' in quotes is no port"),
        ("log.ignore", ["10.0.0.1/8"], "'10.0.0.1/8' has bits set beyond its mask: did you mean"),
        ("log.ignore", ["10.0.0.0/33"], "'10.0.0.0/33' is not a subnet"),
        ("log.ignore", ["10.0.0.300"], "'10.0.0.300' is neither a hash, a subnet nor"),
        ("log.ignore", ["com..example"], "'com..example' is neither a hash"),
        ("log.ignore", ["-com"], "'-com' is neither a hash"),
        ("log.server", [], "must be {} or a mapping with a client"),
        ("log.server", {"host": "x"}, "needs 'client': mariadb, psycopg, psycopg2 or pymysql"),
        ("log.server", {"client": "mysql"}, "needs 'client'"),
        ("log.server", {"client": "psycopg", "table_name": "a b"}, "'table_name' must be"),
        ("log.server", {"client": "psycopg", "table_name": "1a"}, "'table_name' must be"),
        ("log.server", {"client": "psycopg", "table_name": "a" * 64}, "'table_name' must be"),
        ("log.server", {"client": "psycopg", "a b": 1}, "'a b' is not the name of a connection"),
        ("log.server", {"client": "psycopg", "ssl": {}}, "'ssl' must be text, a whole number"),
        ("log.server", {"client": "psycopg", "password_file": 1}, "'password_file' must be a path"),
        (
            "log.server",
            {"client": "psycopg", "password_file": "x", "password": "y"},
            "has both 'password' and 'password_file'",
        ),
        (
            "log.server",
            {"client": "psycopg", "password": "<secret>"},
            "'password' is <secret>, which --show prints instead",
        ),
        ("virustotal.api_key", 12, "must be text: put it in quotes"),
        ("virustotal.api_key", "a b", "must be printable ASCII without spaces"),
        ("virustotal.api_key", "<secret>", "is <secret>, which --show prints instead of it"),
    ],
)
def test_value_is_refused_with_what_it_must_be(name: str, value: Plain, expected: str) -> None:
    assert problem(name, value).startswith(expected)


@pytest.mark.parametrize("value", ["s3cret key", "http://s3cret:x y@host", "ftp://s3cret"])
@pytest.mark.parametrize("name", ["virustotal.api_key", "notifications.webhook_url"])
def test_secret_is_not_repeated_when_it_is_refused(name: str, value: str) -> None:
    try:
        BY_NAME[name].kind.parse(value)
    except ValueError as error:
        assert "s3cret" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":10054", ("", 10054)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
        ("Node-1.example:80", ("Node-1.example", 80)),
    ],
)
def test_listen_address_is_split(address: str, expected: tuple[str, int]) -> None:
    assert split_listen_address(address) == expected
    assert BY_NAME["web.listen_addresses"].kind.parse([address]) == (address,)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (0, 0),
        (65535, 65535),
        (HASH.upper(), HASH),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.168.1.1", "192.168.1.1/32"),
        ("FD00::/8", "fd00::/8"),
        ("Com.Example", "com.example"),
        ("com.xn--bcher-kva", "com.xn--bcher-kva"),
        ("local", "local"),
        ("com.example._tcp", "com.example._tcp"),
    ],
)
def test_ignore_entry_has_one_spelling(entry: str | int, expected: str | int) -> None:
    assert parse_ignore(entry) == expected


def test_ignore_entries_stand_once_when_repeated() -> None:
    kind = BY_NAME["log.ignore"].kind

    assert kind.parse(["com.b", 80, "COM.B", 80]) == ("com.b", 80)


def test_base_url_loses_its_last_slash() -> None:
    assert BY_NAME["virustotal.base_url"].kind.parse("http://a:1/v3/") == "http://a:1/v3"


def test_webhook_url_may_carry_a_password() -> None:
    url = "https://user:password@example/x"

    assert BY_NAME["notifications.webhook_url"].kind.parse(url) == url


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("kubernetes.enabled", True, True),
        ("web.config_file", "", None),
        ("otlp.endpoint", "", None),
        ("notifications.user", "alice", "alice"),
        ("identity.rlimit_nofile", 4096, 4096),
        ("log.server", {}, None),
    ],
)
def test_value_is_accepted(name: str, value: Plain, expected: object) -> None:
    kind = BY_NAME[name].kind

    assert kind.parse(value) == expected
    assert kind.parse(kind.plain(expected)) == expected
