"""Who it was: the hash of what really ran, however short, whatever became of the file."""

import fcntl
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.kernel.exporter import Exporter, poll
from tests.kernel.generator import Generator, Program, Running
from tests.kernel.network import run
from tests.kernel.oneshot import sent, shoot, sink


def test_both_hashes_are_told_apart_when_a_file_is_replaced_by_rename_while_it_runs(
    exporter: Exporter, shared_generator: Generator
) -> None:
    old, new = shared_generator.copy("old"), shared_generator.copy("new")
    with (
        sink(shared_generator) as port,
        old.start("oneshot", port=port, bytes=100, start="stdin") as running,
    ):
        running.ready()
        new.path.rename(old.path)
        subprocess.run([old.path, "oneshot", f"port={port}", "bytes=30"], check=True)
        running.go()
        running.done()

    scrape = exporter.await_accounts({old.sha256: sent(100), new.sha256: sent(30)})
    assert {str(old.path)} == scrape.paths(new.sha256)


def test_both_hashes_are_told_apart_when_a_file_is_written_in_place_and_run_again(
    exporter: Exporter, shared_generator: Generator
) -> None:
    program = shared_generator.copy("written")
    with sink(shared_generator) as port:
        shoot(program, port, 100)
        # What is overwritten before anybody could read it has no hash.
        exporter.await_accounts({program.sha256: sent(100)})
        for number in range(3):
            with program.path.open("ab") as file:
                file.write(f"more {number}\n".encode())
            newer = Program(
                path=program.path,
                sha256=hashlib.sha256(program.path.read_bytes()).hexdigest(),
            )
            shoot(newer, port, 7 + number)
            exporter.await_accounts({program.sha256: sent(100), newer.sha256: sent(7 + number)})


