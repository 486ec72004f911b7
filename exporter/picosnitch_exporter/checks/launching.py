"""The program that waits for messages for a desktop; `desk` starts it, `launcher` is what it runs.

::

    python -I -S launching.py MESSAGES UID RUNTIME LEVEL FORMAT PATH...

MESSAGES is a descriptor, UID the number of a user or empty; then the folder of the sessions, level
and format of the log, and where Python finds modules. Most machines have no desktop, and most days
bring no message: until there is one it imports next to nothing.
"""

import select
import sys


def main(arguments: list[str]) -> None:
    """Until the other end is closed."""
    descriptor, uid, runtime, level, style, *path = arguments
    waiting = select.poll()
    waiting.register(int(descriptor), select.POLLIN)
    waiting.poll()

    sys.path[:] = path
    import socket
    from pathlib import Path

    from picosnitch_exporter import logging_format
    from picosnitch_exporter.checks.launcher import Launcher
    from picosnitch_exporter.settings import LoggingSettings

    logging_format.configure(LoggingSettings(level=level, format=style), process="launcher")
    incoming = socket.socket(fileno=int(descriptor))
    Launcher(incoming, uid=int(uid) if uid else None, runtime=Path(runtime)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
