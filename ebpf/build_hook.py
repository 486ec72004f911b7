"""Hatchling build hook: compiles the BPF object and ships it inside the package."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = (
    Path("exporter/picosnitch_exporter/sensor/picosnitch.bpf.o"),
    Path("exporter/picosnitch_exporter/sensor/picosnitch.bcc.c"),
)


class BpfBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs ebpf/Makefile before a wheel or an editable install is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the object; `version` is "standard" for a wheel, "editable" for an editable one."""
        root = Path(self.root)
        self._make(root / "ebpf")
        if version != "editable":  # an editable install reads them from the source tree
            for path in BUILT:
                packaged = path.relative_to("exporter").as_posix()
                build_data["force_include"][str(root / path)] = packaged

    def _make(self, folder: Path) -> None:
        make = shutil.which("make")
        if make is None:
            self.app.abort(
                "make is missing: install the packages that build the BPF object (on Debian and "
                "Ubuntu: apt-get install make clang llvm libbpf-dev)"
            )
        # A make above this one must not hand its options and its job server down.
        environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS"}}
        result = subprocess.run(
            [str(make), "--no-print-directory", "-C", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            self.app.abort(f"the BPF object was not built: {result.stderr.strip()}")
