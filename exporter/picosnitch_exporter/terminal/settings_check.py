"""What `run` needs of the settings: accounts, paths, addresses, files and packages."""

import importlib.util
import os
import stat
from collections.abc import Callable
from pathlib import Path

from picosnitch_exporter import privileges
from picosnitch_exporter.config import otel
from picosnitch_exporter.errors import PicosnitchError
from picosnitch_exporter.log.server import sessions_of
from picosnitch_exporter.outputs import listen
from picosnitch_exporter.outputs.web_config import check_web_config
from picosnitch_exporter.sensor.requirements import Finding, State
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.terminal.live_client import LiveClient

_MAX_MESSAGE_BYTES = 4096


def check(settings: Settings) -> tuple[Finding, ...]:
    """Looks at each of them."""
    looks = {
        "account": _account,
        "storage": _storage,
        "top": _top,
        "web": _web,
        "web_config": _web_config,
        "pins": _pins,
        "otlp": _otlp,
        "log_server": _log_server,
        "desktop": _desktop,
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


def _top(settings: Settings) -> Finding:
    privileges.find_group(settings.storage.group)
    if settings.storage.group is None:
        return Finding(name="top", state=State.OK, found="for root only (storage.group)")
    return Finding(
        name="top", state=State.OK, found=f"for root and the group {settings.storage.group}"
    )


def _web(settings: Settings) -> Finding:
    addresses = ", ".join(settings.web.listen_addresses)
    if _is_running(settings):
        found = f"an exporter runs already, with the storage path {settings.storage.path}"
        return Finding(name="web", state=State.OK, found=found)
    for sock in listen.bind(settings.web.listen_addresses):
        sock.close()
    return Finding(name="web", state=State.OK, found=f"can listen on {addresses}")


def _is_running(settings: Settings) -> bool:
    try:
        LiveClient(settings.storage.path).close()
    except PicosnitchError:
        return False
    return True


def _web_config(settings: Settings) -> Finding:
    file = settings.web.config_file
    if file is None:
        return Finding(name="web_config", state=State.OK, found="none: no TLS, and anybody may ask")
    account = privileges.find_account(settings.storage.user)
    problem = _ask_as(account, lambda: check_web_config(file))
    if problem:
        return Finding(
            name="web_config",
            state=State.FAILED,
            found=problem,
            remedy=f"mend it, so that {account.name} can read all of it",
        )
    return Finding(name="web_config", state=State.OK, found=str(file))


def _ask_as(account: privileges.Account, look: Callable[[], None]) -> str:
    """The message of the error that `look` raises as this account; empty for none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        message = ""
        try:
            if os.geteuid() == 0:
                privileges.drop(account)
            look()
        except BaseException as error:  # noqa: BLE001  (a forked child must not return)
            message = str(error) or type(error).__name__
        finally:
            os.write(writing, message.encode(errors="replace")[:_MAX_MESSAGE_BYTES])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return message


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


def _log_server(settings: Settings) -> Finding:
    server = settings.log.server
    if server is None:
        return Finding(name="log_server", state=State.OK, found="none")
    sessions_of(server)  # nothing is connected: rows wait for a server that is down
    return Finding(
        name="log_server",
        state=State.OK,
        found=f"rows go to {server.client}, table {server.table_name}",
    )


def _desktop(settings: Settings) -> Finding:
    if not settings.notifications.desktop:
        return Finding(name="desktop", state=State.OK, found="no notifications")
    if not _is_installed("jeepney"):
        return Finding(
            name="desktop",
            state=State.WARNING,
            found="no notifications: the package jeepney is missing",
            remedy="pip install 'picosnitch-exporter[desktop]', or set "
            "notifications.desktop: false",
        )
    return Finding(name="desktop", state=State.OK, found="notifications, where there is a session")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # one of the packages that it would be in is not there
        return False
