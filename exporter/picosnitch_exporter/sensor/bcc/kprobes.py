"""Kprobes as events of tracefs, which can be told how many threads may be inside of a function.

perf's own kprobes take 10 or two for each CPU, and more threads than that wait in recv() anywhere.
Source: Documentation/trace/kprobetrace.rst, kernel/trace/trace_kprobe.c.
"""

import contextlib
import errno
import os
import re
from pathlib import Path

from picosnitch_exporter.errors import KernelError, RequirementError

GROUP = "picosnitch"
_FOLDERS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_MAXACTIVE = 4096
"""KRETPROBE_MAXACTIVE_MAX: 500 kB for each function."""
_OURS = re.compile(rf"^[pr]\d*:({GROUP}/\w+_(\d+)) ")


def find_tracefs(folders: tuple[Path, ...] = _FOLDERS) -> Path:
    """Where the events of kprobes are made.

    Raises
    ------
    RequirementError
        if tracefs is not mounted or can't be written to, or the kernel has no kprobes.
    """
    for folder in folders:
        events = folder / "kprobe_events"
        if events.exists():
            if not os.access(events, os.W_OK):
                raise RequirementError(
                    f"no kprobe can be made, {events} can't be written to: run it as root, and "
                    "open that folder where it is shut away (docs/kernels.md)"
                )
            return folder
        if (folder / "available_events").exists():
            raise RequirementError(
                f"the kernel has no kprobes ({folder}/kprobe_events is missing): "
                "use one that is built with CONFIG_KPROBE_EVENTS=y"
            )
    raise RequirementError(
        f"tracefs is not mounted: mount -t tracefs tracefs {folders[0]} "
        "(in a container: share the host's)"
    )


class Kprobes:
    """The events of this process; its descriptor stays open, so that they can be removed later."""

    def __init__(self, folder: Path, *, pid: int, procfs: Path = Path("/proc")) -> None:
        self._folder = folder
        self._pid = pid
        self._procfs = procfs
        self._names: list[str] = []
        self._descriptor = os.open(folder / "kprobe_events", os.O_WRONLY | os.O_APPEND)

    def add(self, function: str, *, module: str, at_return: bool) -> str | None:
        """Makes the event of a function; its name, or None where the kernel has no such function.

        One of a module that is not loaded becomes active when that is.

        Raises
        ------
        KernelError
            if the kernel refuses it.
        """
        name = f"{function}_{'return' if at_return else 'entry'}_{self._pid}"
        kind = f"r{_MAXACTIVE}" if at_return else "p"
        symbols = (function, f"{module}:{function}") if module else (function,)
        for symbol in symbols:
            try:
                self._write(f"{kind}:{GROUP}/{name} {symbol}")
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                raise KernelError(f"no kprobe at {function}: {error.strerror}") from error
            self._names.append(name)
            return name
        return None

    def missed(self) -> int:
        """How many calls had no probe: too many threads inside, or a probe within a probe."""
        missed = 0
        with contextlib.suppress(OSError):
            for line in (self._folder / "kprobe_profile").read_text("ascii").splitlines():
                name, _hits, misses = line.split()
                if name in self._names:
                    missed += int(misses)
        return missed

    def remove(self) -> None:
        """Removes the events, which nobody may use any more; the kernel keeps those that are."""
        for name in self._names:
            with contextlib.suppress(OSError):
                self._write(f"-:{GROUP}/{name}")
        self._names.clear()

    def remove_stale(self) -> None:
        """Removes those that killed processes have left; they count nothing."""
        for line in (self._folder / "kprobe_events").read_text("ascii").splitlines():
            found = _OURS.match(line)
            if found and not (self._procfs / found[2]).exists():
                with contextlib.suppress(OSError):
                    self._write(f"-:{found[1]}")

    def close(self) -> None:
        """Gives the descriptor back; what was added stays."""
        os.close(self._descriptor)

    def _write(self, command: str) -> None:
        os.write(self._descriptor, f"{command}\n".encode())
