"""Headless Chromium from the operating system's packages, through chromedriver's plain HTTP.

    with browser() as chromium:
        chromium.open("http://127.0.0.1:10054/")
        assert "ready" in chromium.text()

No page may run scripts in it: what it shows is what there is without JavaScript.
Sources: https://www.w3.org/TR/webdriver2/, https://chromedevtools.github.io/devtools-protocol/
"""

import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SWITCHES: Final = (
    "--headless",
    "--no-sandbox",  # refused to root otherwise
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_BLOCK: Final = 2
"""A content setting of Chromium: 1 allows, 2 blocks."""
_SECONDS: Final = 60.0
_STARTED: Final = re.compile(rb"started successfully on port (\d+)")
# Keys of the specification's table, https://www.w3.org/TR/webdriver2/#keyboard-actions.
TAB: Final = "\ue004"

Json = Any


class BrowserError(AssertionError):
    """The browser did not start, or refused a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What an assistive technology is told of one element."""

    role: str
    name: str
    level: int
    """Of a heading; 0 for all else."""
    is_focused: bool


class Browser:
    """One session with one window."""

    def __init__(self, driver: str, session: str) -> None:
        self._driver = driver
        self._session = session

    def open(self, url: str) -> None:
        """Go there and wait until it is loaded."""
        self._ask("url", {"url": url})

    def text(self) -> str:
        """The text that is rendered."""
        return str(self._ask(f"element/{self._found('css selector', 'body')}/text"))

    def follow(self, link: str) -> None:
        """Click on the link with this text."""
        self._ask(f"element/{self._found('link text', link)}/click", {})

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask("actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def complaints(self) -> list[str]:
        """What has come to the console since the last call, as of a refused script or file."""
        return [str(entry["message"]) for entry in self._ask("se/log", {"type": "browser"})]

    def resize(self, width: int, height: int) -> None:
        """Show pages in a window of this size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the window."""
        metrics = self._devtools("Page.getLayoutMetrics", {})
        return int(metrics["cssContentSize"]["width"]) - int(
            metrics["cssLayoutViewport"]["clientWidth"]
        )

    def nodes(self) -> list[Node]:
        """The accessibility tree, in the order in which it is read."""
        found = {
            one["nodeId"]: one for one in self._devtools("Accessibility.getFullAXTree", {})["nodes"]
        }
        read = []
        waiting = [next(number for number, one in found.items() if "parentId" not in one)]
        while waiting:
            one = found[waiting.pop()]
            waiting += [number for number in reversed(one["childIds"]) if number in found]
            if one["ignored"]:
                continue
            has = {each["name"]: each["value"].get("value") for each in one.get("properties", ())}
            read.append(
                Node(
                    role=one["role"]["value"],
                    name=one.get("name", {}).get("value", ""),
                    level=has.get("level", 0) if one["role"]["value"] == "heading" else 0,
                    is_focused=bool(has.get("focused")),
                )
            )
        return read

    def _found(self, using: str, value: str) -> str:
        (number,) = self._ask("element", {"using": using, "value": value}).values()
        return str(number)

    def _devtools(self, command: str, parameters: Json) -> Json:
        return self._ask("goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, path: str, body: Json = None) -> Json:
        return _ask(self._driver, f"session/{self._session}/{path}", body)


@contextmanager
def browser() -> Iterator[Browser]:
    """One that knows nothing yet, and is gone afterwards with all that it has stored."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        raise BrowserError("no chromium or no chromedriver: run make test, which installs them")
    profile = Path(tempfile.mkdtemp(prefix="picosnitch-browser-"))
    driver = subprocess.Popen(
        [chromedriver, "--port=0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=profile,
    )
    try:
        address = f"http://127.0.0.1:{_port(driver)}"
        options = {
            "binary": chromium,
            "args": [*_SWITCHES, f"--user-data-dir={profile}"],
            "prefs": {"profile.managed_default_content_settings.javascript": _BLOCK},
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = _ask(address, "session", {"capabilities": {"alwaysMatch": wanted}})
        try:
            yield Browser(address, made["sessionId"])
        finally:
            _ask(address, f"session/{made['sessionId']}", method="DELETE")
    finally:
        driver.terminate()
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()
        shutil.rmtree(profile, ignore_errors=True)


def _port(driver: "subprocess.Popen[bytes]") -> int:
    said = b""
    if driver.stdout is not None:
        for line in driver.stdout:
            match = _STARTED.search(line)
            if match is not None:
                return int(match[1])
            said += line
    raise BrowserError(f"chromedriver did not start:\n{said.decode(errors='replace')}")


def _ask(driver: str, path: str, body: Json = None, *, method: str | None = None) -> Json:
    request = urllib.request.Request(  # noqa: S310 - of the driver that was started here
        f"{driver}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - as above
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise BrowserError(f"{path}: {json.load(error)['value']['message']}") from error
