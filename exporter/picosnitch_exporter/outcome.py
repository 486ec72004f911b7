"""How a command ends: its exit code, and one line for what went wrong.

Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration, 130 interrupted from the keyboard.
"""

import os
import sys
from collections.abc import Callable
from typing import Final

from picosnitch_exporter.errors import PicosnitchError

PROGRAM: Final = "picosnitch-exporter"
FAILED: Final = 1
INTERRUPTED: Final = 130
"""128 and SIGINT, as a shell reports it."""


def of(command: Callable[[], int]) -> int:
    """Runs a command; the exit code."""
    try:
        return command()
    except PicosnitchError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()  # whoever read it has gone (`| head`)
        return FAILED


def complain(message: str) -> None:
    """Says what is wrong, on standard error."""
    # One line that no terminal obeys, whatever a path in it is called.
    text = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in message
    )
    print(f"{PROGRAM}: {text}", file=sys.stderr)  # noqa: T201


def discard_output() -> None:
    """Lets what is still buffered go nowhere: it would fail once more when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
