"""Programs and containers whose names mean harm, from their exec to each medium that shows them."""

import csv
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from picosnitch_exporter.catalog import label_value
from tests.kernel.exporter import Exporter, poll
from tests.kernel.test_containers import cgroup, unified
from tests.otlp_receivers import Got, Receiver, http_receiver, plain, points

SECONDS = 60.0
LONGEST = 4095
"""PATH_MAX without its NUL."""
SHA256 = "picosnitch.executable.sha256"
ENTER = b'echo $$ >"$0/cgroup.procs" && exec "$@"'
NAMES = {
    "newline": b'a\nb{sha256="x"} 9',
    "quotes": b"a'b\"c`d$(e);DROP TABLE x;--\\n\\",
    "no_utf8": b"a\xff\xfe\x80b",
    "terminal": b"\x1b]0;owned\x07\x1b[31m\x9b2J",
    "right_to_left": "x\u202egpj.sh\u200f".encode(),
    "csv": b'=1+1,b,"c"\r\nd',
    "blank": b" \t ",
    "longest": b"",
}
# Of the cgroup each one runs in, and what the container is called. A newline takes an escape of
# systemd's: the kernel refuses it in names of cgroups.
CONTAINERS = {
    "newline": (rb"/machine.slice/machine-a\x0ab\x7b\xc3\xbc\xff.scope", b"a\nb{\xc3\xbc\xff"),
    "quotes": (b"/lxc/a'b\"c`d$(e);\\n\\", b"a'b\"c`d$(e);\\n\\"),
    "no_utf8": (b"/lxc/a\xff\xfe\x80b", b"a\xff\xfe\x80b"),
    "terminal": (b"/lxc.payload.\x1b]0;owned\x07\x9b2J", b"\x1b]0;owned\x07\x9b2J"),
    "right_to_left": ("/lxc/x\u202egpj".encode(), "x\u202egpj".encode()),
    "csv": (b'/lxc/=1+1,b,"c"\r', b'=1+1,b,"c"\r'),
    "blank": (b"/lxc/ \t ", b" \t "),
    "longest": (b"/lxc/" + b"c" * 255, b"c" * 255),
}
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would act on; lines and tabs are the medium's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What ran, by the hash of each program, and the exporter that has seen it."""

    exporter: Exporter
    receiver: Receiver
    paths: dict[str, bytes]
    containers: dict[str, bytes]
    config: Path


def make(folder: Path, name: bytes, number: int) -> tuple[bytes, str]:
    """A copy of a shell under that name, and its hash, which nobody else has."""
    if not name:
        deep = os.fsencode(folder)
        while len(deep) + 201 + 101 < LONGEST:
            deep += b"/" + b"d" * 200
        Path(os.fsdecode(deep)).mkdir(parents=True)
        path = deep + b"/" + b"f" * (LONGEST - len(deep) - 1)
        while len(path) - len(deep) - 1 > 255:
            path = path[:-1]
    else:
        path = os.fsencode(folder) + b"/" + name
    content = Path("/bin/bash").read_bytes() + b"%d" % number + os.urandom(16)
    with open(path, "wb") as file:  # noqa: PTH123 - no text
        file.write(content)
    os.chmod(path, 0o755)  # noqa: PTH101, S103 - for all to run
    return path, sha256(content).hexdigest()


@pytest.fixture(scope="module")
def shown(privileges: None) -> Iterator[Shown]:  # noqa: ARG001 - before it is started
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-test-"))
    folder.chmod(0o755)
    try:
        with ExitStack() as stack:
            receiver = stack.enter_context(http_receiver())
            settings: dict[str, dict[str, object]] = {
                "log": {"write_limit_seconds": 1, "text": {"enabled": True}},
                "otlp": {"endpoint": receiver.url, "interval_seconds": 1, "logs": True},
                "kubernetes": {"enabled": True},
            }
            exporter = stack.enter_context(Exporter.start(settings))
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            paths, containers = {}, {}
            port = server.getsockname()[1]
            script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3".encode()
            for number, (key, name) in enumerate(NAMES.items()):
                path, digest = make(folder, name, number)
                cgroup_path, containers[digest] = CONTAINERS[key]
                paths[digest] = path
                with cgroup(unified(), os.fsdecode(cgroup_path)) as inside:
                    # As its name in the arguments as well, which nobody has to be honest about.
                    command = [path, b"-c", script, name or b"x"]
                    enter = [b"sh", b"-c", ENTER, os.fsencode(inside)]
                    subprocess.run([*enter, *command], check=True, cwd="/")
            exporter.await_scrape(
                lambda scrape: set(paths) <= set(scrape.by_hash()), "all of them", seconds=SECONDS
            )
            made = Shown(
                exporter=exporter,
                receiver=receiver,
                paths=paths,
                containers=containers,
                config=exporter.folder / "config.yaml",
            )
            assert poll(lambda: len(logged(made)) == len(NAMES), seconds=SECONDS)
            yield made
    finally:
        shutil.rmtree(folder)