def test_both_hashes_are_told_apart_when_the_write_keeps_the_size_and_sets_the_time_back(
    exporter: Exporter, shared_generator: Generator
) -> None:
    program = shared_generator.copy("forged")
    content = program.path.read_bytes()
    stamps = program.path.stat()
    with sink(shared_generator) as port:
        shoot(program, port, 100)
        # Nothing tells a file that was forged between its process' end and its hashing.
        exporter.await_accounts({program.sha256: sent(100)})
        forged = content[:-1] + b"!"
        with program.path.open("r+b") as file:
            file.write(forged)
        os.utime(program.path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        shoot(program, port, 30)

    exporter.await_accounts(
        {program.sha256: sent(100), hashlib.sha256(forged).hexdigest(): sent(30)}
    )


@pytest.mark.parametrize("year", [1900, 2300, 30_000])
def test_hash_is_known_when_the_file_says_it_was_written_when_no_clock_has_been(
    exporter: Exporter, shared_generator: Generator, year: int
) -> None:
    program = shared_generator.copy(f"written-in-{year}")
    # Nanoseconds in 64 bits end in 2262, seconds on ext4 in 2446, and on tmpfs much later.
    os.utime(program.path, (0, (year - 1970) * 31_556_952))
    with sink(shared_generator) as port:
        shoot(program, port, 100)

    exporter.await_accounts({program.sha256: sent(100)})


@pytest.mark.parametrize("name", ["kernel", "deep"])
def test_hash_is_known_when_the_path_is_longer_than_any_system_call_takes(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path, name: str
) -> None:
    program = shared_generator.copy("long")
    with ExitStack() as opened:
        folder = os.open(tmp_path, os.O_PATH)
        opened.callback(os.close, folder)
        for _ in range(17):
            os.mkdir("d" * 250, dir_fd=folder)
            folder = os.open("d" * 250, os.O_PATH, dir_fd=folder)
            opened.callback(os.close, folder)
        program.path.chmod(0o755)
        os.link(program.path, name, dst_dir_fd=folder)
        with sink(shared_generator) as port:
            subprocess.run(
                [f"./{name}", "oneshot", f"port={port}", "bytes=9"],
                check=True,
                cwd=f"/proc/self/fd/{folder}",
                pass_fds=(folder,),
            )
        scrape = exporter.await_accounts({program.sha256: sent(9)})
    assert scrape.paths(program.sha256) == {"[unknown]" if name == "kernel" else "[deep]"}


def has_lease(file: IO[bytes]) -> bool:
    with suppress(BlockingIOError):
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return True
    return False


def test_nobody_is_waited_for_who_has_a_lease_on_what_was_executed(
    privileges: None,  # noqa: ARG001 - before it is started
    shared_generator: Generator,
    tmp_path: Path,
) -> None:
    leased = tmp_path / "leased"
    leased.touch(mode=0o755)
    program = shared_generator.copy("other")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with Exporter.start() as exporter, sink(shared_generator) as port, ExitStack() as until_then:
        os.kill(exporter.sensor_pid, signal.SIGSTOP)
        with suppress(OSError):  # it is empty, which is no format that can be executed
            subprocess.run([leased], check=False)
        held = until_then.enter_context(leased.open("rb"))
        # Another one that runs on this machine may still have it open.
        assert poll(lambda: has_lease(held), seconds=10)
        os.kill(exporter.sensor_pid, signal.SIGCONT)
        shoot(program, port, 10)
        # A lease may be kept for 45 s.
        exporter.await_accounts({program.sha256: sent(10)}, seconds=20)
        lost = frozenset({"stage": "exec_event", "reason": "unreadable"}.items())
        exporter.await_scrape(
            lambda shown: shown.own.get(("events_lost_total", lost)) == 1, "the event is counted"
        )
    signal.signal(signal.SIGIO, before)


def test_one_hash_has_all_bytes_when_a_file_has_two_names(
    exporter: Exporter, shared_generator: Generator
) -> None:
    program = shared_generator.copy("linked")
    second = program.path.with_name("second-name")
    second.hardlink_to(program.path)
    elsewhere = program.path.with_name("symbolic-name")
    elsewhere.symlink_to(program.path)
    with sink(shared_generator) as port:
        for path in (program.path, second, elsewhere):
            subprocess.run([path, "oneshot", f"port={port}", "bytes=10"], check=True)

    exporter.await_accounts({program.sha256: sent(30, 3)})


def test_hash_is_known_when_the_program_was_only_in_memory(
    exporter: Exporter, shared_generator: Generator
) -> None:
    """It has to live until the sensor has looked at it: nobody can watch that filesystem."""
    program = shared_generator.copy("memory")
    descriptor = os.memfd_create("no-such-file", 0)
    os.write(descriptor, program.path.read_bytes())
    program.path.unlink()
    with sink(shared_generator) as port:
        command = [f"/proc/self/fd/{descriptor}", "udp-client", f"port={port}", "bytes=44"]
        with subprocess.Popen(
            [*command, "hold=1"], pass_fds=[descriptor], stdin=subprocess.PIPE
        ) as running:
            os.close(descriptor)
            try:
                scrape = exporter.await_accounts({program.sha256: sent(44)})
            finally:
                running.kill()

    assert {"/memfd:no-such-file"} == scrape.paths(program.sha256)


def test_hash_is_known_when_a_deleted_file_is_executed_by_its_descriptor(
    exporter: Exporter, shared_generator: Generator
) -> None:
    program = shared_generator.copy("deleted")
    descriptor = os.open(program.path, os.O_RDONLY)
    program.path.unlink()
    with sink(shared_generator) as port:
        subprocess.run(
            [f"/proc/self/fd/{descriptor}", "oneshot", f"port={port}", "bytes=45"],
            check=True,
            pass_fds=[descriptor],
        )
    os.close(descriptor)

    scrape = exporter.await_accounts({program.sha256: sent(45)})
    assert {str(program.path)} == scrape.paths(program.sha256)


def test_the_interpreter_is_charged_when_a_script_sends(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    """The kernel starts `interpreter oneshot SCRIPT port=...`: so the script is named bytes=46."""
    interpreter = shared_generator.copy("interpreter")
    script = tmp_path / "bytes=46"
    script.write_text(f"#!{interpreter.path} oneshot\n")
    script.chmod(0o755)
    with sink(shared_generator) as port:
        subprocess.run([script.name, f"port={port}"], check=True, cwd=tmp_path, env={"PATH": ""})

    exporter.await_accounts({interpreter.sha256: sent(46)})


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o111, 0o4111])
def test_hash_is_known_when_the_file_is_setuid_or_unreadable(
    exporter: Exporter, shared_generator: Generator, mode: int
) -> None:
    program = shared_generator.copy("mode")
    for parent in program.path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    program.path.chmod(mode)
    with sink(shared_generator) as port:
        subprocess.run(
            [program.path, "oneshot", f"port={port}", "bytes=47"],
            check=True,
            user=65534,
            group=65534,
        )

    exporter.await_accounts({program.sha256: sent(47)})


def test_hashing_delays_nobody_else_when_a_file_is_huge(
    exporter: Exporter, shared_generator: Generator
) -> None:
    """Its own bytes are shown when it is hashed; all others' as ever."""
    huge, other = shared_generator.copy("huge"), shared_generator.copy("other")
    os.truncate(huge.path, 4 << 30)
    with sink(shared_generator) as port:
        shoot(huge, port, 100)
        shoot(other, port, 30)
        exporter.await_accounts({other.sha256: sent(30)}, seconds=10)
    digest = hashlib.sha256()
    with huge.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")

    exporter.await_accounts({digest.hexdigest(): sent(100)}, nothing=[huge.sha256], seconds=60)


