"""The types in a BPF object, as its .BTF section describes them.

Sources: Documentation/bpf/btf.rst, include/uapi/linux/btf.h, elf(5).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

_MAGIC = 0xEB9F
_ELF_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_BTF_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ENUM = struct.Struct("<Ii")
_ENUM64 = struct.Struct("<IIi")
_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM_KIND = range(1, 7)
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = range(8, 12)
_PROTOTYPE, _VARIABLE, _SECTION_KIND = range(13, 16)
_DECLARATION_TAG, _TYPE_TAG, _ENUM64_KIND = range(17, 20)
# Bytes that follow a type, for each of its elements and once.
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM_KIND: 8, _PROTOTYPE: 8, _SECTION_KIND: 12, _ENUM64_KIND: 12}
_ONCE = {_INT: 4, _ARRAY: 12, _VARIABLE: 4, _DECLARATION_TAG: 4}
_WRAPPERS = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}
_POINTER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A field; `type_name` is the innermost name, empty for arrays and pointers."""

    name: str
    offset: int
    size: int
    type_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """A struct with its fields in order."""

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    elements: int
    data: bytes


class Btf:
    """The types of one object."""

    def __init__(self, section: bytes) -> None:
        magic, _version, _flags, header, types, types_length, strings, _ = _BTF_HEADER.unpack_from(
            section
        )
        if magic != _MAGIC:
            msg = f"not BTF: it begins with {magic:#x}"
            raise ValueError(msg)
        self._strings = section[header + strings :]
        # Type 0 is void.
        self._types = [_Type(name="void", kind=0, size_or_type=0, elements=0, data=b"")]
        self._types += self._read(section[header + types : header + types + types_length])

    @classmethod
    def of_object(cls, image: bytes) -> Self:
        """From a 64-bit little-endian ELF file."""
        header = _ELF_HEADER.unpack_from(image)
        offset, size, count, names = header[5], header[10], header[11], header[12]
        sections = [_SECTION.unpack_from(image, offset + size * index) for index in range(count)]
        name_table = sections[names][4]
        for section in sections:
            start = name_table + section[0]
            if image[start : image.index(b"\0", start)] == b".BTF":
                return cls(image[section[4] : section[4] + section[5]])
        msg = "the object has no .BTF section"
        raise ValueError(msg)

    def _read(self, data: bytes) -> Iterator[_Type]:
        offset = 0
        while offset < len(data):
            name, info, size_or_type = _TYPE.unpack_from(data, offset)
            offset += _TYPE.size
            kind, elements = info >> 24 & 0x1F, info & 0xFFFF
            length = _ONCE.get(kind, 0) + _EACH.get(kind, 0) * elements
            yield _Type(
                name=self._string(name),
                kind=kind,
                size_or_type=size_or_type,
                elements=elements,
                data=data[offset : offset + length],
            )
            offset += length

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def struct(self, name: str) -> Struct:
        """A struct by its tag."""
        found = self.find_struct(name)
        if found is None:
            msg = f"the object's BTF has no struct {name}"
            raise KeyError(msg)
        return found

    def find_struct(self, name: str) -> Struct | None:
        """A struct by its tag; None where there is none."""
        found = self._find(name, {_STRUCT})
        if found is None:
            return None
        members = tuple(
            Member(
                name=self._string(member),
                offset=bits // 8,
                size=self._size(number),
                type_name=self._unwrap(number).name,
            )
            for member, number, bits in _MEMBER.iter_unpack(found.data)
        )
        return Struct(name=name, size=found.size_or_type, members=members)

    def enum(self, name: str) -> Mapping[str, int]:
        """The values of an enum by their names, in order."""
        found = self._find(name, {_ENUM_KIND, _ENUM64_KIND})
        if found is None:
            msg = f"the object's BTF has no enum {name}"
            raise KeyError(msg)
        if found.kind == _ENUM_KIND:
            return {self._string(value): number for value, number in _ENUM.iter_unpack(found.data)}
        return {
            self._string(value): high << 32 | low
            for value, low, high in _ENUM64.iter_unpack(found.data)
        }

    def _find(self, name: str, kinds: set[int]) -> _Type | None:
        matches = (one for one in self._types if one.name == name and one.kind in kinds)
        return next(matches, None)

    def _unwrap(self, number: int) -> _Type:
        found = self._types[number]
        while found.kind in _WRAPPERS and found.kind != _TYPEDEF:
            found = self._types[found.size_or_type]
        return found

    def _size(self, number: int) -> int:
        found = self._types[number]
        while found.kind in _WRAPPERS:
            found = self._types[found.size_or_type]
        if found.kind == _POINTER:
            return _POINTER_BYTES
        if found.kind == _ARRAY:
            element, _index, count = _MEMBER.unpack(found.data)
            return self._size(element) * int(count)
        return found.size_or_type