def logged(shown: Shown) -> dict[str, tuple[str, str, str]]:
    """Path, command line and container by hash, from the view."""
    place = f"file:{shown.exporter.storage}/snitch.db?mode=ro"
    with closing(sqlite3.connect(place, uri=True)) as database:
        rows = database.execute("SELECT sha256, exe, cmdline, container FROM connection_log")
        return {digest: tuple(rest) for digest, *rest in rows if digest in shown.paths}


def asked(shown: Shown, *arguments: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "picosnitch_exporter", "query", "--limit=100000"),
            *(f"--config.file={shown.config}", f"--storage.path={shown.exporter.storage}"),
            *arguments,
        ],
        check=True,
        capture_output=True,
    )
    return done.stdout.decode()  # strictly: it is UTF-8


def labelled(shown: Shown) -> dict[str, tuple[str, str]]:
    """Path and container by hash, as every medium has them that loses nothing."""
    return {
        digest: (
            label_value(os.fsdecode(path)),
            label_value(os.fsdecode(shown.containers[digest])),
        )
        for digest, path in shown.paths.items()
    }


def test_labels_are_lossless_on_metrics(shown: Shown) -> None:
    expected = labelled(shown)
    found = {}
    for family in text_string_to_metric_families(shown.exporter.page("/metrics")):
        for sample in family.samples:
            if sample.name == "picosnitch_executable_info":
                found[sample.labels["sha256"]] = (
                    sample.labels["exe"],
                    sample.labels["container"],
                )
    assert expected == {digest: found[digest] for digest in expected}


def test_rows_are_whole_in_sql(shown: Shown) -> None:
    found = logged(shown)
    expected = labelled(shown)
    for (digest, path), name in zip(shown.paths.items(), NAMES.values(), strict=True):
        exe, cmdline, container = found[digest]
        assert expected[digest] == (exe, container)
        assert "hello" in cmdline or len(path) > 500
        assert label_value(os.fsdecode(name)) in cmdline or len(path) > 500


def metrics_of(shown: Shown, got: list[Got]) -> dict[str, tuple[object, object]]:
    """Path and container by hash, from the metrics that the receiver has got."""
    found = {}
    metrics = [one for one in got if not isinstance(one.request, ExportLogsServiceRequest)]
    for _name, point in points(metrics):
        of = plain(point.attributes)
        digest = str(of.get(SHA256))
        if digest in shown.paths:
            found[digest] = (of["process.executable.path"], of["container.name"])
    return found


def records_of(shown: Shown, got: list[Got]) -> dict[str, tuple[object, object]]:
    """Path and container by hash, from the log records that the receiver has got."""
    found = {}
    for request in (one.request for one in got):
        if not isinstance(request, ExportLogsServiceRequest):
            continue
        for resource in request.resource_logs:
            for record in (record for scope in resource.scope_logs for record in scope.log_records):
                of = plain(record.attributes)
                digest = str(of[SHA256])
                if digest in shown.paths:
                    found[digest] = (of["process.executable.path"], of["container.name"])
    return found


@pytest.mark.parametrize("signal", [metrics_of, records_of])
def test_attributes_are_lossless_in_otlp(
    shown: Shown, signal: Callable[[Shown, list[Got]], dict[str, tuple[object, object]]]
) -> None:
    got = shown.receiver.wait(lambda got: signal(shown, got).keys() == shown.paths.keys())
    assert signal(shown, got) == labelled(shown)


def test_each_connection_is_one_line_of_17_fields_in_the_text_log(shown: Shown) -> None:
    data = (shown.exporter.storage / "conn.log").read_text("utf-8")
    rows = list(csv.reader(io.StringIO(data), strict=True))
    assert len(data.splitlines()) == len(rows)
    assert {17} == {len(row) for row in rows}
    assert set(shown.paths) <= {row[6] for row in rows}
    assert not OBEYED.search(data)


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_nothing_is_obeyed_by_a_terminal_in_what_query_prints(shown: Shown, style: str) -> None:
    printed = asked(shown, f"--format={style}")
    assert not OBEYED.search(printed.replace("\r\n", "\n"))
    if style == "json":
        rows = json.loads(printed)
        assert set(shown.paths) <= {row["sha256"] for row in rows}


def test_nothing_is_obeyed_by_a_terminal_in_logs(shown: Shown) -> None:
    for name in ("exe.log", "error.log"):
        path = shown.exporter.storage / name
        if path.exists():
            assert not OBEYED.search(path.read_text("utf-8")), name
    assert not OBEYED.search(shown.exporter.said())
    assert "Traceback" not in shown.exporter.said()
