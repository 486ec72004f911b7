"""Guests: other kernels under QEMU, in which the kernel tests run with a plan of their own."""

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Python runs ten times slower there, waiting for a condition less so.
SLOWNESS = 5
# These end what hangs only.
SECONDS = 1800
TEST_SECONDS = 600

# What every plan has to do. These start few exporters: with the plan bcc each compiles for minutes.
TESTS = (
    "test_traffic_matrix.py",
    "test_connections.py",
    "test_identity.py",
    "test_btrfs.py",
    "test_domains.py",
)
MORE_TESTS = (
    "test_generator.py",
    "test_handover.py",
    "test_unseen.py",
    "test_before.py",
)
# Where both plans of the built object can be had.
BETWEEN_PLANS = ("test_upgrade.py::test_sums_are_exact_when_another_plan_takes_over",)
LEFT_OUT = (
    # There is no compiler.
    "test_generator.py::test_compiler_errors_are_shown",
    # Emulated, 4 GiB take minutes.
    "test_identity.py::test_hashing_delays_nobody_else_when_a_file_is_huge",
)


def make_image(architecture: str) -> bool:
    """Build what guests boot from, unless it is there; what fails has said why."""
    command = [str(HERE / "image"), architecture]
    return not subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A kernel and a plan."""

    kernel: str
    plan: str

    def __str__(self) -> str:
        return f"{self.kernel} {self.plan}"

    @property
    def architecture(self) -> str:
        """Debian's name of it."""
        return "arm64" if self.kernel.endswith("-arm64") else "amd64"

    @property
    def compiler(self) -> str:
        """For the programs that run there."""
        return {"amd64": "cc", "arm64": "aarch64-linux-gnu-gcc"}[self.architecture]

    @property
    def tests(self) -> tuple[str, ...]:
        """What runs there."""
        if self.plan == "bcc":
            return TESTS
        both = self.kernel.startswith("6.12") and self.plan == "fexit"
        return TESTS + MORE_TESTS + (BETWEEN_PLANS if both else ())

    def run(self, job: Path, tests: Iterable[str]) -> float:
        """Boot it and run these tests, which leave their report in the folder; how long it took."""
        started = time.monotonic()
        left_out = [f"--deselect=tests/kernel/{test}" for test in LEFT_OUT]
        pytest = (
            *("python3", "-m", "pytest", "-p", "no:cacheprovider", "-o", f"timeout={TEST_SECONDS}"),
            *("-o", "junit_family=xunit1", "--junitxml=/job/report.xml", "--durations=10"),
        )
        done = subprocess.run(
            [
                *(HERE / "guest", self.kernel, "--job", job, "--seconds", str(SECONDS)),
                f"PICOSNITCH_TEST_SLOWNESS={SLOWNESS}",
                f"PICOSNITCH_TEST_PLAN={self.plan}",
                "PICOSNITCH_TEST_TRAFFIC=/job/traffic",
                *("--", "sh", "-c", 'uname -r >/job/release; exec "$@"', "sh"),
                *(*pytest, *left_out, *(f"tests/kernel/{test}" for test in tests)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        (job / "said").write_bytes(done.stderr)
        return time.monotonic() - started


# The longest first: two run at a time.
GUESTS = (
    Guest(kernel="6.1", plan="bcc"),
    Guest(kernel="6.1", plan="fexit"),
    Guest(kernel="6.12", plan="fexit"),
    Guest(kernel="6.12", plan="tracepoint"),
    Guest(kernel="6.12-arm64", plan="tracepoint"),
)
# Where kernel and plan are named: all of them together take longer than one wants to wait.
ON_REQUEST = (Guest(kernel="6.12-arm64", plan="fexit"),)
