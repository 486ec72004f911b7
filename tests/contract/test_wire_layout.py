"""The layouts of ebpf/picosnitch.h, from the built object's BTF, against those of Python."""

import re
import struct
from enum import IntEnum, IntFlag
from importlib import resources
from pathlib import Path

import pytest

from picosnitch_exporter import runs, wire
from picosnitch_exporter.model import Direction
from picosnitch_exporter.sensor import control, drain
from tests.contract.btf import Btf, Struct

HEADER_FILE = Path(__file__).parents[2] / "ebpf" / "picosnitch.h"
OBJECT = resources.files("picosnitch_exporter.sensor") / "picosnitch.bpf.o"

# Each with the struct's last member that is always whole: what follows is as long as it says.
RECORDS = {
    "record_header": (wire.HEADER, None),
    "flow_record": (wire.FLOW, None),
    "process_record": (wire.PROCESS, "cmdline"),
    "dns_record": (wire.DNS, "payload"),
    "unseen_record": (wire.UNSEEN, None),
    "lookup_record": (wire.LOOKUP, None),
    "cgroup_key": (wire.CGROUP_KEY, None),
}
ENUMS: dict[str, tuple[str, type[IntEnum] | type[IntFlag]]] = {
    "record_kind": ("RECORD_", wire.RecordKind),
    "flow_flags": ("FLOW_", wire.FlowFlag),
    "process_flags": ("PROCESS_", wire.ProcessFlag),
    "dns_flags": ("DNS_", wire.DnsFlag),
    "counter": ("COUNTER_", wire.Counter),
}


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf.of_object(OBJECT.read_bytes())


def python_fields(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of each field of a format without alignment."""
    assert layout.format[0] == "="
    fields, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format[1:]):
        repeats = 1 if code == "s" else int(count or 1)
        size = struct.calcsize(f"={count if code == 's' else ''}{code}")
        for _ in range(repeats):
            fields.append((offset, size))
            offset += size
    return fields


def c_fields(btf: Btf, found: Struct, *, until: str | None, base: int = 0) -> list[tuple[int, int]]:
    """Offset and size of each field, those of structs within one by one."""
    fields = []
    for member in found.members:
        if member.name == until:
            break
        start = base + member.offset
        inner = btf.find_struct(member.type_name) if member.type_name else None
        fields += c_fields(btf, inner, until=None, base=start) if inner else [(start, member.size)]
    return fields


@pytest.mark.parametrize("name", RECORDS)
def test_fields_agree_in_offset_and_size(btf: Btf, name: str) -> None:
    layout, until = RECORDS[name]

    assert python_fields(layout) == c_fields(btf, btf.struct(name), until=until)


@pytest.mark.parametrize("name", RECORDS)
def test_no_byte_is_left_out_when_a_record_is_written(btf: Btf, name: str) -> None:
    found = btf.struct(name)
    end = 0
    for offset, size in c_fields(btf, found, until=None):
        assert end == offset, "implicit padding would carry kernel memory"
        end = offset + size

    assert found.size == end


@pytest.mark.parametrize(
    ("name", "member", "size"),
    [
        ("process_record", "cmdline", wire.CMDLINE_BYTES),
        ("process_record", "comm", wire.COMM_BYTES),
        ("dns_record", "payload", wire.DNS_BYTES),
        ("cgroup_path", "path", wire.CGROUP_PATH_BYTES),
    ],
)
def test_arrays_are_as_long_as_python_takes_them(
    btf: Btf, name: str, member: str, size: int
) -> None:
    assert [size] == [one.size for one in btf.struct(name).members if one.name == member]


@pytest.mark.parametrize("name", ENUMS)
def test_enum_values_agree(btf: Btf, name: str) -> None:
    prefix, enumeration = ENUMS[name]
    values = dict(btf.enum(name))
    if name == "counter":
        assert len(wire.Counter) == values.pop("COUNTER_MAX")

    assert {f"{prefix}{one.name}": one.value for one in enumeration} == values


def test_directions_agree(btf: Btf) -> None:
    expected = {"UNKNOWN": "", "OUTBOUND": "outbound", "INBOUND": "inbound"}
    values = btf.enum("flow_direction")

    assert {f"DIRECTION_{name}" for name in expected} == set(values)
    for name, text in expected.items():
        assert wire.DIRECTIONS[values[f"DIRECTION_{name}"]] is Direction(text)


def test_control_block_agrees(btf: Btf) -> None:
    found = btf.struct("control")
    longs = {member.name: member.offset // 8 for member in found.members if member.size == 8}
    words = {member.name: member.offset // 4 for member in found.members if member.size == 4}

    assert found.size == control.SIZE
    for name, index in (longs | words).items():
        python_name = f"_{name.removesuffix('_ns').upper()}"
        assert index == getattr(control, python_name), name


@pytest.mark.parametrize("name", ["flow_record", "unseen_record"])
def test_sensor_finds_who_a_record_speaks_of(btf: Btf, name: str) -> None:
    """It reads these two only, at offsets of its own."""
    offsets = {member.name: member.offset for member in btf.struct(name).members}
    end = offsets["executable"] + btf.struct("file_identity").size

    assert slice(offsets["owner"], end) == drain._SUBJECT
    assert end - offsets["owner"] == runs.WHO.size


def test_parts_of_a_flow_are_where_the_kernel_side_writes_them(btf: Btf) -> None:
    offsets = {member.name: member.offset for member in btf.struct("flow_record").members}
    names = sorted(offsets, key=offsets.__getitem__)
    in_ring = bytes(wire.RING_HEADER.size) + bytes(range(wire.FLOW.size))
    flags, time_ns, front, *sums, back = runs.PARTS.unpack(in_ring)

    def at(name: str, size: int) -> int:
        return int.from_bytes(in_ring[8 + offsets[name] :][:size], "little")

    assert (flags, time_ns) == (int.from_bytes(in_ring[10:12], "little"), at("header", 16) >> 64)
    assert offsets["owner"] == front[0]
    assert len(front) == offsets["transmit_bytes"] - offsets["owner"]
    sum_names = names[names.index("transmit_bytes") : names.index("local_address")]
    assert [at(name, 4 if "_bytes" not in name else 8) for name in sum_names] == sums
    assert offsets["local_address"] == back[0]
    assert (runs.COOKIE.size, runs.PLACE.size) == (len(front), len(back))
    assert (offsets["cookie"],) == (front[40],)
    assert {runs.PARTS.size, runs.OWNERS.size} == {runs.STEP_BYTES}


def test_wire_version_agrees() -> None:
    found = re.search(r"#define PICOSNITCH_WIRE_VERSION (\d+)", HEADER_FILE.read_text())

    assert found
    assert int(found[1]) == wire.WIRE_VERSION
