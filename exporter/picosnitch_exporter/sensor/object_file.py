"""The built BPF object, where the package has it."""

from pathlib import Path

from picosnitch_exporter.errors import RequirementError

OBJECT_NAME = "picosnitch.bpf.o"


def read_object() -> tuple[bytes, Path]:
    """The built BPF object and where it was found.

    Raises
    ------
    RequirementError
        if it was not built.
    """
    path = Path(__file__).with_name(OBJECT_NAME)
    try:
        return path.read_bytes(), path
    except OSError as error:
        raise RequirementError(
            f"the BPF object {path} is missing: make setup (or reinstall the package)"
        ) from error
