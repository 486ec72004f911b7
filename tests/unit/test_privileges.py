"""What an account may reach, by the permissions of folders."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from picosnitch_exporter.privileges import Account, may_list

OWNER = Account(name="owner", uid=os.getuid(), gid=os.getgid())
FELLOW = Account(name="fellow", uid=os.getuid() + 1, gid=os.getgid())
STRANGER = Account(name="stranger", uid=os.getuid() + 1, gid=os.getgid() + 1)
ALL = (OWNER, FELLOW, STRANGER)


@pytest.fixture
def outer() -> Iterator[Path]:
    """Not pytest's own, which only its user may enter."""
    with tempfile.TemporaryDirectory(prefix="picosnitch-test-") as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("outer_mode", "inner_mode", "expected"),
    [
        (0o711, 0o755, (True, True, True)),
        (0o711, 0o750, (True, True, False)),
        (0o711, 0o700, (True, False, False)),
        (0o711, 0o711, (True, False, False)),
        (0o711, 0o705, (True, False, True)),  # the group has its own, not those of all
        (0o700, 0o755, (True, False, False)),
        (0o750, 0o755, (True, True, False)),
    ],
)
def test_folder_may_be_listed_when_all_above_it_may_be_passed(
    outer: Path, outer_mode: int, inner_mode: int, expected: tuple[bool, ...]
) -> None:
    inner = outer / "inner"
    inner.mkdir()
    inner.chmod(inner_mode)
    outer.chmod(outer_mode)
    assert tuple(may_list(account, inner) for account in ALL) == expected


def test_both_sides_of_a_link_count_when_the_folder_is_one(outer: Path) -> None:
    for name in ("closed", "open"):
        (outer / name / "library").mkdir(parents=True)
    outer.chmod(0o755)
    (outer / "closed").chmod(0o700)
    (outer / "closed/link").symlink_to(outer / "open/library")
    (outer / "open/link").symlink_to(outer / "closed/library")
    assert may_list(STRANGER, outer / "open/library")
    assert not may_list(STRANGER, outer / "closed/link")
    assert not may_list(STRANGER, outer / "open/link")


def test_folder_is_closed_when_it_can_not_be_looked_at(outer: Path) -> None:
    assert not may_list(OWNER, outer / "gone")
