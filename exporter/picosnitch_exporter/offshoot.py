"""A small process beside the big ones: a program of its own, with few capabilities.

It is executed anew, and imports next to nothing until there is work: an interpreter takes 3 MB of
memory where a copy of a process that has imported this package takes 7, as each side writes to
most of what they share (reference counts).
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from picosnitch_exporter import privileges
from picosnitch_exporter.errors import RequirementError
from picosnitch_exporter.logging_format import Event

_FIRST_DESCRIPTOR = 3

_log = logging.getLogger(__name__)


def start(
    script: Path,
    arguments: Sequence[str],
    *,
    descriptors: Sequence[int],
    capabilities: Sequence[int],
) -> int:
    """Starts a script that finds `descriptors` open, by their numbers; its process number.

    Standard input, output and error are this process's. To be called before there are threads.
    """
    pid = os.fork()
    if pid == 0:
        _become(script, arguments, descriptors, capabilities)
    return pid


def _become(
    script: Path,
    arguments: Sequence[str],
    descriptors: Sequence[int],
    capabilities: Sequence[int],
) -> NoReturn:
    """The child's part."""
    try:
        # Ctrl-C and systemd's SIGTERM are for the others; this ends after them. It is what an
        # executed program keeps.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        first = _FIRST_DESCRIPTOR
        for descriptor in sorted(descriptors):
            os.closerange(first, descriptor)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - takes no keyword
            first = descriptor + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        # Root gets what is in the bounding set when it executes something, which is the same.
        privileges.keep_only(*capabilities)
        # Isolated: no variable and no folder but the interpreter's own says what is imported.
        interpreter = [sys.executable, "-I", "-S"]
        os.execv(sys.executable, [*interpreter, str(script), *arguments])  # noqa: S606 - no shell
    except RequirementError as error:
        _log.warning(Event("offshoot_failed", {"script": script.name, "error": str(error)}))
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
        _log.exception(Event("offshoot_failed", {"script": script.name}))
    finally:
        logging.shutdown()
        os._exit(1)
