"""Imports what the sensor and the exporter process need, in the order of daemon.run, and waits."""

import gc
import os
import signal

READY = b"ready\n"


def main() -> None:
    """Two processes, until they are killed or standard input is closed."""
    from picosnitch_exporter import daemon, memory  # noqa: F401

    memory.hold_little()
    from picosnitch_exporter import stream  # noqa: F401

    gc.collect()
    gc.freeze()
    reading, writing = os.pipe()
    if os.fork() == 0:
        from picosnitch_exporter.log import journal  # noqa: F401
        from picosnitch_exporter.outputs import listen  # noqa: F401
        from picosnitch_exporter.service import late, process  # noqa: F401

        memory.give_back()
        os.write(writing, READY)
        os.close(writing)
        os.read(0, 1)  # the pipe's other end is closed once the parent has been killed
        os._exit(0)
    os.close(writing)
    from picosnitch_exporter.sensor.loader import Loader  # noqa: F401
    from picosnitch_exporter.sensor.process import Sensor  # noqa: F401

    memory.give_back()
    if os.read(reading, len(READY)) != READY:
        raise SystemExit(1)  # it has said why
    os.write(1, READY)
    signal.pause()


if __name__ == "__main__":
    main()
