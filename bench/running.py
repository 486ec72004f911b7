"""A running exporter, for what is measured beside it."""

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
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.usage import family
from picosnitch_exporter.sensor.libbpf import Library, get_pinned
from picosnitch_exporter.settings import BpfSettings

START_SECONDS = 60.0
DEFAULT_RING_PAGES = BpfSettings().ring_buffer_pages


class Running:
    """An exporter of its own, with its own storage, pins and port; removed at the end.

    `settings` are lines of its configuration, `storage` is a folder that there is already,
    `ring_pages` is the size of the ring, by default that of the exporter.
    """

    def __init__(
        self,
        *flags: str,
        settings: str = "",
        storage: Path | None = None,
        ring_pages: int = DEFAULT_RING_PAGES,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="picosnitch-bench-"))
        self.folder.chmod(0o755)
        self.pins = Path(f"/sys/fs/bpf/picosnitch-bench-{secrets.token_hex(4)}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = self.folder / "config.yaml"
        config.write_text(
            f"bpf: {{pin_path: {self.pins}, ring_buffer_pages: {ring_pages}}}\n"
            "notifications: {desktop: false}\n"
            f"metrics: {{max_executables: 50000}}\n{settings}"
        )
        self.storage = storage or self.folder / "storage"
        started = time.monotonic()
        command = [sys.executable, "-m", "picosnitch_exporter", "run", f"--config.file={config}"]
        command += [f"--storage.path={self.storage}", "--log.level=error"]
        command += [f"--web.listen-address={self.address}", *flags]
        self.process = subprocess.Popen(command)
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > started + START_SECONDS:
                self.__exit__(None, None, None)
                raise SystemExit("the exporter did not start")
            time.sleep(0.01)
        self.start_seconds = time.monotonic() - started

    @classmethod
    def start(cls, *flags: str) -> Self:
        """Start one and wait until it counts."""
        return cls(*flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.rmtree(self.folder)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5):
                return True
        except (OSError, urllib.error.HTTPError):
            return False

    def pids(self) -> list[int]:
        """All processes."""
        return family(self.process.pid)

    def programs(self, library: Library) -> dict[str, int]:
        """Descriptors of its BPF programs."""
        return {
            path.name.removeprefix("prog_"): get_pinned(library, path)
            for path in self.pins.glob("*/*/prog_*")
        }
