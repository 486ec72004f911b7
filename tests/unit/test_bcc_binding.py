from pathlib import Path

import pytest

from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.sensor.bcc.binding import find


def package(folder: Path, *modules: str) -> Path:
    (folder / "bcc").mkdir(parents=True)
    for module in modules:
        (folder / "bcc" / module).touch()
    return folder


def test_found_when_a_folder_of_the_system_holds_bcc(tmp_path: Path) -> None:
    folders = (tmp_path / "empty", package(tmp_path / "b", "__init__.py", "libbcc.py"))

    assert find(folders) == tmp_path / "b" / "bcc"


def test_refused_when_the_package_is_that_of_pypi(tmp_path: Path) -> None:
    folder = package(tmp_path, "__init__.py", "lattice.py")

    with pytest.raises(RequirementError, match=r"is not BCC but another package .*pip uninstall"):
        find((folder,))


def test_told_what_to_install_when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="apt-get install python3-bpfcc"):
        find((tmp_path,))
