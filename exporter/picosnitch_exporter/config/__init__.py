"""Configuration: the only part that reads files and the environment for settings.

`load` gives `Settings` from a file, the flags and the environment; `show` writes them as a file.
"""

from collections.abc import Mapping
from pathlib import Path

from picosnitch_exporter.config.document import Plain
from picosnitch_exporter.config.loading import Loaded
from picosnitch_exporter.config.loading import load as load_with_notices
from picosnitch_exporter.config.showing import show
from picosnitch_exporter.settings import Settings

__all__ = ["Loaded", "load", "load_with_notices", "show"]


def load(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, Plain],
) -> Settings:
    """As `load_with_notices`, for those who have nobody to pass the notices on to."""
    return load_with_notices(path, environment=environment, overrides=overrides).settings