def test_path_is_that_inside_when_a_program_runs_in_a_root_of_its_own(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    program = Generator.build(tmp_path, static=True).copy("inside")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    program.path.rename(root / "bin" / "inside")
    with sink(shared_generator) as port:
        run("chroot", str(root), "/bin/inside", "oneshot", f"port={port}", "bytes=48")
        scrape = exporter.await_accounts({program.sha256: sent(48)})
        assert len(scrape.paths(program.sha256)) == 1

        pivot = (
            f"mount --bind {root} {root} && cd {root} && mkdir -p old && pivot_root . old && "
            f"exec /bin/inside oneshot port={port} bytes=2"
        )
        subprocess.run(["unshare", "--mount", "sh", "-c", pivot], check=True)
        exporter.await_accounts({program.sha256: sent(50, 2)})


@pytest.mark.parametrize("filesystem", ["tmpfs", "ramfs"])
def test_hash_is_known_when_the_filesystem_was_mounted_after_the_start(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path, filesystem: str
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    run("mount", "-t", filesystem, "none", str(mounted))
    try:
        first = shared_generator.copy("first", folder=mounted)
        second = shared_generator.copy("second", folder=mounted)
        with sink(shared_generator) as port:
            shoot(first, port, 10)
            for program in (first, second):
                shoot(program, port, 5)
        exporter.await_accounts({first.sha256: sent(15, 2), second.sha256: sent(5)})
    finally:
        run("umount", "--lazy", str(mounted))


def test_hash_is_known_when_the_filesystem_is_mounted_at_a_name_with_ends_of_lines(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    """Its programs are gone before anybody could look: only fanotify's events have them."""
    mounted = tmp_path / "a\rb\x0bc\u2028d"
    mounted.mkdir()
    run("mount", "-t", "tmpfs", "none", str(mounted))
    try:
        programs = [shared_generator.copy("vanishes", folder=mounted) for _ in range(20)]
        with sink(shared_generator) as port:
            for program in programs:
                run(str(program.path), "oneshot", f"port={port}", "bytes=5", "unlink=1")
        exporter.await_accounts({program.sha256: sent(5) for program in programs})
    finally:
        run("umount", "--lazy", str(mounted))


def test_hash_is_known_when_a_filesystem_gets_the_device_number_of_one_that_has_gone(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    """Its program is gone before anybody could look for it: only fanotify's event has it."""
    devices = set()
    for number in range(3):
        mounted = tmp_path / f"mounted-{number}"
        mounted.mkdir()
        run("mount", "-t", "tmpfs", "none", str(mounted))
        try:
            devices.add(mounted.stat().st_dev)
            stays = shared_generator.copy("stays", folder=mounted)
            vanishes = shared_generator.copy("vanishes", folder=mounted)
            with sink(shared_generator) as port:
                shoot(stays, port, 10)
                exporter.await_accounts({stays.sha256: sent(10)})
                with vanishes.start("oneshot", port=port, bytes=5, start="stdin") as running:
                    running.ready()
                    vanishes.path.unlink()
                    running.go()
                    running.done()
            exporter.await_accounts({vanishes.sha256: sent(5)})
        finally:
            run("umount", str(mounted))
    assert len(devices) < 3


@contextmanager
def mounted_elsewhere(folder: Path) -> Iterator[list[str]]:
    """A tmpfs on the folder that only another mount namespace has: what to enter that with."""
    mount = f"mount -t tmpfs none {folder} && echo mounted && exec sleep 1000"
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", mount]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mounted\n"
            yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        finally:
            holder.kill()


def test_hash_is_known_when_a_foreign_filesystem_gets_the_number_of_one_that_has_gone(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    """Its mounts are not to be seen from here, so what tells of the other one is that it runs."""
    devices = set()
    for _ in range(3):
        stays, vanishes = shared_generator.copy("stays"), shared_generator.copy("vanishes")
        with mounted_elsewhere(tmp_path) as enter, sink(shared_generator) as port:
            devices.add(run(*enter, "stat", "--format=%d", str(tmp_path)))
            run(*enter, "cp", str(stays.path), str(vanishes.path), str(tmp_path))
            there = [*enter, str(tmp_path / stays.path.name), "udp-client"]
            with Running([*there, f"port={port}", "bytes=10", "size=10", "hold=1"]) as running:
                running.done()
                exporter.await_accounts({stays.sha256: sent(10)})
            there = [*enter, str(tmp_path / vanishes.path.name), "oneshot"]
            with Running([*there, f"port={port}", "bytes=5", "unlink=1"]) as running:
                running.done()
            exporter.await_accounts({vanishes.sha256: sent(5)})
    assert len(devices) < 3


def test_hash_is_known_when_the_file_is_on_an_overlay(
    exporter: Exporter, shared_generator: Generator, tmp_path: Path
) -> None:
    layers = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for layer in layers.values():
        layer.mkdir()
    below = shared_generator.copy("below", folder=layers["lower"])
    options = ",".join(
        (
            f"lowerdir={layers['lower']}",
            f"upperdir={layers['upper']}",
            f"workdir={layers['work']}",
        )
    )
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, layers["merged"]], check=False
    )
    if mounted.returncode:
        pytest.skip("this kernel: no overlay filesystem")
    try:
        merged = Program(path=layers["merged"] / below.path.name, sha256=below.sha256)
        above = shared_generator.copy("above", folder=layers["merged"])
        with sink(shared_generator) as port:
            shoot(merged, port, 10)
            shoot(above, port, 5)
        exporter.await_accounts({below.sha256: sent(10), above.sha256: sent(5)})
    finally:
        run("umount", "--lazy", str(layers["merged"]))
