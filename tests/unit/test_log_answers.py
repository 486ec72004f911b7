import contextlib
import struct
import time

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from picosnitch_exporter.errors import WireError
from picosnitch_exporter.log.answers import MAX_RECORDS, Answer, parse, reverse, reverse_text
from tests.dns_samples import answer, simple_answer

SLOWEST_SECONDS = 0.25
"""A message of 4 KB that was made to be slow takes 5 ms; emulated machines are slower."""


def test_name_is_reversed_when_asked_for() -> None:
    assert parse(simple_answer()) == Answer(
        domain="com.example.www", addresses=(("192.0.2.1", 60),)
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_address_reads_as_in_the_log_when_written_otherwise(address: str, shown: str) -> None:
    found = parse(simple_answer(address=address))
    assert found
    assert found.addresses == ((shown, 60),)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_name_asked_for_counts_when_it_is_an_alias(order: tuple[int, int, int]) -> None:
    records = (
        ("WWW.example.com", 300, "CNAME", "a.cdn.example.net."),
        ("a.cdn.example.net", 300, "CNAME", "b.cdn.example.net."),
        ("b.cdn.example.net", 20, "A", "192.0.2.7"),
    )
    found = parse(answer("www.EXAMPLE.com", *(records[index] for index in order)))
    assert found == Answer(domain="com.example.www", addresses=(("192.0.2.7", 20),))


def test_addresses_of_other_names_do_not_count_when_in_the_answer() -> None:
    found = parse(
        answer(
            "www.example.com",
            ("www.example.com", 60, "A", "192.0.2.1"),
            ("bank.example.org", 60, "A", "192.0.2.2"),
        )
    )
    assert found
    assert found.addresses == (("192.0.2.1", 60),)


def test_parsing_ends_when_aliases_go_round() -> None:
    assert (
        parse(
            answer(
                "a.example",
                ("a.example", 1, "CNAME", "b.example."),
                ("b.example", 1, "CNAME", "a.example."),
                ("c.example", 1, "A", "192.0.2.1"),
            )
        )
        is None
    )


def test_nothing_is_learned_when_there_is_nothing_in_it() -> None:
    query = dns.message.make_query("www.example.com", "A").to_wire()
    refused = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    refused.set_rcode(dns.rcode.REFUSED)
    text = answer("www.example.com", ("www.example.com", 60, "TXT", '"192.0.2.1"'), kind="TXT")
    blocked = simple_answer(address="0.0.0.0")
    blocked6 = simple_answer(address="::")
    root = answer(".", (".", 60, "A", "192.0.2.1"))
    chaos = simple_answer()[:-16] + b"\xc0\x0c\x00\x01\x00\x03" + simple_answer()[-10:]
    messages = (query, refused.to_wire(), answer("x.example"), text, blocked, blocked6, root, chaos)
    assert [None] * len(messages) == [parse(message) for message in messages]


def test_first_addresses_count_when_the_end_is_missing() -> None:
    records = [("many.example", 60, "A", f"192.0.2.{index}") for index in range(1, 60)]
    whole = answer("many.example", *records)
    with pytest.raises(WireError, match="malformed DNS answer"):
        parse(whole[:512])
    found = parse(whole[:512], is_cut=True)
    assert found
    assert found.addresses == tuple((data, 60) for _o, _t, _k, data in records[:30])
    by_resolver = bytearray(whole[:512])
    by_resolver[2] |= dns.flags.TC >> 8
    assert found == parse(bytes(by_resolver))


def test_records_are_read_up_to_a_bound_when_there_are_many() -> None:
    records = [("many.example", 1, "A", f"192.0.{i // 256}.{i % 256}") for i in range(1, 200)]
    found = parse(answer("many.example", *records))
    assert found
    assert len(found.addresses) == MAX_RECORDS


def test_ttl_is_0_when_its_first_bit_is_set() -> None:
    message = simple_answer()
    message = message[:-10] + struct.pack("!I", 1 << 31) + message[-6:]
    found = parse(message)
    assert found
    assert found.addresses == (("192.0.2.1", 0),)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        simple_answer()[:11],
        simple_answer()[:20],
        simple_answer()[:-1],
        simple_answer()[:-17],
        # A name that points at itself, and one that points ahead.
        simple_answer()[:12] + b"\xc0\x0c\x00\x01\x00\x01",
        simple_answer()[:12] + b"\xc0\xff\x00\x01\x00\x01",
        # A record longer than the message.
        simple_answer()[:-6] + b"\xff\xff\x7f\x00\x00\x01",
    ],
)
def test_malformed_answer_is_refused_when_whole(message: bytes) -> None:
    with pytest.raises(WireError, match="malformed DNS answer"):
        parse(message)


