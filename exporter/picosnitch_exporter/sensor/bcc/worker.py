"""Compiles, loads and attaches in a process of its own, which hands the descriptors over and ends.

The compiler takes 200 MB and writes to the standard error what it thinks of a text; neither is to
stay in the sensor.
"""

import contextlib
import json
import os
import platform
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from picosnitch_exporter.errors import KernelError, PicosnitchError, RequirementError
from picosnitch_exporter.sensor.bcc import kprobes
from picosnitch_exporter.sensor.bcc.binding import Binding
from picosnitch_exporter.sensor.bcc.hooks import HOOKS, MAPS
from picosnitch_exporter.sensor.plan import Target

_SECONDS = 600.0
"""10 s are usual; an emulated machine takes minutes."""
_MESSAGE_BYTES = 4096
_KINDS = {
    # enum bpf_prog_type
    Target.FILTER: 1,
    Target.KPROBE: 2,
    Target.KRETPROBE: 2,
    Target.RAW_TRACEPOINT: 17,
    Target.CGROUP: 8,
}
_CGROUP_SOCK = 9
_SOCK_PROGRAMS = frozenset({"make_cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done.

    events: by program, the kprobe events that it is attached to. Without any, and without
    `is_attached`, everything is only loaded.
    """

    text: str
    flags: Sequence[str]
    is_attached: bool = False
    events: Sequence[tuple[str, str]] = ()


@dataclass(slots=True, kw_only=True)
class Descriptors:
    """What was loaded, by name; links keep programs attached."""

    maps: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    links: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Detaches and unloads everything."""
        for descriptor in (*self.links, *self.programs.values(), *self.maps.values()):
            os.close(descriptor)


def perform(job: Job) -> Descriptors:
    """Does a job in a child process.

    Raises
    ------
    RequirementError
        if BCC is not there, or can't compile for this kernel.
    KernelError
        if the kernel refuses something.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    messages = os.memfd_create("bcc-messages")
    child = os.fork()
    if not child:
        _become_worker(job, theirs, messages)
    theirs.close()
    try:
        return _receive(ours, messages)
    finally:
        ours.close()
        os.close(messages)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _receive(channel: socket.socket, messages: int) -> Descriptors:
    received = Descriptors()
    deadline = time.monotonic() + _SECONDS
    try:
        while True:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            data, descriptors, _flags, _address = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
            kind, text = json.loads(data) if data else ("nothing", "")
            match kind:
                case "map":
                    received.maps[text] = descriptors[0]
                case "program":
                    received.programs[text] = descriptors[0]
                case "link":
                    received.links.extend(descriptors)
                case "done":
                    return received
                case _:
                    raise _failure(kind, text, messages)
    except TimeoutError as error:
        received.close()
        raise KernelError(f"BCC has compiled nothing for {_SECONDS:.0f} s") from error
    except PicosnitchError:
        received.close()
        raise


def _failure(kind: str, text: str, messages: int) -> PicosnitchError:
    match kind:
        case "requirement":
            return RequirementError(text)
        case "compilation":
            return RequirementError(
                f"BCC {text} can't compile for kernel {platform.release()}, whose headers may be "
                "newer than it knows: install a newer BCC, or a kernel with BTF "
                f"({_first_error(messages)})"
            )
        case "nothing":
            return KernelError(f"BCC ended without a result: {_first_error(messages)}")
        case _:
            return KernelError(f"{text}\n{_last_lines(messages)}")


def _read(messages: int) -> list[str]:
    size = os.fstat(messages).st_size
    return os.pread(messages, size, 0).decode("utf-8", "replace").splitlines()


def _first_error(messages: int) -> str:
    lines = _read(messages)
    errors = (line for line in lines if "error:" in line)
    return next(errors, lines[-1] if lines else "no message")


def _last_lines(messages: int) -> str:
    return "\n".join(_read(messages)[-12:])


def _become_worker(job: Job, channel: socket.socket, messages: int) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
        _close_others(channel.fileno())
        _work(job, channel)
    finally:
        os._exit(0)


def _close_others(kept: int) -> None:
    """Whatever the sensor has open is not for this process, and would outlive the sensor in it."""
    for link in tuple(Path("/proc/self/fd").iterdir()):
        descriptor = int(link.name)
        if descriptor > 2 and descriptor != kept:  # noqa: PLR2004 - beyond the standard error
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _work(job: Job, channel: socket.socket) -> None:
    def say(kind: str, text: str, *descriptors: int) -> None:
        socket.send_fds(channel, [json.dumps([kind, text]).encode()[:_MESSAGE_BYTES]], descriptors)

    try:
        binding = Binding()
    except RequirementError as error:
        say("requirement", str(error))
        return
    try:
        module = binding.compile(job.text, job.flags)
    except KernelError:
        say("compilation", binding.version)
        return
    try:
        programs = {}
        for hook in HOOKS:
            if hook.program not in programs:
                is_sock = hook.program in _SOCK_PROGRAMS
                kind = _CGROUP_SOCK if is_sock else _KINDS[hook.target]
                programs[hook.program] = binding.load(module, hook.program, kind)
                say("program", hook.program, programs[hook.program])
        for name in MAPS:
            say("map", name, binding.map(module, name))
        if job.is_attached:
            for name, link in _attach(binding, job, programs):
                say("link", name, link)
    except KernelError as error:
        say("kernel", str(error))
        return
    say("done", "")


def _attach(binding: Binding, job: Job, programs: dict[str, int]) -> Sequence[tuple[str, int]]:
    links = []
    for hook in HOOKS:
        if hook.target is Target.RAW_TRACEPOINT:
            link = binding.calls.bpf_attach_raw_tracepoint(
                programs[hook.program], hook.function.encode()
            )
            if link < 0:
                raise KernelError(
                    f"program {hook.program} can't be attached to the tracepoint {hook.function}"
                )
            links.append((hook.program, link))
    for program, event in job.events:
        link = binding.calls.bpf_attach_tracepoint(
            programs[program], kprobes.GROUP.encode(), event.encode()
        )
        if link < 0:
            raise KernelError(f"program {program} can't be attached to the kprobe {event}")
        links.append((program, link))
    return links


def source_of(package: Path) -> str:
    """The text of the programs.

    Raises
    ------
    RequirementError
        if it was not built.
    """
    path = package / "picosnitch.bcc.c"
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise RequirementError(
            f"{path} is missing: make setup (or reinstall the package)"
        ) from error
