"""What processes and files are called in labels and in the log."""

from typing import Protocol

from picosnitch_exporter.identity.processes import Process
from picosnitch_exporter.identity.registry import KERNEL_PATH, Registry
from picosnitch_exporter.identity.versions import Version, VersionState
from picosnitch_exporter.model import HOST, Executable, Program, Workload

UNKNOWN_PATH = "[unknown]"
"""Neither the file nor the process was ever introduced."""


class Workloads(Protocol):
    """Which pod or container a process runs in."""

    def workload_of(self, process: Process, /) -> tuple[Workload, str]:
        """The workload and the container's id, empty on the host."""

    def is_pending(self, process: Process, /) -> bool:
        """Whether more may become known of it soon."""


class HostOnly:
    """Knows no container."""

    def workload_of(self, _process: Process, /) -> tuple[Workload, str]:
        """The host."""
        return HOST, ""

    def is_pending(self, _process: Process, /) -> bool:
        """All is known."""
        return False


def label(version: Version, *, name: str) -> Executable:
    """The labels of a version; without a path, the process's name in brackets."""
    bracketed = f"[{name}]" if name else UNKNOWN_PATH
    if bracketed == KERNEL_PATH:
        bracketed = UNKNOWN_PATH  # which only the kernel's own traffic is called
    return Executable(sha256=version.sha256, exe=version.path or bracketed)


def version_of(process: Process, registry: Registry) -> Version:
    """What a process runs; kept with it, so that it outlives the registry's bounds."""
    version = process.version
    # What was given up is looked up again: the file may have been shown since.
    if version is None or version.state is VersionState.IMPOSSIBLE:
        version = registry.kernel
        if not process.is_kernel:
            version = registry.version_of(
                process.executable, exec_ns=process.exec_ns, changed_ns=process.changed_ns
            )
        if version is not process.version:
            process.version = version
            process.program = None
            # One of two equal values is enough.
            if process.executable == version.identity:
                process.executable = version.identity
            if process.changed_ns == version.changed_ns:
                process.changed_ns = version.changed_ns
    return version


def program_of(process: Process, version: Version) -> Program:
    """How the log names a process; kept with it once nothing of it changes any more."""
    program = process.program
    if program is not None and version is process.version and program.sha256 == version.sha256:
        return program
    executable = label(version, name=process.name)
    program = Program(
        exe=executable.exe,
        name=process.name,
        cmdline=process.cmdline,
        sha256=executable.sha256,
    )
    if version is process.version and version.is_settled:
        process.program = program
    return program
