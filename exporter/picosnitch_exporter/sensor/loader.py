"""Brings up the kernel side by the plan that is chosen (see `choice`), and takes it down."""

import fcntl
import logging
import os
from pathlib import Path

from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import mounts, requirements
from picosnitch_exporter.sensor.choice import Choice, all_plans
from picosnitch_exporter.sensor.kernel_side import KernelSide
from picosnitch_exporter.sensor.libbpf import Library
from picosnitch_exporter.sensor.pins import remove, retire_others
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.settings import BpfSettings

_log = logging.getLogger(__name__)

_FLOW_IDLE_ROUNDS = 4
"""Of 15 s each, see drain.EXPIRE_SECONDS."""


class Loader:
    """Brings up the kernel side.

    Raises
    ------
    RequirementError
        if something is missing on this machine, or another exporter runs.
    KernelError
        if the kernel refuses what it should be able to do.
    """

    def __init__(self, settings: BpfSettings, *, every_exe: bool) -> None:
        self._settings = settings
        self._every_exe = every_exe
        self._library = Library()
        self._choice = Choice(settings.plan, all_plans(self._library, settings))
        self._lock: int | None = None

    @property
    def library(self) -> Library:
        """The binding, for what else speaks to libbpf."""
        return self._library

    def start(self) -> KernelSide:
        """Has the best plan take over what is pinned, or load and attach anew, and count."""
        self._lock = _lock(self._settings.pin_path)
        root = self._settings.pin_path if self._lock is not None else None
        side = self._choice.first(lambda plan: plan.start(root))
        side.refused_plans = self._choice.reasons()
        if not side.wake():
            # The store that lets these programs count, and those of another build no more.
            side.control.active = side.generation
        self._configure(side)
        # For what was opened while the programs were loaded.
        side.find_existing()
        if root:
            retire_others(self._library, root, side)
        return side

    def _configure(self, side: KernelSide) -> None:
        side.control.configure(
            linger_seconds=self._settings.linger_seconds,
            every_exe=self._every_exe,
            count_bytes=self._settings.bandwidth,
            flow_idle_rounds=_FLOW_IDLE_ROUNDS,
            wakeup_bytes=side.ring.size // 4,
        )
        side.control.beat()
        side.control.raise_dirty()


def detach(root: Path) -> bool:
    """Removes all pins below `root`, and with that the programs. True if there were any.

    Whatever plan they are of, and whether this kernel could count today or not.

    Raises
    ------
    RequirementError
        if an exporter is running with them, or privileges are missing.
    """
    requirements.require_capabilities()
    requirements.require_host_processes()
    from picosnitch_exporter.sensor.bcc.plan import remove_leftovers

    remove_leftovers()
    if not root.exists():
        return False
    _lock(root)
    remove(root)
    return True


def _lock(root: Path) -> int | None:
    """A lock on the folder of all pins, by its descriptor; None where no bpffs is to be had."""
    try:
        mounts.ensure_bpffs(root)
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        _log.warning(
            Event(
                "pins_unavailable",
                {
                    "path": str(root),
                    "error": error.strerror,
                    "meaning": "counting stops with this process",
                },
            )
        )
        return None
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = Procfs().lock_holder(lock)
        raise RequirementError(
            f"another picosnitch-exporter runs with the same pins ({root}): "
            f"{f'process {holder}' if holder else 'its process is not visible here'}; "
            "stop it first"
        ) from error
    return lock
