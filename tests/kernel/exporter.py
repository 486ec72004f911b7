"""Runs the real exporter, as a user would, and reads what it exposes.

    with Exporter.start() as exporter:
        exporter.await_accounts({program.sha256: Account(transmit={("tcp", "loopback"): 1000})})

ExporterError                it did not start, missed a deadline, or left something behind
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

import yaml

from tests.kernel.machine import PLAN, SLOWNESS
from tests.kernel.scrape import Account, Scrape, differences

_Result = TypeVar("_Result")

COMMAND = (sys.executable, "-m", "picosnitch_exporter")
BPFFS = Path("/sys/fs/bpf")
# Far above what anything takes here: they end a hung test only.
START_SECONDS = 60.0
STOP_SECONDS = 20.0
SHOW_SECONDS = 60.0
_POLL_SECONDS = 0.1
_REQUEST_SECONDS = 10.0

Settings = Mapping[str, Mapping[str, object]]
_PLAN = {"plan": PLAN} if PLAN else {}


class ExporterError(AssertionError):
    """It did not start, missed a deadline, or left something behind."""


def poll(condition: Callable[[], _Result], *, seconds: float) -> _Result:
    """The first true result of a condition, or its last one when the time is over.

    A slow machine has as many times longer.
    """
    deadline = time.monotonic() + seconds * SLOWNESS
    while True:
        result = condition()
        if result or time.monotonic() >= deadline:
            return result
        time.sleep(_POLL_SECONDS)


def free_port() -> int:
    """A TCP port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Exporter:
    """One running exporter; as a context manager it stops at the end, and is checked to be gone."""

    def __init__(self, *, command: Sequence[str], settings: Settings) -> None:
        # Not pytest's own folder, which only root may enter: the exporter process is nobody.
        self.folder = Path(tempfile.mkdtemp(prefix="picosnitch-test-"))
        self.folder.chmod(0o755)
        self.storage = self.folder / "storage"
        self.pins = BPFFS / f"picosnitch-test-{secrets.token_hex(6)}"
        self._stderr_path = self.folder / "stderr"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(settings, command=command)

    def configure(self, settings: Settings, *, command: Sequence[str] = COMMAND) -> None:
        """Let the next launch be another one, with the same storage and pins."""
        config = {
            **settings,
            "bpf": {"pin_path": str(self.pins), **_PLAN, **settings.get("bpf", {})},
            # All that a session of tests shows.
            "metrics": {"max_executables": 50_000, **settings.get("metrics", {})},
            "notifications": {"desktop": False, **settings.get("notifications", {})},
        }
        config_file = self.folder / "config.yaml"
        config_file.write_text(yaml.safe_dump(config))
        self._arguments = [*command, "run", f"--config.file={config_file}"]
        self._arguments.append(f"--storage.path={self.storage}")

    @classmethod
    def start(
        cls, settings: Settings = MappingProxyType({}), /, *, command: Sequence[str] = COMMAND
    ) -> Self:
        """Run it until it is ready: from then on all traffic is counted."""
        exporter = cls(command=command, settings=settings)
        try:
            exporter.launch()
        except BaseException:
            exporter.kill()
            raise
        return exporter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exception_type is None and self._process is not None:
                self.stop()
        finally:
            self.kill()

    @property
    def sensor_pid(self) -> int:
        """The privileged process: the one that was started."""
        return self._running().pid

    @property
    def address(self) -> str:
        """Host and port of its web server; another port after each start."""
        return f"127.0.0.1:{self._port}"

    @property
    def exporter_pid(self) -> int:
        """The unprivileged process, which has state and log."""
        for pid in self._children():
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if descriptor.readlink() == self.storage / "snitch.db":
                        return pid
        raise ExporterError(f"no process has the storage open\n{self.said()}")

    def launch(self) -> None:
        """Start it, also again with the same storage and pins after it has stopped."""
        self._port = free_port()
        arguments = [*self._arguments, f"--web.listen-address=127.0.0.1:{self._port}"]
        with self._stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, cwd=self.folder
            )
        if not poll(self._is_ready, seconds=START_SECONDS):
            raise ExporterError(f"not ready within {START_SECONDS:.0f} s\n{self.said()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it by a signal: exit code 0, and after SIGINT nothing is left in the kernel."""
        process = self._running()
        process.send_signal(number)
        try:
            code = process.wait(STOP_SECONDS * SLOWNESS)
        except subprocess.TimeoutExpired:
            raise ExporterError(f"runs on after {number.name}\n{self.said()}") from None
        self._process = None
        if code:
            raise ExporterError(f"exit code {code} after {number.name}\n{self.said()}")
        if number is signal.SIGINT and self.pins.exists():
            raise ExporterError(f"{self.pins} is left in the kernel\n{self.said()}")

    def kill(self) -> None:
        """End both processes at once and remove all traces; a second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.pins, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def crash(self) -> None:
        """Kill both processes without a chance to do anything; storage and pins stay."""
        self.crash_some(self.sensor_pid, *self._children())

    def crash_some(self, *pids: int) -> None:
        """Kill one of the processes, or both; wait until the privileged one has ended."""
        process = self._running()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.wait(STOP_SECONDS * SLOWNESS)
        self._process = None

    def said(self) -> str:
        """All that it has printed, for messages."""
        text = self._stderr_path.read_text(errors="replace").strip()
        return f"the exporter said: {text[-4000:] or 'nothing'}"

    def page(self, path: str) -> str:
        """What is answered to a path now."""
        with self._get(path) as response:
            text: str = response.read().decode()
            return text

    def scrape(self) -> Scrape:
        """What /metrics shows now."""
        return Scrape.parse(self.page("/metrics"))

    def await_scrape(
        self, condition: Callable[[Scrape], bool], what: str, *, seconds: float = SHOW_SECONDS
    ) -> Scrape:
        """Scrape until a condition holds."""
        latest: list[Scrape] = []

        def holds() -> bool:
            latest[:] = [self.scrape()]
            return condition(latest[0])

        if not poll(holds, seconds=seconds):
            raise ExporterError(f"not within {seconds:.0f} s: {what}\n{self.said()}")
        return latest[0]

    def await_accounts(
        self,
        expected: Mapping[str, Account],
        *,
        nothing: Iterable[str] = (),
        seconds: float = SHOW_SECONDS,
    ) -> Scrape:
        """Scrape until all that is shown for these hashes is what is expected, and no more.

        For the hashes in `nothing`, no series may exist that is not zero.
        """
        wanted = {**dict.fromkeys(nothing, Account()), **expected}
        latest: list[Scrape] = []

        def agrees() -> bool:
            latest[:] = [self.scrape()]
            return not differences(wanted, latest[0])

        if not poll(agrees, seconds=seconds):
            found = "\n".join(differences(wanted, latest[0]))
            raise ExporterError(f"{found}\n{latest[0].losses()}\n{self.said()}")
        return latest[0]

    def _children(self) -> list[int]:
        pid = self.sensor_pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ExporterError(f"it does not run\n{self.said()}")
        return self._process

    def _is_ready(self) -> bool:
        code = self._running().poll()
        if code is not None:
            raise ExporterError(f"ended with exit code {code} at the start\n{self.said()}")
        try:
            with self._get("/-/ready") as response:
                return response.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def _get(self, path: str) -> "urllib.response.addinfourl":
        url = f"http://127.0.0.1:{self._port}{path}"
        response: urllib.response.addinfourl = urllib.request.urlopen(
            url, timeout=_REQUEST_SECONDS * SLOWNESS
        )
        return response
