"""Prometheus and Alertmanager from the operating system's packages, and a webhook that records.

Both run as an unprivileged user in a temporary folder and see each other on free ports.
"""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import yaml

from tests.kernel.exporter import free_port, poll

START_SECONDS: Final = 60.0
_USER: Final = "nobody"

Json = dict[str, Any]
Sample = tuple[float, float]
"""Unix time and value."""


class ServerError(AssertionError):
    """It did not start, or refused a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A running Prometheus."""

    port: int
    targets: Path
    """The file of its targets: may be written again at any time."""
    output: Path

    def query(self, expr: str) -> list[Json]:
        """Labels (`metric`) and `value` now."""
        return self._results("/api/v1/query", {"query": expr})

    def query_range(self, expr: str, *, seconds: int, step: int) -> list[Json]:
        """Labels and `values` up to now."""
        now = time.time()
        window = {"start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": str(step)}
        return self._results("/api/v1/query_range", {"query": expr, **window})

    def value(self, expr: str) -> float:
        """The sum of what an expression returns."""
        return sum(float(result["value"][1]) for result in self.query(expr))

    def alerts(self, *, state: str = "firing") -> list[Json]:
        """Labels, annotations and `activeAt` of the alerts in this state."""
        alerts: list[Json] = self._get("/api/v1/alerts")["alerts"]
        return [alert for alert in alerts if alert["state"] == state]

    def rules(self) -> list[Json]:
        """Every rule, with its health and last error."""
        groups = self._get("/api/v1/rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def scrape_problems(self) -> list[str]:
        """What the targets' last scrapes failed with."""
        targets = self._get("/api/v1/targets")["activeTargets"]
        return [target["lastError"] for target in targets if target["health"] != "up"]

    def point_at(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Scrape these from now on: addresses by the name of the instance."""
        groups = [
            {"targets": list(found), "labels": {"instance": instance}}
            for instance, found in addresses.items()
        ]
        partial = self.targets.with_suffix(".new")
        partial.write_text(json.dumps(groups))
        partial.replace(self.targets)

    def _results(self, path: str, parameters: Mapping[str, str]) -> list[Json]:
        data = self._get(f"{path}?{urllib.parse.urlencode(parameters)}")
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        results: list[Json] = data["result"]
        return results

    def _get(self, path: str) -> Json:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as got:
                data: Json = json.load(got)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(f"{path}: {error.read().decode()}") from error
        return data


@contextmanager
def prometheus(
    *, config: Json, rules: Sequence[Path], history: Mapping[str, Sequence[Sample]]
) -> Iterator[Prometheus]:
    """One with this configuration, which scrapes nothing yet, and these series in its past.

    `history` has samples by the series as the text format writes it. The configuration's only
    scrape job is given targets from a file.
    """
    with _folder() as folder:
        for path in rules:
            shutil.copy(path, folder)
        targets = folder / "targets.json"
        targets.write_text("[]")
        config = json.loads(json.dumps(config))
        job = config["scrape_configs"][0]
        job.pop("static_configs", None)
        job["file_sd_configs"] = [{"files": [str(targets)], "refresh_interval": "1s"}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        if history:
            _write_history(folder, history)
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with _running(command, folder, port=port) as output:
            yield Prometheus(port=port, targets=targets, output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager:
    """A running Alertmanager."""

    port: int


@contextmanager
def alertmanager(*, config: Json) -> Iterator[Alertmanager]:
    """One with this configuration, and no peers."""
    with _folder() as folder:
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        command = [
            "prometheus-alertmanager",
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        with _running(command, folder, port=port):
            yield Alertmanager(port=port)


@dataclass
class Webhook:
    """Takes what Alertmanager sends, and keeps each alert with the time at which it came."""

    port: int = 0
    received: list[tuple[float, Json]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def alerts(self, *, name: str, sha256: str = "") -> list[tuple[float, Json]]:
        """Those with this name, of this hash if one is given, in the order of their coming."""
        with self._lock:
            return [
                (seconds, alert)
                for seconds, alert in self.received
                if alert["labels"]["alertname"] == name
                and sha256 in ("", alert["labels"].get("sha256"))
            ]

    def take(self, body: bytes) -> None:
        """Notes one notification."""
        alerts = json.loads(body)["alerts"]
        with self._lock:
            self.received += [(time.time(), alert) for alert in alerts]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver on a free port."""
    receiver = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _write_history(folder: Path, history: Mapping[str, Sequence[Sample]]) -> None:
    lines = [
        f"{series} {value:g} {seconds:.3f}"
        for series, samples in history.items()
        for seconds, value in samples
    ]
    text = folder / "history"
    text.write_text("\n".join(lines) + "\n# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text)]
    subprocess.run(
        [*command, str(folder / "data")],
        check=True,
        capture_output=True,
        user=_USER,
        extra_groups=[],
    )


@contextmanager
def _running(command: list[str], folder: Path, *, port: int) -> Iterator[Path]:
    output = folder / "output"
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            user=_USER if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise ServerError(f"{command[0]} ended:\n{output.read_text()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        if not poll(is_ready, seconds=START_SECONDS):
            raise ServerError(f"{command[0]} is not ready:\n{output.read_text()}")
        yield output
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="picosnitch-monitoring-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def await_true(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Fails with `what` unless the condition holds in time."""
    if not poll(condition, seconds=seconds):
        raise ServerError(f"not within {seconds:.0f} s: {what}")