@given(message=st.binary(max_size=1300), is_cut=st.booleans())
@example(message=b"\0\0\x80\0\0\x01\0\x01" + bytes(100), is_cut=False)
def test_any_bytes_are_harmless_when_parsed(message: bytes, is_cut: bool) -> None:  # noqa: FBT001
    began = time.perf_counter()
    with contextlib.suppress(WireError):
        parse(message, is_cut=is_cut)
    assert time.perf_counter() - began < SLOWEST_SECONDS


@given(st.data())
def test_any_damage_is_harmless_when_parsed(data: st.DataObject) -> None:
    message = bytearray(
        answer(
            "www.example.com",
            ("www.example.com", 300, "CNAME", "cdn.example.net."),
            *(("cdn.example.net", 60, "A", f"192.0.2.{index}") for index in range(4)),
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(message))
    except WireError:
        return
    if found:
        assert found.domain.isascii()
        assert found.domain.isprintable()


def test_parsing_is_quick_when_names_are_chains_of_pointers() -> None:
    """Each name is 127 labels behind as many pointers as the message has room for."""
    chain = bytearray(simple_answer()[:-16])
    start = len(chain) + 2
    chain += b"\xc0\x0c"
    while len(chain) < 3000:
        chain += b"\x01x" + struct.pack("!H", 0xC000 | max(12, len(chain) - 4))
    pointer = struct.pack("!H", 0xC000 | (len(chain) - 4))
    head = struct.pack("!2HIH", 16, 1, 60, len(chain) - start)
    message = bytearray(chain[: start - 2] + b"\xc0\x0c" + head + chain[start:])
    while len(message) < 4096 - 14:
        message += pointer + struct.pack("!2HIH", 5, 1, 60, 2) + pointer
    struct.pack_into("!H", message, 6, 300)
    began = time.perf_counter()
    with contextlib.suppress(WireError):
        parse(bytes(message), is_cut=True)
    assert time.perf_counter() - began < SLOWEST_SECONDS


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ((b"www", b"Example", b"COM", b""), "com.example.www"),
        ((b"xn--bcher-kva", b"example", b""), "example.xn--bcher-kva"),
        ((b"_dmarc", b"a-1", b""), "a-1._dmarc"),
        ((b"a.b", b"c", b""), "c.a\\046b"),
        ((b'"\n,', b"=1+1\\", b""), "\\0611\\0431\\092.\\034\\010\\044"),
        (("bücher".encode(), b""), "b\\195\\188cher"),
        ((b"",), ""),
    ],
)
def test_label_is_escaped_when_it_is_more_than_a_host_name(
    labels: tuple[bytes, ...], shown: str
) -> None:
    assert shown == reverse(labels)


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=5))
def test_no_two_names_read_alike_when_escaped(labels: list[bytes]) -> None:
    shown = reverse(tuple(labels))
    assert len(labels) == (shown.count(".") + 1 if shown else 0)
    decoded = [
        bytes(int(part[:3]) if len(part) > 3 else ord(part) for part in _characters(label))
        for label in reversed(shown.split("."))
        if label
    ]
    assert [label.lower() for label in labels] == decoded


def _characters(label: str) -> list[str]:
    """Escaped ones as three digits and a mark."""
    parts, rest = [], label
    while rest:
        size = 4 if rest[0] == "\\" else 1
        parts.append(rest[1:size] + "\\" if size > 1 else rest[0])
        rest = rest[size:]
    return parts


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"WWW.Example.com", "com.example.www"),
        (b"example.com.", "com.example"),
        (b"localhost", "localhost"),
        (b"192.0.2.1", ""),
        (b"fe80::1%eth0", ""),
        (b"a,b.example", r"example.a\044b"),
        (b"\xffx\n.example", r"example.\255x\010"),
        (b"a" * 256, ""),
        (b"", ""),
    ],
)
def test_name_is_reversed_when_it_comes_as_text(name: bytes, shown: str) -> None:
    assert reverse_text(name) == shown
