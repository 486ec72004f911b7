"""What the guests' tests came to, and docs/kernel-results.md, which says it."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path("docs/kernel-results.md")
_HEAD = """\
# Kernels that the tests ran on

Written by `make test-vm`, which boots these kernels of Debian 12 under QEMU and runs tests of
`tests/kernel` in them, with each plan that the kernel can have ([kernels.md](kernels.md)).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one guest. Where it has left no report, `missing` says what is known."""

    kernel: str
    plan: str
    release: str = ""
    passed: int = 0
    failures: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    """Tests and reasons."""
    idle: tuple[str, ...] = ()
    """Files of which no test has passed."""
    missing: str = ""

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.failures or self.idle) and self.passed > 0

    @property
    def row(self) -> tuple[str, ...]:
        """As the table shows it."""
        if self.missing:
            return (self.release or self.kernel, self.plan, "no result", "", "")
        counts = (self.passed, len(self.failures), len(self.skipped))
        return (self.release, self.plan, *map(str, counts))


def read_result(job: Path, *, kernel: str, plan: str) -> Result:
    """Of what a guest has left: neither its end nor QEMU's says that a test has run."""
    status, release = job / "status", job / "release"
    if not status.exists():
        return Result(kernel=kernel, plan=plan, missing="it has left no exit code")
    named = release.read_text().strip() if release.exists() else ""
    try:
        cases = list(ET.parse(job / "report.xml").iter("testcase"))  # noqa: S314 - pytest's
    except (OSError, ET.ParseError) as error:
        missing = f"exit code {status.read_text().strip()}, and no report: {error}"
        return Result(kernel=kernel, plan=plan, release=named, missing=missing)
    passed: Counter[str] = Counter()
    failures: list[str] = []
    skipped: list[tuple[str, str]] = []
    for case in cases:
        file = Path(case.get("file") or "").name
        passed.setdefault(file, 0)
        test = f"{file}::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failures.append(test)
        elif reason is not None:
            skipped.append((test, reason.get("message") or ""))
        else:
            passed[file] += 1
    missing = ""
    code = status.read_text().strip()
    if code != "0" and not failures:
        missing = f"pytest ended with exit code {code}"
    return Result(
        kernel=kernel,
        plan=plan,
        release=named,
        passed=passed.total(),
        failures=tuple(failures),
        skipped=tuple(skipped),
        idle=tuple(file for file, count in passed.items() if not count),
        missing=missing,
    )


def page(results: Sequence[Result]) -> str:
    """The text of docs/kernel-results.md."""
    lines = [_HEAD, *_table(("kernel", "plan", "passed", "failed", "skipped"), _rows(results))]
    failed = [
        (result.release, result.plan, f"`{test}`")
        for result in results
        for test in sorted(set(result.failures))
    ]
    if failed:
        lines += ["", "## Failed", "", *_table(("kernel", "plan", "test"), failed)]
    lacking = Counter(
        (result.release, result.plan, _reason(message))
        for result in results
        for _test, message in result.skipped
    )
    if lacking:
        rows = [(*key[:2], str(count), key[2]) for key, count in lacking.items()]
        lines += ["", "## Skipped", "", *_table(("kernel", "plan", "tests", "why"), rows)]
    return "\n".join(lines) + "\n"


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    return [result.row for result in results]


def _reason(message: str) -> str:
    return re.sub(r"\s+", " ", message).replace("|", "\\|").removeprefix("this kernel: ")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
