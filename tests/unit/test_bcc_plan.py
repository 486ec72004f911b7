import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.errors import KernelError, RequirementError
from picosnitch_exporter.sensor.bcc.plan import _require_headers
from picosnitch_exporter.sensor.bcc.worker import _failure, source_of

HEADERS = b"""In file included from /virtual/main.c:14:
include/linux/compiler_types.h:28:1: error: unknown attribute 'x' ignored
1 error generated.
"""


@pytest.fixture
def messages() -> Iterator[int]:
    descriptor = os.memfd_create("messages")
    yield descriptor
    os.close(descriptor)


def test_told_which_package_when_there_are_no_headers(tmp_path: Path) -> None:
    with pytest.raises(
        RequirementError, match=f"apt-get install linux-headers-{platform.release()}"
    ):
        _require_headers(tmp_path, tmp_path / "kheaders.tar.xz")


def test_told_which_package_when_the_headers_are_a_link_to_nowhere(tmp_path: Path) -> None:
    build = tmp_path / platform.release() / "build"
    build.parent.mkdir()
    build.symlink_to(tmp_path / "removed")

    with pytest.raises(RequirementError, match="headers of the running kernel are missing"):
        _require_headers(tmp_path, tmp_path / "kheaders.tar.xz")


@pytest.mark.parametrize("where", [f"{platform.release()}/build", "kheaders.tar.xz"])
def test_content_when_there_are_headers(tmp_path: Path, where: str) -> None:
    (tmp_path / where).mkdir(parents=True)

    _require_headers(tmp_path, tmp_path / "kheaders.tar.xz")


def test_first_error_of_the_compiler_is_told_when_bcc_is_too_old(messages: int) -> None:
    os.write(messages, HEADERS)

    error = _failure("compilation", "0.26.0", messages)

    assert isinstance(error, RequirementError)
    assert str(error).startswith(f"BCC 0.26.0 can't compile for kernel {platform.release()}")
    assert "unknown attribute 'x' ignored" in str(error)


def test_word_of_the_verifier_is_told_when_a_program_is_refused(messages: int) -> None:
    os.write(messages, b"bpf: Failed to load program\nR4 unbounded memory access\n")

    error = _failure("kernel", "Failed to load BPF program b'find_answers'", messages)

    assert isinstance(error, KernelError)
    assert str(error).splitlines()[0] == "Failed to load BPF program b'find_answers'"
    assert "R4 unbounded memory access" in str(error)


def test_told_what_to_do_when_the_text_was_not_built(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="make setup"):
        source_of(tmp_path)
