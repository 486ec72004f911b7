"""Known vulnerabilities of what the container image is made of and with, for `make lint`.

pip-audit asks the package index at each run. Where that can't be reached, or has no such data,
nothing is known: one line says so, and linting goes on.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
LOCKS: Final = (_HERE / "requirements.lock", _HERE / "requirements-build.lock")
_SECONDS: Final = 180.0


def judge(report: str, said: str) -> tuple[str, bool]:
    """A line, or one for each vulnerability, and whether there is none.

    `report` is what pip-audit has printed as JSON, empty if it has failed; `said` are its messages.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:
        return f"nothing audited: {(said.strip().splitlines() or ['no answer'])[-1]}", True
    found = [
        f"{package['name']} {package['version']}: {one['id']}"
        f" (mended in: {', '.join(one['fix_versions']) or 'no version yet'})"
        for package in packages
        for one in package.get("vulns", ())
    ]
    if found:
        return "\n".join(found), False
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if not skipped:
        return f"nothing is known against the {len(packages)} packages", True
    if len(skipped) == len(packages):
        return f"nothing audited: the index knows nothing of the {len(packages)} packages", True
    return f"nothing is known; not audited: {', '.join(skipped)}", True


def main() -> int:
    """Audit both lock files; 1 if there is a vulnerability."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--format=json"]
    command += ["--disable-pip", "--require-hashes", *(f"--requirement={lock}" for lock in LOCKS)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        line, is_clean = judge(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        line, is_clean = judge("", f"no answer within {_SECONDS:.0f} s")
    sys.stdout.write(f"pip-audit: {line}\n")
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
