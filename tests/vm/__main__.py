"""`tests/vm/run [KERNEL|PLAN|FILE.py...]`: the kernel tests on other kernels, two guests at a time.

Without arguments all run but `6.12-arm64 fexit`, and docs/kernel-results.md is written anew. What a
guest has left stays in build/vm/KERNEL-PLAN/: `output`, `console` (its kernel's messages),
`report.xml`.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kernel.generator import COMPILE, SOURCE
from tests.vm.guests import GUESTS, ON_REQUEST, Guest, make_image
from tests.vm.results import PAGE, Result, page, read_result

FOLDER = Path("build/vm")
AT_ONCE = 2


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 unless every guest has reported, and no test has failed."""
    parser = argparse.ArgumentParser(prog="tests/vm/run", description=__doc__)
    parser.add_argument("selected", nargs="*", metavar="KERNEL|PLAN|FILE.py")
    selected: list[str] = parser.parse_args(arguments).selected
    files = tuple(word for word in selected if word.endswith(".py"))
    kernels = {guest.kernel for guest in GUESTS}.intersection(selected)
    plans = {guest.plan for guest in GUESTS}.intersection(selected)
    unknown = set(selected) - kernels - plans - set(files)
    if unknown:
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    guests = [
        guest
        for guest in GUESTS + (ON_REQUEST if kernels and plans else ())
        if (not kernels or guest.kernel in kernels) and (not plans or guest.plan in plans)
    ]
    if not guests:
        parser.error("no guest has that kernel and that plan")
    if not all(make_image(one) for one in sorted({guest.architecture for guest in guests})):
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda guest: _run(guest, files), guests))
    text = page(results)
    if not selected:
        PAGE.write_text(text)
    print(f"\n{text}")
    return 0 if all(result.is_good for result in results) else 1


def _run(guest: Guest, files: Sequence[str]) -> Result:
    job = FOLDER / str(guest).replace(" ", "-")
    job.mkdir()
    _compile_traffic(guest.compiler, job / "traffic")
    print(f"{guest}: begins", flush=True)
    seconds = guest.run(job, files or guest.tests)
    result = read_result(job, kernel=guest.kernel, plan=guest.plan)
    outcome = (
        f"FAILED: {result.missing}"
        if result.missing
        else f"{result.passed} passed, {len(result.failures)} failed, {len(result.skipped)} skipped"
    )
    print(f"{guest}: {outcome}, in {seconds:.0f} s", flush=True)
    for failure in result.failures:
        print(f"    {failure}", flush=True)
    for file in result.idle:
        print(f"    FAILED: no test of {file} has passed", flush=True)
    if not result.is_good:
        print(f"    {job}/output and {job}/console say more", flush=True)
    return result


def _compile_traffic(compiler: str, output: Path) -> None:
    sources = sorted(SOURCE.glob("*.c"))
    subprocess.run([compiler, *COMPILE[1:], "-static", "-o", output, *sources], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
