"""What is fuzzed: each target takes any bytes, and may refuse them only with the documented error.

A target of its own for each thing that others write: what comes back where it is accepted is looked
at as well.
"""

import contextlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from picosnitch_exporter import config, runs, stream, wire
from picosnitch_exporter.checks import record
from picosnitch_exporter.config import showing
from picosnitch_exporter.errors import ConfigurationError, UsageError, WireError
from picosnitch_exporter.log import answers
from picosnitch_exporter.outputs import negotiation, request
from picosnitch_exporter.outputs.web_config import check_web_config
from picosnitch_exporter.sensor import drain
from tests.dns_samples import answer, simple_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A decoder, and where to begin."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    """What a mutation may put in."""


_memory = os.memfd_create("picosnitch-fuzz")
_file = Path(f"/proc/self/fd/{_memory}")


def _as_file(data: bytes) -> Path:
    os.ftruncate(_memory, 0)
    os.pwrite(_memory, data, 0)
    return _file


def ring(data: bytes) -> None:
    """Records of the kernel, as both processes read them."""
    with contextlib.suppress(WireError):
        for one in wire.split_ring(data):
            found = wire.decode(one)
            if isinstance(found, wire.FlowRecord):
                (again,) = wire.split_ring(wire.encode_flow(found))
                assert wire.decode(again) == found
    with contextlib.suppress(WireError):
        drain.subjects_of(data)
    with contextlib.suppress(WireError):
        alone = list(wire.split_ring(data))
        assert alone == [one for piece in runs.split_runs(data) for one in _records(piece)]
    for piece in wire.join_processes(data, stream.MAX_RECORD_BYTES):
        list(wire.split_ring(piece))


def _records(piece: memoryview | bytes) -> Iterator[bytes]:
    if isinstance(piece, memoryview):
        yield from wire.split_ring(bytes(piece))
    else:
        yield piece


def frames(data: bytes) -> None:
    """Frames of the other process."""
    with contextlib.suppress(WireError):
        frame = stream.decode(data)
        assert type(stream.decode(stream.encode(frame))) is type(frame)


def dns(data: bytes) -> None:
    """Answers of name servers."""
    for is_cut in (False, True):
        with contextlib.suppress(WireError):
            found = answers.parse(data, is_cut=is_cut)
            if found is not None:
                assert 0 < len(found.addresses) <= answers.MAX_RECORDS
                assert found.domain.isprintable()


def configuration(data: bytes) -> None:
    """The configuration file, and `check-config --show` of it."""
    with contextlib.suppress(ConfigurationError):
        settings = config.load(_as_file(data), environment={}, overrides={})
        showing.show(settings)


def web_config(data: bytes) -> None:
    """`--web.config.file`."""
    with contextlib.suppress(ConfigurationError):
        check_web_config(_as_file(data))


def record_json(data: bytes) -> None:
    """picosnitch's record.json."""
    with contextlib.suppress(UsageError):
        record.parse(data, written_seconds=1.0)


def http(data: bytes) -> None:
    """The head of a request, and what is negotiated by it."""
    with contextlib.suppress(request.RefusedError):
        head = request.find_head(data)
        if head is None:
            assert len(data) <= request.MAX_HEAD_BYTES
            return
        asked = request.parse_head(head)
        negotiation.choose_format(asked.headers.get("accept", ""))
        negotiation.accepts_gzip(asked.headers.get("accept-encoding", ""))


def _in_ring(kind: wire.RecordKind, size: int) -> bytes:
    body = int(kind).to_bytes(2, "little") + bytes(size - 2)
    return struct.pack("=II", size, 0) + body + bytes(-size % 8)


_RECORDS = (
    _in_ring(wire.RecordKind.FLOW, wire.FLOW.size) + _in_ring(wire.RecordKind.DNS, wire.DNS.size),
    _in_ring(wire.RecordKind.PROCESS, wire.PROCESS.size + 8),
    *(_in_ring(kind, 64) for kind in wire.RecordKind),
)
_PICOSNITCH = {
    "Executables": {"/usr/bin/curl": ["curl"]},
    "Names": {"curl": ["/usr/bin/curl"]},
    "Parent Executables": {},
    "Parent Names": {},
    "SHA256": {"/usr/bin/curl": {"0" * 64: "{'malicious': 1, 'harmless': 2}"}},
}
_HASH = bcrypt.hashpw(b"fuzz", bcrypt.gensalt(4))

