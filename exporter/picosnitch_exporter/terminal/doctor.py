"""`picosnitch-exporter doctor`: one line for each requirement, and what mends it."""

import importlib.util
import json
import os
import stat
import sys
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.config import otel
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.outputs import listen
from picosnitch_exporter.sensor import requirements
from picosnitch_exporter.sensor.requirements import Finding, State
from picosnitch_exporter.settings import Settings


def run(settings: Settings, *, as_json: bool) -> int:
    """Prints what was found; 1 if `run` would fail."""
    findings = (*requirements.check(), *_paths(settings))
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": one.name,
                        "state": one.state.value,
                        "found": one.found,
                        "remedy": one.remedy,
                    }
                    for one in findings
                ],
                indent=2,
            )
        )
    else:
        width = max(len(one.name) for one in findings)
        is_terminal = sys.stdout.isatty()
        for one in findings:
            print(_line(one, width, is_coloured=is_terminal))
    return 1 if any(one.state is State.FAILED for one in findings) else 0


def _line(finding: Finding, width: int, *, is_coloured: bool) -> str:
    state = f"{finding.state.value:<7}"
    if is_coloured:
        colour = {State.OK: 32, State.WARNING: 33, State.FAILED: 31}[finding.state]
        state = f"\x1b[{colour}m{state}\x1b[0m"
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    text = f"{finding.found}{remedy}".replace("\n", " | ")
    return f"{state} {finding.name:<{width}}  {text}"


def _paths(settings: Settings) -> tuple[Finding, ...]:
    looks = {
        "account": _account,
        "storage": _storage,
        "web": _web,
        "pins": _pins,
        "otlp": _otlp,
    }
    findings = []
    for name, look in looks.items():
        try:
            findings.append(look(settings))
        except PicosnitchError as error:
            findings.append(Finding(name=name, state=State.FAILED, found=str(error)))
        except OSError as error:
            found = f"{error.filename or name}: {error.strerror}"
            findings.append(Finding(name=name, state=State.FAILED, found=found))
    return tuple(findings)


def _account(settings: Settings) -> Finding:
    account = privileges.find_account(settings.storage.user)
    if settings.storage.user or account.name == privileges.DEFAULT_USER:
        return Finding(name="account", state=State.OK, found=account.name)
    return Finding(
        name="account",
        state=State.WARNING,
        found=f"the exporter process shares the account {account.name} with others",
        remedy=f"useradd --system --no-create-home {privileges.DEFAULT_USER}",
    )


def _storage(settings: Settings) -> Finding:
    path = settings.storage.path
    nearest = _nearest_existing(path)
    status = nearest.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return Finding(
            name="storage",
            state=State.FAILED,
            found=f"{nearest} is not a folder",
            remedy="choose another --storage.path",
        )
    if os.statvfs(nearest).f_flag & os.ST_RDONLY:
        return Finding(
            name="storage",
            state=State.FAILED,
            found=f"{path} is on a read-only filesystem",
            remedy="choose another --storage.path",
        )
    found = str(path) if nearest == path else f"{path} (made at the first start)"
    return Finding(name="storage", state=State.OK, found=found)


def _nearest_existing(path: Path) -> Path:
    for candidate in (path, *path.parents):
        if os.path.lexists(candidate):
            return candidate
    return path


def _web(settings: Settings) -> Finding:
    for sock in listen.bind(settings.web.listen_addresses):
        sock.close()
    addresses = ", ".join(settings.web.listen_addresses)
    return Finding(name="web", state=State.OK, found=f"can listen on {addresses}")


def _pins(settings: Settings) -> Finding:
    pins = settings.bpf.pin_path
    if not pins.exists():
        return Finding(name="pins", state=State.OK, found=f"none at {pins}")
    return Finding(
        name="pins",
        state=State.OK,
        found=f"programs of an earlier or running exporter at {pins} count",
    )


def _otlp(settings: Settings) -> Finding:
    plan = otel.plan(settings.otlp, os.environ)
    targets = () if plan is None else (plan.metrics, plan.logs)
    present = [target for target in targets if target is not None]
    for target in present:
        extra, package = ("otlp-grpc", "grpc") if target.is_grpc else ("otlp", "http")
        if not _is_installed(f"opentelemetry.exporter.otlp.proto.{package}"):
            return Finding(
                name="otlp",
                state=State.FAILED,
                found=f"there is a place to send to, but no opentelemetry exporter for {package}",
                remedy=f"pip install 'picosnitch-exporter[{extra}]'",
            )
    urls = ", ".join(dict.fromkeys(target.url for target in present))
    return Finding(name="otlp", state=State.OK, found=f"goes to {urls}" if urls else "off")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # one of the packages that it would be in is not there
        return False
