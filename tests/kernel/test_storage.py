"""Full disk, failing disk, locked database, other boot, wiped storage, no descriptors left."""

import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.kernel.exporter import COMMAND, Exporter, poll
from tests.kernel.generator import Generator
from tests.kernel.scrape import Account
from tests.kernel.steady import SteadyTraffic
from tests.kernel.test_restart import SETTINGS, compare_log, logged

pytestmark = pytest.mark.usefixtures("privileges")

LOOPBACK = ("tcp", "loopback")


@contextmanager
def storage_on(*mount: str) -> Iterator[Exporter]:
    """An exporter whose storage is a filesystem of its own: what `mount` needs but the place."""
    exporter = Exporter(command=COMMAND, settings=SETTINGS)
    exporter.storage.mkdir()
    subprocess.run(["mount", *mount, exporter.storage], check=True)
    exporter.storage.chmod(0o700)
    try:
        with exporter:
            exporter.launch()
            yield exporter
    finally:
        subprocess.run(["umount", "-l", exporter.storage], check=True)
        exporter.kill()


@contextmanager
def small_storage(megabytes: int) -> Iterator[Exporter]:
    """An exporter whose storage is soon full."""
    with storage_on("-t", "tmpfs", "-o", f"size={megabytes}m", "none") as exporter:
        yield exporter


