"""Another build of the BPF programs, as after an upgrade, and the exporter that has it."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "ebpf"
# A bound of the programs alone: maps and records stay what they are.
_CHANGED_FILE, _BOUND, _CHANGED_BOUND = (
    "provisional.h",
    "PROVISIONAL_MAX 3",
    "PROVISIONAL_MAX 4",
)


def build_another(folder: Path) -> Path:
    """Compiles the programs with a changed constant; the object."""
    source = folder / "ebpf"
    shutil.copytree(SOURCE, source)
    changed = source / _CHANGED_FILE
    text = changed.read_text()
    assert _BOUND in text
    changed.write_text(text.replace(_BOUND, _CHANGED_BOUND))
    built = folder / "picosnitch.bpf.o"
    subprocess.run(["make", "-s", "-C", source, f"OBJECT={built}"], check=True, capture_output=True)
    return built


def command_with(built: Path) -> Sequence[str]:
    """The command that loads this object instead of the package's."""
    program = (
        "import pathlib, sys; from picosnitch_exporter import cli; "
        "from picosnitch_exporter.sensor import object_plan; "
        f"path = pathlib.Path({str(built)!r}); "
        "object_plan.read_object = lambda: (path.read_bytes(), path); "
        "sys.exit(cli.main())"
    )
    return (sys.executable, "-c", program)
