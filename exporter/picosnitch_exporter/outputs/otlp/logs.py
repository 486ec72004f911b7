"""Rows of the connection log as OTLP log records.

Sources: semantic conventions 1.44 (source, destination, network, process, container), OTLP log data
model. What has no name there begins with `picosnitch.`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from picosnitch_exporter.catalog import OTLP_ATTRIBUTES, label_value
from picosnitch_exporter.model import HOST, NO_PROGRAM, Direction, Executable, LogRow, Program
from picosnitch_exporter.outputs.otlp.attributes import (
    TRANSPORT,
    Attributes,
    container_attribute,
    executable_attributes,
)

CONNECTION_EVENT: Final = "picosnitch.connection"
EXECUTION_EVENT: Final = "picosnitch.execution"
"""Of a row that stands for an executable that ran (`Every exe`)."""

_EXECUTION_PORT: Final = -1
_NS: Final = 1_000_000_000
_RECORD_BYTES: Final = 64
_ATTRIBUTE_BYTES: Final = 16
_BYTES_A_CHARACTER: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMapping:
    """Makes records of one sender."""

    resource: Resource
    scope: InstrumentationScope

    def batches(
        self, rows: tuple[LogRow, ...], *, max_records: int, max_bytes: int
    ) -> Iterator[list[ReadableLogRecord]]:
        """All rows, in batches that a receiver takes, made as they are asked for."""
        batch: list[ReadableLogRecord] = []
        size_bytes = 0
        for row in rows:
            record = self.record(row)
            estimate = _estimate(record)
            if batch and (len(batch) >= max_records or size_bytes + estimate > max_bytes):
                yield batch
                batch = []
                size_bytes = 0
            batch.append(record)
            size_bytes += estimate
        if batch:
            yield batch

    def record(self, row: LogRow) -> ReadableLogRecord:
        """One row."""
        is_execution = row.remote_port == _EXECUTION_PORT
        time_ns = int(row.contime * _NS)
        return ReadableLogRecord(
            log_record=LogRecord(
                timestamp=time_ns,
                observed_timestamp=time_ns,
                severity_text="INFO",
                severity_number=SeverityNumber.INFO,
                body=_execution_text(row) if is_execution else _connection_text(row),
                attributes=_attributes(row, is_execution=is_execution),
                event_name=EXECUTION_EVENT if is_execution else CONNECTION_EVENT,
            ),
            resource=self.resource,
            instrumentation_scope=self.scope,
        )


def _attributes(row: LogRow, *, is_execution: bool) -> Attributes:
    attributes = executable_attributes(
        Executable(sha256=row.program.sha256, exe=row.program.exe), HOST
    )
    attributes[OTLP_ATTRIBUTES["name"]] = label_value(row.program.name)
    attributes["process.user.id"] = row.uid
    if row.program.cmdline:
        attributes["process.command_line"] = label_value(row.program.cmdline)
    _add_ancestor(attributes, "parent", row.parent)
    _add_ancestor(attributes, "grandparent", row.grandparent)
    if row.container:
        attributes[container_attribute(row.container)] = label_value(row.container)
    attributes["picosnitch.events"] = row.events
    if not is_execution:
        _add_connection(attributes, row)
    return attributes


def _add_connection(attributes: Attributes, row: LogRow) -> None:
    attributes[TRANSPORT] = row.protocol
    attributes["picosnitch.transmit.bytes"] = row.send_bytes
    attributes["picosnitch.receive.bytes"] = row.receive_bytes
    attributes["picosnitch.netns"] = row.netns
    if row.direction:
        attributes[OTLP_ATTRIBUTES["direction"]] = row.direction.value
    if row.domain:
        attributes["picosnitch.peer.domain"] = label_value(row.domain)
    if address := row.remote_address or row.local_address:
        attributes["network.type"] = "ipv6" if ":" in address else "ipv4"
    # Source is who began: https://opentelemetry.io/docs/specs/semconv/registry/attributes/source/
    local, remote = "source", "destination"
    if row.direction is Direction.INBOUND:
        local, remote = remote, local
    for role, address, port in (
        (local, row.local_address, row.local_port),
        (remote, row.remote_address, row.remote_port),
    ):
        # Hidden by `Log addresses` or `Log ports`, or there is none.
        if address:
            attributes[f"{role}.address"] = address
        if port:
            attributes[f"{role}.port"] = port


def _add_ancestor(attributes: Attributes, of: str, program: Program) -> None:
    if program == NO_PROGRAM:
        return
    attributes[f"picosnitch.{of}.executable.path"] = label_value(program.exe)
    attributes[f"picosnitch.{of}.executable.name"] = label_value(program.name)
    attributes[f"picosnitch.{of}.executable.sha256"] = program.sha256
    if program.cmdline:
        attributes[f"picosnitch.{of}.command_line"] = label_value(program.cmdline)


def _connection_text(row: LogRow) -> str:
    host = f"[{row.remote_address}]" if ":" in row.remote_address else row.remote_address
    peer = f"{host}:{row.remote_port}" if row.remote_port else host
    words = (row.program.name, row.direction.value, row.protocol, peer)
    return label_value(" ".join(word for word in words if word))


def _execution_text(row: LogRow) -> str:
    return label_value(f"{row.program.name} ran")


def _estimate(record: ReadableLogRecord) -> int:
    """Bytes on the wire, rather too many."""
    size_bytes = _RECORD_BYTES
    for name, value in (record.log_record.attributes or {}).items():
        size_bytes += _ATTRIBUTE_BYTES + len(name)
        if isinstance(value, str):
            size_bytes += len(value) * (1 if value.isascii() else _BYTES_A_CHARACTER)
    return size_bytes