def fill(folder: Path) -> Path:
    """Leaves no room on a filesystem."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def send(generator: Generator, name: str, size: int = 1234) -> dict[str, Account]:
    """One connection of a new program."""
    client, server = generator.copy(name), generator.copy("server")
    with server.start("tcp-server") as listener:
        port = listener.ready().port
        with client.start("tcp-client", port=port, bytes=size) as sender:
            sender.done()
        listener.done()
    return {
        client.sha256: Account(transmit={LOOPBACK: size}, connections={(*LOOPBACK, "outbound"): 1})
    }


def test_rows_arrive_when_a_full_disk_has_room_again(shared_generator: Generator) -> None:
    with small_storage(4) as exporter, SteadyTraffic(shared_generator) as traffic:
        exporter.await_accounts(send(shared_generator, "before"))
        filler = fill(exporter.storage)
        exporter.await_scrape(
            lambda scrape: bool(
                scrape.value("log_errors_total", log="journal", reason="full")
                and scrape.value("log_errors_total", log="sqlite", reason="full")
            ),
            "the disk is full",
        )
        expected = send(shared_generator, "during")
        exporter.await_accounts(expected)
        filler.unlink()
        expected |= traffic.finish()
        exporter.await_accounts(expected)
        exporter.stop(signal.SIGTERM)
        compare_log(exporter, expected)


def test_it_starts_when_there_is_more_to_sort_than_fits_in_memory(
    shared_generator: Generator,
) -> None:
    """SQLite then needs a temporary file, which Landlock allows in the storage path only."""
    with Exporter.start(SETTINGS) as exporter:
        exporter.stop(signal.SIGTERM)
        with closing(sqlite3.connect(exporter.storage / "snitch.db")) as database, database:
            database.executemany(
                "INSERT INTO known_files VALUES (1, ?, 0, 1, 0, 0, ?, ?, ?, 0)",
                (
                    (number, f"{number:064x}", -number, f"/{'x' * 200}/{number}".encode())
                    for number in range(20_000)
                ),
            )
        exporter.launch()
        exporter.await_accounts(send(shared_generator, "after"))


def break_ext4(folder: Path) -> None:
    """Has the kernel find an error in a filesystem, which it makes read-only then."""
    source = subprocess.check_output(["findmnt", "-n", "-o", "SOURCE", folder], text=True).strip()
    Path("/sys/fs/ext4", Path(source).name, "trigger_fs_error").write_text("1")


def test_counters_go_on_when_the_storage_becomes_read_only(
    shared_generator: Generator, tmp_path: Path
) -> None:
    if not Path("/dev/loop-control").exists():
        pytest.skip("no loop devices here")
    image = tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount = ("-o", "loop,errors=remount-ro")
    with storage_on(*mount, str(image)) as exporter, SteadyTraffic(shared_generator) as traffic:
        kept = send(shared_generator, "before")
        exporter.await_accounts(kept)
        assert poll(lambda: kept.keys() <= logged(exporter).keys(), seconds=20.0)
        subprocess.run(["sync", "--file-system", exporter.storage], check=True)
        break_ext4(exporter.storage)
        during = send(shared_generator, "during")
        exporter.await_accounts(kept | during)
        scrape = exporter.await_scrape(
            lambda scrape: bool(
                scrape.value("log_errors_total", log="journal", reason="failed")
                and scrape.value("log_errors_total", log="sqlite", reason="failed")
            ),
            "the disk fails",
        )
        expected = traffic.finish()
        exporter.await_accounts(kept | during | expected)
        assert scrape.value("unattributed_bytes_total") == 0

        # Nothing can be kept: that is said, and neither hangs nor damages what is there.
        exporter.stop(signal.SIGTERM)
        subprocess.run(["umount", exporter.storage], check=True)
        # A copy, since somebody else's mount namespace may still have the broken one.
        mended = shutil.copy(image, tmp_path / "mended")
        checked = subprocess.run(["e2fsck", "-fy", mended], check=False, capture_output=True)
        assert checked.returncode in (0, 1), checked.stdout
        subprocess.run(["mount", *mount, mended, exporter.storage], check=True)
        exporter.launch()
        again = send(shared_generator, "again")
        exporter.await_accounts(kept | again)


def test_rows_arrive_when_a_locked_database_is_released(shared_generator: Generator) -> None:
    with Exporter.start(SETTINGS) as exporter, SteadyTraffic(shared_generator) as traffic:
        with closing(sqlite3.connect(exporter.storage / "snitch.db")) as shell:
            shell.execute("BEGIN EXCLUSIVE")
            exporter.await_scrape(
                lambda scrape: scrape.value("log_errors_total", reason="locked") >= 3, "locked"
            )
            exporter.await_accounts(send(shared_generator, "during"))
            exporter.crash()
            shell.execute("ROLLBACK")
        exporter.launch()
        expected = traffic.finish()
        exporter.await_accounts(expected)
        exporter.stop(signal.SIGTERM)
        compare_log(exporter, expected)


@pytest.mark.parametrize("way", ["stop", "crash"])
def test_counters_start_at_zero_when_the_machine_was_booted(
    shared_generator: Generator, way: str
) -> None:
    with Exporter.start(SETTINGS) as exporter:
        expected = send(shared_generator, "before")
        exporter.await_accounts(expected)
        if way == "crash":
            exporter.crash()
        else:
            exporter.stop(signal.SIGTERM)
        shutil.rmtree(exporter.pins)
        with closing(sqlite3.connect(exporter.storage / "snitch.db")) as database, database:
            database.execute("UPDATE state SET value = 'another' WHERE name = 'boot_id'")
        exporter.launch()

        after = send(shared_generator, "after")
        scrape = exporter.await_accounts(after, nothing=expected)
        assert not any(executable.sha256 in expected for executable in scrape.accounts)
        exporter.stop(signal.SIGTERM)
        compare_log(exporter, expected | after)


def test_counters_start_at_zero_when_the_storage_was_wiped(shared_generator: Generator) -> None:
    with Exporter.start(SETTINGS) as exporter:
        expected = send(shared_generator, "before")
        exporter.await_accounts(expected)
        exporter.stop(signal.SIGTERM)
        for path in sorted(exporter.storage.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        exporter.launch()
        exporter.await_accounts(send(shared_generator, "after"), nothing=expected)


@contextmanager
def no_descriptors_left(pid: int) -> Iterator[None]:
    """A process that can open nothing more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_bytes_are_exact_when_the_sensor_has_no_descriptors_left(
    shared_generator: Generator,
) -> None:
    with Exporter.start(SETTINGS) as exporter, SteadyTraffic(shared_generator) as traffic:
        exporter.await_accounts(send(shared_generator, "before"))
        exporter.await_scrape(
            lambda scrape: any(one.sha256 == traffic.short_lived for one in scrape.accounts),
            "the hash of what goes on to be executed",
        )
        nobody = exporter.scrape().account("").sums()[0]
        with no_descriptors_left(exporter.sensor_pid):
            send(shared_generator, "during", 77_777)
            said = poll(lambda: "no_descriptors" in exporter.said(), seconds=9)
            assert said, exporter.said()
        exporter.await_accounts(traffic.finish() | send(shared_generator, "after"))
        exporter.await_scrape(
            lambda scrape: (
                scrape.account("").sums()[0] - nobody >= 77_777
                or any(77_777 in account.transmit.values() for account in scrape.accounts.values())
            ),
            "what was sent meanwhile, under its hash or under none",
        )
