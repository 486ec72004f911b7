from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk.resources import Resource

from picosnitch_exporter.log.rows import EXECUTION_PORT, Hiding
from picosnitch_exporter.model import Direction, LogRow, Program, Sha256
from picosnitch_exporter.outputs.otlp.attributes import instrumentation_scope
from picosnitch_exporter.outputs.otlp.logs import LogMapping
from tests.log_samples import CURL, SHELL, row

MAPPING = LogMapping(resource=Resource({}), scope=instrumentation_scope("1.2.3"))

PROCESS = {
    "process.executable.path": "/usr/bin/curl",
    "process.executable.name": "curl",
    "process.command_line": "curl https://example.com/",
    "process.user.id": 1000,
    "picosnitch.executable.name": "curl",
    "picosnitch.executable.sha256": "ab" * 32,
    "picosnitch.parent.executable.path": "/usr/bin/dash",
    "picosnitch.parent.executable.name": "sh",
    "picosnitch.parent.executable.sha256": "cd" * 32,
    "picosnitch.parent.command_line": "sh -c 'curl'",
    "picosnitch.events": 3,
}


def attributes(of: LogRow) -> dict[str, object]:
    found = MAPPING.record(of).log_record.attributes
    assert found is not None
    return dict(found)


def test_row_is_a_record_with_the_names_of_the_conventions() -> None:
    record = MAPPING.record(row()).log_record

    assert record.timestamp == record.observed_timestamp == 1_700_000_000 * 10**9
    assert record.event_name == "picosnitch.connection"
    assert record.body == "curl outbound tcp 93.184.216.34:443"
    assert attributes(row()) == PROCESS | {
        "network.transport": "tcp",
        "network.type": "ipv4",
        "source.address": "10.0.0.2",
        "source.port": 50_000,
        "destination.address": "93.184.216.34",
        "destination.port": 443,
        "picosnitch.connection.direction": "outbound",
        "picosnitch.peer.domain": "com.example",
        "picosnitch.transmit.bytes": 10,
        "picosnitch.receive.bytes": 20,
        "picosnitch.netns": 4_026_531_840,
    }


def test_source_is_the_peer_when_it_began() -> None:
    found = attributes(replace(row(), direction=Direction.INBOUND, remote_address="2001:db8::1"))

    assert (found["source.address"], found["source.port"]) == ("2001:db8::1", 443)
    assert (found["destination.address"], found["destination.port"]) == ("10.0.0.2", 50_000)
    assert found["network.type"] == "ipv6"


def test_executable_that_only_ran_has_no_connection() -> None:
    ran = replace(
        row(),
        local_port=EXECUTION_PORT,
        remote_port=EXECUTION_PORT,
        local_address="",
        remote_address="",
        domain="",
        protocol="",
        direction=Direction.UNKNOWN,
    )

    record = MAPPING.record(ran).log_record

    assert (record.event_name, record.body) == ("picosnitch.execution", "curl ran")
    assert attributes(ran) == PROCESS


def test_what_the_log_hides_is_left_out() -> None:
    (hidden,) = Hiding(addresses=True, commands=True, ports=True).apply((row(),))

    found = attributes(hidden)

    assert not [name for name in found if name.endswith((".address", ".port", "command_line"))]
    assert "network.type" not in found
    assert "picosnitch.peer.domain" not in found
    assert MAPPING.record(hidden).log_record.body == "curl outbound tcp"


@pytest.mark.parametrize(
    ("container", "name"), [("0123456789abcdef", "container.id"), ("web", "container.name")]
)
def test_container_has_its_name_or_id(container: str, name: str) -> None:
    assert attributes(replace(row(), container=container))[name] == container


def test_grandparent_is_there_when_it_is_known() -> None:
    found = attributes(replace(row(), grandparent=SHELL))

    assert found["picosnitch.grandparent.executable.path"] == "/usr/bin/dash"
    assert found["picosnitch.grandparent.command_line"] == "sh -c 'curl'"


def test_text_can_be_encoded_when_it_is_not_utf8() -> None:
    odd = Program(exe="/\udcff", name="\udcfe\0", cmdline="a\udcfd", sha256=Sha256(""))

    (batch,) = MAPPING.batches((row(program=odd),), max_records=10, max_bytes=10**6)

    (record,) = encode_logs(batch).resource_logs[0].scope_logs[0].log_records
    texts = {one.key: one.value.string_value for one in record.attributes}
    assert texts["process.executable.path"] == r"/\xff"
    assert texts["process.command_line"] == r"a\xfd"
    assert record.body.string_value.startswith(r"\xfe\x00 outbound")


@given(
    commands=st.lists(st.text(max_size=500), max_size=30),
    max_records=st.integers(1, 20),
    max_bytes=st.integers(1, 20_000),
)
def test_batches_stay_below_both_bounds_and_keep_the_order(
    commands: list[str], max_records: int, max_bytes: int
) -> None:
    rows = tuple(
        row(program=replace(CURL, cmdline=command), contime=number)
        for number, command in enumerate(commands)
    )
    envelope = 500

    batches = list(MAPPING.batches(rows, max_records=max_records, max_bytes=max_bytes))

    times = [record.log_record.timestamp for batch in batches for record in batch]
    assert times == [number * 10**9 for number in range(len(rows))]
    for batch in batches:
        assert 1 <= len(batch) <= max_records
        assert len(batch) == 1 or encode_logs(batch).ByteSize() <= max_bytes + envelope
