"""Builds and runs tests/kernel/traffic: programs that move an exactly known number of bytes.

    generator = Generator.build(folder)
    server, client = generator.copy("server"), generator.copy("client")
    with server.start("tcp-server") as sink:
        with client.start("tcp-client", port=sink.ready().port, bytes=1000) as source:
            assert source.done().sent == sink.done().received

TrafficError                 a program failed, or missed its deadline
└── UnsupportedError         this kernel lacks the feature (exit status 77)
"""

import hashlib
import itertools
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypedDict, cast

from tests.kernel.machine import SLOWNESS, TRAFFIC

SOURCE = Path(__file__).with_name("traffic")
# -std=c11: what the sources are written in. -pthread: several scenarios send from threads.
COMPILE = ("cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
EXIT_UNSUPPORTED = 77
# Far above what any scenario takes here: it ends a hung test only.
DEADLINE_SECONDS = 60.0 * SLOWNESS

# What a key=value pair may hold.
Value = str | int | Path
Options = Mapping[str, Value]


class TrafficError(Exception):
    """A program failed, or missed its deadline."""


class UnsupportedError(TrafficError):
    """This kernel lacks the feature: run the case elsewhere."""


class _Totals(TypedDict):
    sent: int
    received: int
    calls_sent: int
    calls_received: int


class _Peer(_Totals):
    host: str
    port: int


class _Event(_Totals):
    """What a line may carry; which keys are there depends on 'event'."""

    event: str
    pid: int
    port: int
    reason: str
    peers: list[_Peer]
    peers_omitted: int
    notes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The program has its socket: the port is 0 where it has none yet."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOutcome:
    """What was moved to and from one peer address."""

    host: str
    port: int
    sent: int
    received: int
    calls_sent: int
    calls_received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the socket calls of one process moved, by their return values."""

    pid: int
    sent: int
    received: int
    calls_sent: int
    calls_received: int
    peers: tuple[PeerOutcome, ...]
    notes: Mapping[str, int]


class Running:
    """One process; use as a context manager: it never outlives the block."""

    def __init__(self, command: list[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._buffer = b""
        self._events: list[_Event] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exception_type is None:
                self.close()
        finally:
            self.kill()

    @property
    def pid(self) -> int:
        # `ip netns exec` becomes the program: the number stays.
        return self._process.pid

    def ready(self, *, timeout_seconds: float = DEADLINE_SECONDS) -> Ready:
        """Wait until the socket is bound or connected."""
        event = self._event("ready", lambda pid: pid == self.pid, timeout_seconds)
        return Ready(pid=event["pid"], port=event["port"])

    def go(self) -> None:
        """Let a program started with start="stdin" move its first byte."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def done(self, *, timeout_seconds: float = DEADLINE_SECONDS) -> Outcome:
        """Wait until all is moved; with hold=1 the sockets are still open then."""
        return _outcome(self._event("done", lambda pid: pid == self.pid, timeout_seconds))

    def handed(self, *, timeout_seconds: float = DEADLINE_SECONDS) -> Outcome:
        """Wait for what this process moved before it became another program."""
        return _outcome(self._event("handed", lambda pid: pid == self.pid, timeout_seconds))

    def child(self, *, timeout_seconds: float = DEADLINE_SECONDS) -> Outcome:
        """Wait for what a process that it forked moved: call once per child."""
        return _outcome(self._event("done", lambda pid: pid != self.pid, timeout_seconds))

    def close(self, *, timeout_seconds: float = DEADLINE_SECONDS) -> None:
        """Close stdin, which ends hold=1 and open-ended servers, and wait for a clean end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        deadline = time.monotonic() + timeout_seconds
        try:
            # To the end: a list of peers is longer than a pipe.
            while self._read(deadline, "end"):
                pass
            status = self._process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise TrafficError(f"{self._name()} did not end") from None
        if status:
            raise self._failure(status)

    def kill(self) -> None:
        """End it whatever it does; a second call does nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def _event(self, name: str, whose: Callable[[int], bool], timeout_seconds: float) -> _Event:
        deadline = time.monotonic() + timeout_seconds
        while True:
            for index, event in enumerate(self._events):
                if event["event"] == "unsupported":
                    raise UnsupportedError(event["reason"])
                if event["event"] == name and whose(event["pid"]):
                    return self._events.pop(index)
            if not self._read(deadline, name):
                status = self._process.wait(max(1.0, deadline - time.monotonic()))
                if status:
                    raise self._failure(status)
                raise TrafficError(f"{self._name()} ended without {name!r}")

    def _read(self, deadline: float, awaited: str) -> bool:
        """Take what was printed; False at the end of the output."""
        assert self._process.stdout is not None
        # Not select(): tests with many sockets have descriptors beyond its 1024.
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TrafficError(f"{self._name()}: no {awaited!r} in time: {self._said()}")
        data = self._process.stdout.read(65536)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._events += [cast("_Event", json.loads(line)) for line in lines]
        return bool(data)

    def _failure(self, status: int) -> TrafficError:
        if status == EXIT_UNSUPPORTED:
            return UnsupportedError(self._said())
        return TrafficError(f"{self._name()} exited with {status}: {self._said()}")

    def _name(self) -> str:
        return " ".join(map(str, cast("list[str]", self._process.args)))

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip() or "nothing on stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One executable, the only file with its SHA-256."""

    path: Path
    sha256: str

    def start(
        self,
        scenario: str,
        options: Options = MappingProxyType({}),
        /,
        *,
        netns: str | None = None,
        **more: Value,
    ) -> Running:
        """Run it, in a named network namespace if given; options as in traffic/README.md."""
        inside = ["ip", "netns", "exec", netns] if netns else []
        pairs = [f"{key}={value}" for key, value in (dict(options) | more).items()]
        return Running([*inside, str(self.path), scenario, *pairs])


class Generator:
    """The compiled program, to be copied: each copy is an executable of its own."""

    def __init__(self, *, folder: Path, binary: bytes) -> None:
        self.folder = folder
        self._binary = binary
        # Copies are made by several threads at once.
        self._numbers = itertools.count(1)

    @classmethod
    def build(cls, folder: Path, *, static: bool = False) -> Self:
        """Compile into the folder, unless it is compiled already; static for other roots."""
        if TRAFFIC:
            return cls(folder=folder, binary=TRAFFIC.read_bytes())
        output = folder / "traffic"
        sources = sorted(str(path) for path in SOURCE.glob("*.c"))
        flags = ["-static"] if static else []
        compiled = subprocess.run(
            [*COMPILE, *flags, "-o", str(output), *sources],
            capture_output=True,
            check=False,
            text=True,
        )
        if compiled.returncode:
            raise TrafficError(f"cannot compile {SOURCE}: {compiled.stderr}")
        return cls(folder=folder, binary=output.read_bytes())

    def copy(self, name: str, *, folder: Path | None = None) -> Program:
        """Write a copy with a hash of its own; elsewhere if a folder is given."""
        number = next(self._numbers)
        # Behind the end of an ELF file the loader reads nothing.
        content = self._binary + f"\n{name} {number} {os.getpid()}\n".encode()
        path = (folder or self.folder) / f"{name}-{number}"
        path.write_bytes(content)
        path.chmod(0o755)
        return Program(path=path, sha256=hashlib.sha256(content).hexdigest())


def _outcome(event: _Event) -> Outcome:
    if event["peers_omitted"]:
        raise TrafficError("more peers than the program keeps: use fewer, or its totals only")
    return Outcome(
        pid=event["pid"],
        sent=event["sent"],
        received=event["received"],
        calls_sent=event["calls_sent"],
        calls_received=event["calls_received"],
        peers=tuple(PeerOutcome(**peer) for peer in event["peers"]),
        notes=MappingProxyType(event["notes"]),
    )
