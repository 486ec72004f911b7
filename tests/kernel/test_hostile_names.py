"""Programs whose names and arguments mean harm, from their exec to each medium that shows them."""

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
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from picosnitch_exporter.catalog import label_value
from tests.kernel.exporter import Exporter, poll

SECONDS = 60.0
LONGEST = 4095
"""PATH_MAX without its NUL."""
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
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal would act on; lines and tabs are the medium's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What ran, by the hash of each program, and the exporter that has seen it."""

    exporter: Exporter
    paths: dict[str, bytes]
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
    settings = {"log": {"write_limit_seconds": 1, "text": {"enabled": True}}}
    try:
        with Exporter.start(settings) as exporter, socket.create_server(("127.0.0.1", 0)) as server:
            paths = {}
            port = server.getsockname()[1]
            script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3"
            for number, name in enumerate(NAMES.values()):
                path, digest = make(folder, name, number)
                paths[digest] = path
                # As its name in the arguments as well, which nobody has to be honest about.
                subprocess.run([path, "-c", script, name or b"x"], check=True, cwd="/")
            exporter.await_scrape(
                lambda scrape: set(paths) <= set(scrape.by_hash()), "all of them", seconds=SECONDS
            )
            made = Shown(exporter=exporter, paths=paths, config=exporter.folder / "config.yaml")
            assert poll(lambda: len(logged(made)) == len(NAMES), seconds=SECONDS)
            yield made
    finally:
        shutil.rmtree(folder)


def logged(shown: Shown) -> dict[str, tuple[str, str]]:
    """Path and command line by hash, from the view."""
    place = f"file:{shown.exporter.storage}/snitch.db?mode=ro"
    with closing(sqlite3.connect(place, uri=True)) as database:
        rows = database.execute("SELECT sha256, exe, cmdline FROM connection_log").fetchall()
    return {digest: (exe, cmdline) for digest, exe, cmdline in rows if digest in shown.paths}


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


def test_labels_are_lossless_on_metrics(shown: Shown) -> None:
    expected = {digest: label_value(os.fsdecode(path)) for digest, path in shown.paths.items()}
    found = {}
    for family in text_string_to_metric_families(shown.exporter.page("/metrics")):
        for sample in family.samples:
            if sample.name == "picosnitch_executable_info":
                found[sample.labels["sha256"]] = sample.labels["exe"]
    assert expected == {digest: found[digest] for digest in expected}


def test_rows_are_whole_in_sql(shown: Shown) -> None:
    found = logged(shown)
    for (digest, path), name in zip(shown.paths.items(), NAMES.values(), strict=True):
        exe, cmdline = found[digest]
        assert label_value(os.fsdecode(path)) == exe
        assert "hello" in cmdline or len(path) > 500
        assert label_value(os.fsdecode(name)) in cmdline or len(path) > 500


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
