"""What counting costs: the same loops with and without the exporter, in turns, as ratios.

::

    sudo .venv/bin/python -m bench.overhead [ROUNDS]

Prints Markdown. The machine may be noisy: each round runs a loop without and then with, and what is
shown is the median of the rounds' ratios. The BPF programs' own time comes from the kernel's run
statistics in the same run as that of empty programs on the same hooks.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.running import Running
from picosnitch_exporter.sensor.bpf import BpfObject
from picosnitch_exporter.sensor.libbpf import Library, program_statistics

ROOT = Path(__file__).parent.parent
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
LOOPS = {
    "64 byte UDP, connected": ("udp", "150000"),
    "64 byte UDP, by address": ("udp-peer", "150000"),
    "64 byte TCP ping-pong": ("tcp", "40000"),
    "bulk TCP": ("bulk", "3000"),
    "TCP connect and close": ("connect", "20000"),
    "fork and exec of /bin/true": ("exec", "2000"),
}
BPFTRACE = {
    "bpftrace, sum on the same tracepoints": (
        "tracepoint:sock:sock_send_length,tracepoint:sock:sock_recv_length "
        "{ @[pid, comm] = sum(args->ret); }"
    ),
    "bpftrace, sum on the system calls": (
        "tracepoint:syscalls:sys_exit_sendto,tracepoint:syscalls:sys_exit_recvfrom "
        "{ @[pid, comm] = sum(args->ret); }"
    ),
}
TARGET_LOOPS = ("64 byte UDP, connected", "64 byte TCP ping-pong")


def build(folder: Path) -> Path:
    """Compile the loops and the empty programs."""
    programs = ROOT / "bench/programs"
    subprocess.run(
        ["cc", "-O2", "-pthread", "-o", folder / "loops", programs / "loops.c"], check=True
    )
    flags = ("-g", "-O2", "-mcpu=v3", "-target", "bpf", f"-I{ROOT / 'ebpf'}")
    architecture = "x86" if os.uname().machine == "x86_64" else "arm64"
    command = ["clang", *flags, f"-D__TARGET_ARCH_{architecture}", "-idirafter", _include(), "-c"]
    command += [str(programs / "empty.bpf.c"), "-o", str(folder / "empty.bpf.o")]
    subprocess.run(command, check=True)
    return folder / "loops"


def _include() -> str:
    return f"/usr/include/{os.uname().machine}-linux-gnu"


def run(loops: Path, arguments: Sequence[str]) -> float:
    """Nanoseconds per round of a loop."""
    result = subprocess.run([loops, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout)


@contextmanager
def statistics_on() -> Iterator[None]:
    """Have the kernel time BPF programs, which costs some 40 ns a run."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def ratios(loops: Path, rounds: int) -> dict[str, list[float]]:
    """Time with the exporter over time without, of each loop and round."""
    found: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(rounds):
        without = {name: run(loops, arguments) for name, arguments in LOOPS.items()}
        with Running.start():
            for name, arguments in LOOPS.items():
                found[name].append(run(loops, arguments) / without[name])
    return found


def bpftrace_ratios(loops: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """The same for what one would otherwise use, where it is installed."""
    if shutil.which("bpftrace") is None:
        return {}
    found: dict[str, dict[str, list[float]]] = {}
    for what, script in BPFTRACE.items():
        found[what] = {name: [] for name in TARGET_LOOPS}
        for _ in range(rounds):
            without = {name: run(loops, LOOPS[name]) for name in TARGET_LOOPS}
            with subprocess.Popen(
                ["bpftrace", "-e", f'BEGIN {{ printf("on\\n"); }} {script}'],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as tracing:
                assert tracing.stdout is not None
                while "on" not in tracing.stdout.readline():
                    pass
                for name in TARGET_LOOPS:
                    found[what][name].append(run(loops, LOOPS[name]) / without[name])
                tracing.terminate()
    return found


def program_costs(loops: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Nanoseconds per run of each program, by loop, those of the empty ones among them."""
    library = Library()
    image = (folder / "empty.bpf.o").read_bytes()
    costs: dict[str, dict[str, float]] = {}
    empty = BpfObject(library, image, folder / "empty.bpf.o")
    with Running.start() as exporter, statistics_on(), empty as bpf:
        bpf.load()
        names = ("empty_send", "empty_receive")
        links = [bpf.attach(name) for name in names]
        programs = {name: bpf.program_descriptor(name) for name in names}
        programs |= exporter.programs(library)
        for loop, arguments in LOOPS.items():
            before = {name: program_statistics(library, fd) for name, fd in programs.items()}
            run(loops, arguments)
            costs[loop] = {}
            for name, fd in programs.items():
                runs, run_time_ns = program_statistics(library, fd)
                runs -= before[name][0]
                if runs >= int(arguments[1]) // 2:
                    costs[loop][name] = (run_time_ns - before[name][1]) / runs
        for link in links:
            link.close()
    return costs


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-bench-"))
    try:
        loops = build(folder)
        print(f"| loop, with the exporter over without, {rounds} rounds | median | min | max |")
        print("|---|---|---|---|")
        for name, values in ratios(loops, rounds).items():
            print(
                f"| {name} | {statistics.median(values):.2f} "
                f"| {min(values):.2f} | {max(values):.2f} |"
            )
        for what, by_loop in bpftrace_ratios(loops, rounds).items():
            for name, values in by_loop.items():
                print(
                    f"| {name}, {what} | {statistics.median(values):.2f} "
                    f"| {min(values):.2f} | {max(values):.2f} |"
                )
        print("\n| program, ns per run | loop | ns | above an empty program |\n|---|---|---|---|")
        costs = program_costs(loops, folder)
        empty = min(
            cost
            for by_program in costs.values()
            for name, cost in by_program.items()
            if name.startswith("empty_")
        )
        for loop, by_program in costs.items():
            for name, cost in by_program.items():
                print(f"| {name} | {loop} | {cost:.0f} | {cost - empty:.0f} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
