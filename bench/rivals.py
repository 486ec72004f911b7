"""What one would otherwise use, from Debian's packages, where it runs on this machine."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

START_SECONDS = 30.0
SETTLE_SECONDS = 2.0

ON_TRACEPOINTS = (
    "tracepoint:sock:sock_send_length,tracepoint:sock:sock_recv_length "
    "{ @[pid, comm] = sum(args->ret); }"
)
ON_CALLS = (
    "tracepoint:syscalls:sys_exit_sendto,tracepoint:syscalls:sys_exit_recvfrom "
    "{ @[pid, comm] = sum(args->ret); }"
)

_TRACEFS = "/sys/kernel/tracing"
_MOUNT_TRACEFS = (
    *("unshare", "--mount", "sh", "-c"),
    f'mountpoint -q {_TRACEFS} || mount -t tracefs tracefs {_TRACEFS}; exec "$@"',
    "sh",
)
"""In a mount namespace of its own: not every machine has it mounted, and bpftrace needs it."""


class UnavailableError(Exception):
    """It does not run here; the message says why, and stands in the results."""


@contextmanager
def bpftrace(script: str) -> Iterator[int]:
    """Bpftrace with a script, from when it is attached; its process number."""
    program = f'BEGIN {{ printf("on\\n"); }} {script}'
    with _started(["bpftrace", "-e", program], first=_MOUNT_TRACEFS) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "on":
                break
        else:
            raise UnavailableError("bpftrace can't attach the script on this kernel")
        yield process.pid


@contextmanager
def nethogs() -> Iterator[int]:
    """Nethogs on all devices, printing each second; its process number."""
    with _started(["nethogs", "-a", "-t", "-d", "1"]) as process:
        yield _settled(process)


@contextmanager
def tcptop() -> Iterator[int]:
    """Tcptop of the BPF compiler collection, printing each second; its process number."""
    with _started(["tcptop-bpfcc", "-C", "1"]) as process:
        yield _settled(process)


@contextmanager
def prometheus_exporter(command: Sequence[str]) -> Iterator[int]:
    """An exporter that somebody else wrote, once it runs; its process number."""
    with _started(command) as process:
        yield _settled(process)


def _settled(process: "subprocess.Popen[str]") -> int:
    """The process number, of something that does not say when it is ready."""
    time.sleep(SETTLE_SECONDS)
    if process.poll() is None:
        return process.pid
    assert process.stdout is not None
    lines = [line.strip() for line in process.stdout if line.strip()]
    raise UnavailableError(f"it ends at once: {lines[-1] if lines else 'it says nothing'}")


@contextmanager
def _started(
    command: Sequence[str], *, first: Sequence[str] = ()
) -> "Iterator[subprocess.Popen[str]]":
    if shutil.which(command[0]) is None:
        raise UnavailableError("it is not installed")
    with subprocess.Popen(
        [*first, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
