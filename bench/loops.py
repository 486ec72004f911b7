"""The loops of `programs/loops.c`, and the BPF programs to compare with, built in a folder."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "bench/programs"
DESIGNS = ("empty", "hooks", "storage", "tuple")
"""BPF programs that stand for other ways: nothing at all on the two tracepoints, nothing at all on
each hook of the exporter, the least that counts in the storage of sockets on each of them, and a
hash by tuple on the tracepoints."""
_OPENED_SECONDS = 1.0


class Loops:
    """A compiled program; each loop prints nanoseconds per round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "loops"
        source = PROGRAMS / "loops.c"
        subprocess.run(["cc", "-O2", "-pthread", "-o", self.path, source], check=True)

    @classmethod
    @contextmanager
    def built(cls) -> "Iterator[Loops]":
        """Them, in a folder that is removed in the end."""
        with tempfile.TemporaryDirectory(prefix="picosnitch-bench-") as folder:
            yield cls(Path(folder))

    def nanoseconds(self, arguments: Sequence[str]) -> float:
        """Of one round."""
        result = subprocess.run([self.path, *arguments], check=True, capture_output=True, text=True)
        return float(result.stdout)

    @contextmanager
    def load(self, *arguments: str) -> Iterator[None]:
        """Has a loop run beside, for longer than it is needed."""
        with subprocess.Popen([self.path, *arguments], stdout=subprocess.DEVNULL) as process:
            try:
                time.sleep(_OPENED_SECONDS)  # in which it opens its sockets
                if process.poll() is not None:
                    raise SystemExit(f"loops {' '.join(arguments)} has ended early")
                yield
            finally:
                process.kill()

    def design(self, name: str) -> Path:
        """A BPF object of `DESIGNS`, compiled."""
        target = self.folder / f"{name}.bpf.o"
        machine = os.uname().machine
        flags = ("-g", "-O2", "-mcpu=v3", "-target", "bpf", f"-I{ROOT / 'ebpf'}")
        system = ("-idirafter", f"/usr/include/{machine}-linux-gnu")
        source = PROGRAMS / f"{name}.bpf.c"
        subprocess.run(
            [
                "clang",
                *flags,
                *system,
                "-c",
                source,
                "-o",
                target,
            ],
            check=True,
        )
        return target
