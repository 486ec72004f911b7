"""What each feature takes where it is on, or used for the first time: its imports' time and memory.

::

    .venv/bin/python -m bench.features [ROUNDS]

Each is a process of its own that has imported what the exporter process always needs, imports the
feature, and says what that has added to its own memory. The first line is the exporter process
without any.
"""

import subprocess
import sys

from bench import rounds

BASE = "picosnitch_exporter.daemon, picosnitch_exporter.stream, picosnitch_exporter.service.process"
FEATURES = {
    "the exporter process itself": "sys",
    "the first scrape": "picosnitch_exporter.outputs.self_metrics",
    "the first answer of a name server": "picosnitch_exporter.log.dns_names",
    "the page at /": "picosnitch_exporter.outputs.landing",
    "web.config_file, without TLS": "picosnitch_exporter.outputs.web_config, bcrypt",
    "TLS, of HTTP or towards others": "ssl",
    "OTLP by HTTP": "picosnitch_exporter.outputs.otlp.http_transport, "
    "picosnitch_exporter.outputs.otlp.output",
    "OTLP by gRPC": "picosnitch_exporter.outputs.otlp.grpc_transport, "
    "picosnitch_exporter.outputs.otlp.output",
    "VirusTotal": "picosnitch_exporter.checks.inquirer",
    "notifications on the desktop": "picosnitch_exporter.checks.notifier",
    "notifications by webhook": "picosnitch_exporter.checks.notifier, "
    "picosnitch_exporter.checks.webhook",
    "notifications by syslog": "picosnitch_exporter.checks.notifier, "
    "picosnitch_exporter.checks.syslog",
    "Kubernetes": "picosnitch_exporter.identity.kubernetes",
    "log on PostgreSQL": "picosnitch_exporter.log.postgresql, psycopg",
    "log on MariaDB or MySQL": "picosnitch_exporter.log.mysql, pymysql",
    "log as text": "csv",
}
DEFAULT_ROUNDS = 5
SCRIPT = """
import sys, time
def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))
began = time.perf_counter()
{before}
memory = anonymous() if {is_feature} else 0
began = time.perf_counter() if {is_feature} else began
import {modules}
print(time.perf_counter() - began, (anonymous() - memory) * 1024 / 1e6)
"""


def measure(modules: str, *, is_feature: bool) -> tuple[float, float] | str:
    """Milliseconds and MB, or why it can't be imported here."""
    script = SCRIPT.format(before=f"import {BASE}", is_feature=is_feature, modules=modules)
    result = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    if result.returncode:
        return result.stderr.strip().splitlines()[-1]
    seconds, megabytes = map(float, result.stdout.split())
    return 1000 * seconds, megabytes


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_ROUNDS
    found = rounds.Found()
    for _ in range(number):
        for feature, modules in FEATURES.items():
            values = measure(modules, is_feature=modules != "sys")
            if isinstance(values, str):
                found.missing[feature] = values
                continue
            by_name = found.values.setdefault(feature, {"ms": [], "MB": []})
            by_name["ms"].append(values[0])
            by_name["MB"].append(values[1])
    rounds.head("imports of", "ms", "MB")
    for feature in found.values:
        milliseconds, megabytes = found.median(feature, "ms"), found.median(feature, "MB")
        rounds.row(feature, f"{milliseconds:.0f}", f"{megabytes:.1f}")
    rounds.missing(found)


if __name__ == "__main__":
    main()
