"""Configuration: the only part that reads files and the environment for settings.

`load` gives `Settings` from a file, the flags and the environment; `show` writes them as a file.
What they need is imported when they are called: the exporter process needs none of it, only what
stands in the smaller modules, and is 3 MB smaller without.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from picosnitch_exporter.settings import Settings

if TYPE_CHECKING:
    from picosnitch_exporter.config.document import Plain
    from picosnitch_exporter.config.loading import Loaded

__all__ = ["load", "load_with_notices", "show"]


def load_with_notices(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: "Mapping[str, Plain]",
) -> "Loaded":
    """As `loading.load`."""
    from picosnitch_exporter.config import loading

    return loading.load(path, environment=environment, overrides=overrides)


def load(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: "Mapping[str, Plain]",
) -> Settings:
    """As `load_with_notices`, for those who have nobody to pass the notices on to."""
    return load_with_notices(path, environment=environment, overrides=overrides).settings


def show(settings: Settings) -> str:
    """As `showing.show`."""
    from picosnitch_exporter.config import showing

    return showing.show(settings)
