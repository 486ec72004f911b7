"""The commands that tracefs gets, with a folder of plain files in its place."""

import os
from pathlib import Path

import pytest

from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.sensor.bcc.kprobes import Kprobes, find_tracefs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kprobe_events").touch()
    (tmp_path / "kprobe_profile").touch()
    return tmp_path


def commands(folder: Path) -> list[str]:
    return (folder / "kprobe_events").read_text("ascii").splitlines()


def test_thousands_may_be_inside_when_it_is_probed_at_its_return(folder: Path) -> None:
    probes = Kprobes(folder, pid=7)

    assert probes.add("inet_accept", module="", at_return=False) == "inet_accept_entry_7"
    assert probes.add("inet_accept", module="", at_return=True) == "inet_accept_return_7"
    assert commands(folder) == [
        "p:picosnitch/inet_accept_entry_7 inet_accept",
        "r4096:picosnitch/inet_accept_return_7 inet_accept",
    ]


def test_only_its_own_are_removed_when_it_ends(folder: Path) -> None:
    probes = Kprobes(folder, pid=7)
    probes.add("inet_release", module="", at_return=False)
    (folder / "kprobe_events").write_text("")

    probes.remove()
    probes.remove()

    assert commands(folder) == ["-:picosnitch/inet_release_entry_7"]


def test_those_of_ended_processes_are_removed_when_another_one_starts(
    folder: Path, tmp_path: Path
) -> None:
    lines = (
        "p:picosnitch/inet_release_entry_41 inet_release",
        "r4096:picosnitch/inet_accept_return_41 inet_accept",
        "p:picosnitch/inet_release_entry_42 inet_release",
        "p:kprobes/somebody_41 inet_release",
    )
    (folder / "kprobe_events").write_text("".join(f"{line}\n" for line in lines))
    procfs = tmp_path / "proc"
    (procfs / "42").mkdir(parents=True)

    Kprobes(folder, pid=7, procfs=procfs).remove_stale()

    assert commands(folder)[len(lines) :] == [
        "-:picosnitch/inet_release_entry_41",
        "-:picosnitch/inet_accept_return_41",
    ]


def test_calls_without_a_probe_are_counted_when_they_are_its_own(folder: Path) -> None:
    probes = Kprobes(folder, pid=7)
    probes.add("inet_sendmsg", module="", at_return=True)
    probes.add("inet_sendmsg", module="", at_return=False)
    (folder / "kprobe_profile").write_text(
        "  inet_sendmsg_return_7        100      3\n"
        "  inet_sendmsg_entry_7         103      1\n"
        "  inet_sendmsg_return_8        100     50\n"
    )

    assert probes.missed() == 4


def test_told_of_the_kernel_when_it_has_no_kprobes(tmp_path: Path) -> None:
    (tmp_path / "available_events").touch()

    with pytest.raises(RequirementError, match="the kernel has no kprobes"):
        find_tracefs((tmp_path,))


def test_told_to_mount_when_there_is_no_tracefs(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="mount -t tracefs"):
        find_tracefs((tmp_path,))


def test_told_where_when_tracefs_is_shut_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is on a read-only mount, of which root may not be told otherwise.
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)

    with pytest.raises(RequirementError, match=r"kprobe_events can't be written to"):
        find_tracefs((folder,))


def test_found_when_it_can_be_written_to(folder: Path) -> None:
    assert find_tracefs((folder / "absent", folder)) == folder
