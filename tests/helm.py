"""The chart, by helm itself: `make test` puts it into the virtual environment (tests/fetch-helm).

HelmError                    helm refuses the chart or a value
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

Value = Any


class HelmError(AssertionError):
    """Helm refuses the chart or a value."""


def tool(name: str) -> str:
    """Helm or kubectl: what was fetched, else what the system has."""
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: make test fetches it, on x86-64")
    return found


class Chart:
    """A chart's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._defaults: dict[str, Value] = yaml.safe_load((folder / "values.yaml").read_text())

    def render(self, namespace: str, **changed: Value) -> list[dict[str, Value]]:
        """All objects, with values changed by their paths: `podMonitor__enabled=True`."""
        with self._values(changed) as values:
            text = self._helm("template", "test", f"--namespace={namespace}", f"--values={values}")
        return [one for one in yaml.safe_load_all(text) if one]

    def notes(self, namespace: str) -> str:
        """What is said after an installation."""
        text = self._helm("install", "test", f"--namespace={namespace}", "--dry-run=client")
        return text.partition("\nNOTES:\n")[2]

    def lint(self, **changed: Value) -> None:
        """Raises where helm's linter warns."""
        with self._values(changed) as values:
            self._helm("lint", f"--values={values}", "--strict")

    @contextmanager
    def _values(self, changed: dict[str, Value]) -> Iterator[Path]:
        values: dict[str, Value] = {}
        for path, value in changed.items():
            *groups, name = path.split("__")
            group, known = values, self._defaults
            for part in groups:
                group, known = group.setdefault(part, {}), known[part]
            if name not in known:
                raise HelmError(f"{path} is no value of the chart")
            group[name] = value
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            yield Path(file.name)

    def _helm(self, command: str, *arguments: str) -> str:
        words = [arguments[0], str(self._folder), *arguments[1:]]
        if command == "lint":
            words = [str(self._folder), *arguments]
        done = subprocess.run(
            [tool("helm"), command, *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout
