"""`python -m tests.fuzz [--seconds N] [TARGET...]`: looks for what a decoder can't take.

Needs atheris, which lets coverage lead it. Each target runs in a process of its own; what it has
learnt stays in build/fuzz/TARGET for the next time, and what breaks it beside that.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("build/fuzz")
MAX_BYTES = 4096
_MEMORY_MEGABYTES = 1024
_SLOW_SECONDS = 10


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    given = parser.parse_args(arguments)
    if given.inside:
        _fuzz(given.targets[0], given.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(TARGETS)}")
    broken = [name for name in given.targets or TARGETS if not _run(name, given.seconds)]
    for name in broken:
        print(f"fuzz: {name} FAILED: see {FOLDER}/{name}-*", file=sys.stderr)
    return 1 if broken else 0


def _run(name: str, seconds: int) -> bool:
    command = [sys.executable, "-m", "tests.fuzz", "--inside", f"--seconds={seconds}", name]
    return subprocess.run(command, check=False).returncode == 0


def _fuzz(name: str, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["picosnitch_exporter", "dns", "yaml"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(target.seeds):
        (corpus / f"seed-{index}").write_bytes(seed)
    words = FOLDER / f"{name}.dictionary"
    written = ("".join(f"\\x{byte:02x}" for byte in word[:64]) for word in target.words)
    # libFuzzer takes no empty one.
    words.write_text("".join(f'"{word}"\n' for word in written) or '"\\x00"\n')
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={_MEMORY_MEGABYTES}",
        f"-timeout={_SLOW_SECONDS}",
        f"-dict={words}",
        f"-artifact_prefix={FOLDER}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
