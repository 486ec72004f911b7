"""What the command calls: it keeps the memory of the command line away from `run`.

`run` goes on for months, in processes that are all copies of the first one. So that one has its
arguments and the configuration read by a child, which hands over the settings and ends; with it
goes what argparse, YAML and the checks take: 5 MB, and a part of it once more in each process.
"""

import os
import pickle
import sys
from collections.abc import Sequence
from typing import NoReturn

from picosnitch_exporter import outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        return outcome.of(lambda: _run(arguments))
    from picosnitch_exporter import cli

    return cli.main(arguments)


def _run(arguments: Sequence[str]) -> int:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _read_settings(arguments, writing)
    os.close(writing)
    # Meanwhile: what all processes need.
    from picosnitch_exporter import daemon

    try:
        with os.fdopen(reading, "rb") as pipe:
            handed_over = pipe.read()
    finally:
        _pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        return code if code > 0 else outcome.FAILED
    if not handed_over:
        return code  # `run --help`
    # From the child, which is this very program.
    settings, notices = pickle.loads(handed_over)  # noqa: S301
    return daemon.start(settings, notices)


def _read_settings(arguments: Sequence[str], writing: int) -> NoReturn:
    """The child's part."""
    code = outcome.FAILED
    try:
        from picosnitch_exporter import cli
        from picosnitch_exporter.settings import Settings

        def hand_over(settings: Settings, notices: Sequence[str]) -> int:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps((settings, tuple(notices))))
            return 0

        code = cli.main(arguments, start=hand_over)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
