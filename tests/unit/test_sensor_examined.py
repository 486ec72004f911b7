import pytest

from picosnitch_exporter.model import FileIdentity
from picosnitch_exporter.sensor.examined import FAILED, Examined, Found
from picosnitch_exporter.stamps import Stamps

STAMPS = Stamps(10, 20, 30)


def file(inode: int) -> FileIdentity:
    return FileIdentity(device=7, inode=inode, generation=9)


@pytest.mark.parametrize(
    "found",
    [
        Found(STAMPS),
        Found(STAMPS, look_ns=1 << 63),
        Found(FAILED, retry_ns=5_000_000_000),
        Found(Stamps((1 << 63) - 1, -(1 << 63), (1 << 63) - 1), look_ns=1),
    ],
)
def test_what_was_found_comes_back(found: Found) -> None:
    examined = Examined()
    examined.put(file((1 << 64) - 1), found)
    assert examined.get(file((1 << 64) - 1)) == found


def test_nothing_comes_back_when_nobody_has_looked() -> None:
    examined = Examined()
    examined.put(file(1), Found(STAMPS))
    others = (file(2), file(1)._replace(device=8), file(1)._replace(generation=0))
    assert [examined.get(each) for each in others] == [None, None, None]


def test_the_last_look_counts() -> None:
    examined = Examined()
    examined.put(file(1), Found(FAILED, retry_ns=1))
    examined.put(file(1), Found(STAMPS))
    assert examined.get(file(1)) == Found(STAMPS)
    assert len(examined) == 1


def test_what_was_put_least_recently_goes_when_there_are_too_many() -> None:
    examined = Examined(max_files=2)
    for inode in (1, 2, 1, 3):
        examined.put(file(inode), Found(STAMPS))
    assert [examined.get(file(inode)) is not None for inode in (1, 2, 3)] == [True, False, True]
