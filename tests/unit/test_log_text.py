import csv
import io
import logging
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.errors import StorageError, StorageFullError
from picosnitch_exporter.log.text import (
    ErrorLog,
    TextFile,
    clean,
    csv_lines,
    executable_lines,
)
from picosnitch_exporter.model import NO_PROGRAM
from tests.log_samples import CURL, known_executable, row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conn.log"


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_line_has_the_fields_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert csv_lines((row(),)).decode() == (
        "2023-11-14 22:13:20,10,20,/usr/bin/curl,curl,curl https://example.com/,"
        + "ab" * 32
        + ",/usr/bin/dash,sh,sh -c 'curl',"
        + "cd" * 32
        + ",1000,50000,443,10.0.0.2,93.184.216.34,com.example\n"
    )


@given(st.text(st.characters(exclude_categories=())))
def test_no_value_can_forge_a_line_or_a_field(text: str) -> None:
    hostile = replace(CURL, exe=text, name=text, cmdline=text)
    lines = csv_lines((row(program=hostile), row())).decode()
    assert len(lines.splitlines()) == 2
    first, second = csv.reader(io.StringIO(lines), strict=True)
    assert [len(first), len(second)] == [17, 17]
    assert first[3:6] == [clean(text)] * 3
    assert first[6:] == second[6:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r\x00c", "a b  c"),
        ("\x1b[31m", " [31m"),
        ("a\u2028b\x85c", "a b c"),
        ("x\u202egpj.sh", "x gpj.sh"),
        ('"quoted", =1+1', '"quoted", =1+1'),
        ("\udcff", "\\xff"),
    ],
)
def test_value_is_one_part_of_a_line_when_cleaned(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_new_executable_is_named_as_picosnitch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    known = known_executable(first_seen=0, last_seen=0)
    unhashed = replace(known, executable=replace(known.executable, sha256=NO_PROGRAM.sha256))
    assert executable_lines((known, unhashed), 1_700_000_000).decode() == (
        "2023-11-14 22:13:20 curl /usr/bin/curl (new name, exe)\n"
        "2023-11-14 22:13:20 abababababababab /usr/bin/curl (new hash)\n"
        "2023-11-14 22:13:20 curl /usr/bin/curl (new name, exe)\n"
    )


def test_file_is_private_when_made(path: Path) -> None:
    TextFile(path).append(b"one\n")
    assert path.stat().st_mode & 0o777 == 0o600


def test_new_file_is_begun_when_the_old_one_was_moved(path: Path) -> None:
    file = TextFile(path)
    file.append(b"one\n")
    rotated = path.rename(path.with_name("conn.log.1"))
    file.append(b"two\n")
    assert (rotated.read_bytes(), path.read_bytes()) == (b"one\n", b"two\n")


def test_file_is_begun_at_its_start_when_it_was_copied_and_truncated(path: Path) -> None:
    file = TextFile(path)
    file.append(b"one\n")
    shutil.copy(path, path.with_name("conn.log.1"))
    os.truncate(path, 0)
    file.append(b"two\n")
    assert path.read_bytes() == b"two\n"


def test_file_is_made_again_when_it_was_deleted(path: Path) -> None:
    file = TextFile(path)
    file.append(b"one\n")
    path.unlink()
    file.append(b"two\n")
    assert path.read_bytes() == b"two\n"


def test_symlink_is_not_followed_when_it_replaces_the_file(path: Path) -> None:
    file = TextFile(path)
    file.append(b"one\n")
    victim = path.with_name("victim")
    victim.write_bytes(b"")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(StorageError, match="is a symlink"):
        file.append(b"two\n")
    assert victim.read_bytes() == b""


def test_no_half_line_is_left_when_the_disk_is_full(path: Path) -> None:
    file = TextFile(path)
    file.append(b"one\n")
    with room_for(10), pytest.raises(StorageFullError):
        file.append(b"two two two\n")
    assert path.read_bytes() == b"one\n"
    file.append(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


@given(before=st.binary(max_size=20), data=st.binary(max_size=300), share=st.floats(0, 1))
def test_data_is_whole_when_an_append_was_killed_anywhere(
    tmp_path_factory: pytest.TempPathFactory,
    before: bytes,
    data: bytes,
    share: float,
) -> None:
    # Lines begin with a time, and none is a part of what was written before.
    data = b"2023-11-14 22:13:20," + data
    path = tmp_path_factory.mktemp("killed") / "conn.log"
    path.write_bytes(before.replace(b"2", b"") + b"\n" + data[: int(len(data) * share)])
    TextFile(path).finish(data)
    assert path.read_bytes() == before.replace(b"2", b"") + b"\n" + data


def test_data_is_whole_when_what_is_before_it_looks_the_same(path: Path) -> None:
    line = b"2023-11-14 22:13:20,1\n"
    file = TextFile(path)
    file.append(line)
    before = file.end()
    file.finish(line, before=before)
    assert path.read_bytes() == 2 * line
    file.finish(line, before=before)
    assert path.read_bytes() == 2 * line
    path.write_bytes(b"")
    file.finish(line, before=before)
    assert path.read_bytes() == line


def test_error_is_one_line_and_not_repeated_when_logged(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    logger = logging.Logger("of this test")  # noqa: LOG001 not one that others see
    handler = ErrorLog(path)
    logger.addHandler(handler)
    for _ in range(3):
        logger.error("disk_full path=%s", "/var\nforged")
    logger.warning("not an error")
    logger.error("another")
    handler.close()
    lines = path.read_text().splitlines()
    assert [line[20:] for line in lines] == ["disk_full path=/var forged", "another"]


def test_error_is_passed_over_when_it_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.mkdir()
    logger = logging.Logger("of this test")  # noqa: LOG001 not one that others see
    logger.addHandler(ErrorLog(path))
    logger.error("nowhere to write this")
    assert path.is_dir()