TARGETS: Mapping[str, Target] = {
    "ring": Target(run=ring, seeds=_RECORDS),
    "frames": Target(
        run=frames,
        seeds=tuple(
            stream.encode(frame)
            for frame in (
                stream.Ready(),
                stream.Acknowledge(instance=1, position=2),
                stream.Records(instance=1, start=0, end=4, data=b"abcd"),
                stream.CgroupPath(hierarchy=0, cgroup_id=1, path=b"/a"),
                stream.Hello(
                    wire_version=1,
                    instance=1,
                    plan="p",
                    refused_plans=(("q", "r"),),
                    plan_losses=("s",),
                    hooks=("a", "b"),
                    kernel_release="6",
                    adopted=False,
                    idle=False,
                ),
                stream.KernelStatus(
                    counters=(0,) * len(wire.Counter),
                    maps=(stream.MapUse(name="m", entries=1, capacity=2),),
                    map_memory_bytes=(("m", 4096),),
                    programs=(stream.ProgramUse(name="p", runs=1, run_time_ns=2),),
                    drain_seconds=(0.5,),
                    sensor_lost=(("a", "b", 1),),
                    open_descriptors=1,
                    resident_bytes=1,
                    cpu_seconds=0.5,
                    idle_seconds=0.5,
                ),
            )
        ),
        words=(b"1e999", b"NaN", b"null", b"[[[[", b"9" * 400),
    ),
    "dns": Target(
        run=dns,
        seeds=(
            simple_answer(),
            simple_answer(address="2001:db8::1"),
            answer(
                "a.example",
                ("a.example", 1, "CNAME", "b.example."),
                ("b.example", 1, "A", "192.0.2.1"),
            ),
        ),
        words=(b"\xc0\x0c", b"\xc0\x00", b"\x3f", b"\x00\x01\x00\x01"),
    ),
    "configuration": Target(
        run=configuration,
        seeds=(
            b"web: {listen_addresses: [':10054'], telemetry_path: /metrics}\n",
            b'{"DB retention (days)": 90, "Log ignore": ["com.example", 80, "10.0.0.0/8"]} # a\n',
            b"log: {server: {client: psycopg, host: a, password_file: /b}, ignore: []}\n",
            b"otlp: {endpoint: 'http://a:4318', headers: {a: b}}\nbpf: {ring_buffer_pages: 64}\n",
        ),
        words=(
            b"!!python/object",
            b"&a ",
            b"*a",
            b"<<: ",
            b"|-\n",
            b"? ",
            b"9" * 5000,
            b"\xef\xbb\xbf",
        ),
    ),
    "web_config": Target(
        run=web_config,
        seeds=(
            b"basic_auth_users:\n  a: " + _HASH + b"\n",
            b"tls_server_config: {cert_file: a.pem, key_file: a.key, min_version: TLS12}\n",
            b"http_server_config: {http2: true, headers: {X-Frame-Options: deny}}\n",
            b"tls_server_config:\n  cert: |\n    -----BEGIN CERTIFICATE-----\n  key: |\n    a\n",
        ),
        words=(b"client_ca", b"cipher_suites: [", b"client_auth_type: ", b"curve_preferences"),
    ),
    "record_json": Target(
        run=record_json,
        seeds=(json.dumps(_PICOSNITCH).encode(),),
        words=(b"\\ud800", b"NaN", b"[" * 50, b"9" * 5000),
    ),
    "http": Target(
        run=http,
        seeds=(
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;q=0.5\r\n\r\n",
            b"GET http://a/b%20c?d HTTP/1.0\r\nAccept-Encoding: gzip;q=0, *\r\n\r\n",
            b"GET /\r\n\r\n",
        ),
        words=(
            b"\r\n\r\n",
            b"%00",
            b"application/openmetrics-text;version=1.0.0",
            b";q=",
            b"https://",
        ),
    ),
}
