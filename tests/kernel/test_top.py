"""`top` in a real terminal (tmux), over a real exporter: by keys and screens."""

import os
import re
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from tests.kernel.exporter import COMMAND, Exporter, poll

SECONDS = 20.0
GROUP = "games"


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, *command: str, width: int = 110, height: int = 14) -> None:
        self._name = f"picosnitch-{secrets.token_hex(4)}"
        # What ends stays on the screen.
        shell = f"{' '.join(command)}; echo ended with $?; exec sleep 600"
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), shell)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, with_looks: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if with_looks else []))

    def expect(self, *texts: str, without: str | None = None) -> str:
        latest = [""]

        def shows() -> bool:
            latest[0] = self.screen()
            return all(text in latest[0] for text in texts) and (
                without is None or without not in latest[0]
            )

        assert poll(shows, seconds=SECONDS), f"no {texts} on this screen:\n{latest[0]}"
        return latest[0]

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        result = subprocess.run(
            ["tmux", "-L", self._name, "-f", "/dev/null", *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )
        return result.stdout


@pytest.fixture(scope="module")
def watched(privileges: None) -> Iterator[Exporter]:  # noqa: ARG001 - before it is started
    settings: dict[str, dict[str, object]] = {
        "storage": {"group": GROUP},
        "log": {"write_limit_seconds": 60},
    }
    with Exporter.start(settings) as running:
        running.await_scrape(lambda _scrape: True, "anything")
        yield running


def opened(exporter: Exporter, *arguments: str, width: int = 110) -> Terminal:
    return Terminal(*COMMAND, "top", f"--storage.path={exporter.storage}", *arguments, width=width)


def test_executable_and_its_connections_are_shown(watched: Exporter) -> None:
    terminal = opened(watched)
    try:
        terminal.expect("EXECUTABLE", "OUT/s", "VERDICT")
        terminal.press("/")
        terminal.press("python")
        terminal.expect("filter: python_", "bin/python", "K")
        terminal.press("Enter", "Enter")
        # This test's own scrapes, which the exporter itself answers.
        port = watched.address.rpartition(":")[2]
        watched.scrape()
        terminal.expect("PEER", "PROTO", f"127.0.0.1:{port}", "tcp", "Esc back")
        terminal.press("Escape")
        terminal.expect("EXECUTABLE", without="PEER")
        terminal.press("q")
        terminal.expect("ended with 0")
    finally:
        terminal.close()


def test_screen_follows_the_size_of_the_terminal(watched: Exporter) -> None:
    terminal = opened(watched)
    try:
        terminal.expect("EXECUTABLE", "VERDICT", "h help")
        terminal.resize(44, 8)
        terminal.expect("EXECUTABLE", "OUT/s", without="VERDICT")
        terminal.resize(10, 2)
        terminal.expect("picosnitc")
        terminal.resize(150, 20)
        terminal.expect("VERDICT", "SHA-256")
    finally:
        terminal.close()


def test_pause_holds_the_screen_and_help_explains(watched: Exporter) -> None:
    terminal = opened(watched, "--interval=0.2")
    try:
        terminal.expect("EXECUTABLE")
        terminal.press("p")
        terminal.expect("PAUSED")
        terminal.press("h")
        terminal.expect("turn the order round")
        terminal.press("x", ">")
        terminal.expect("EXECUTABLE*", "PAUSED")
        terminal.press("C-c")
        terminal.expect("ended with 0")
    finally:
        terminal.close()


@pytest.mark.parametrize("flag", ["", "--no-color"])
def test_colours_are_used_unless_refused(watched: Exporter, flag: str) -> None:
    terminal = opened(watched, *flag.split())
    try:

        def has_rates() -> bool:
            # A rate takes two answers: what moves between them has to go on.
            watched.scrape()
            return bool(re.search(r"bin/python\S*([ ]+\d[\d.]*[KMG]){4}", terminal.screen()))

        assert poll(has_rates, seconds=SECONDS)
        assert ("\x1b[32m" in terminal.screen(with_looks=True)) == (not flag)
    finally:
        terminal.close()


def test_only_root_and_the_group_may_look(watched: Exporter) -> None:
    command = [*COMMAND, "top", "--once", f"--storage.path={watched.storage}"]
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup"]

    refused = subprocess.run(
        [*as_nobody, "--clear-groups", *command], check=False, capture_output=True, text=True
    )
    member = subprocess.run(
        [*as_nobody, f"--groups={GROUP}", *command], check=False, capture_output=True, text=True
    )

    assert refused.returncode == 1
    assert "only root and the members of storage.group may look" in refused.stderr
    assert (member.returncode, member.stderr) == (0, "")
    assert member.stdout.startswith("EXECUTABLE")
    assert watched.storage.stat().st_mode & 0o777 == 0o710


def test_end_of_the_exporter_is_said(privileges: None) -> None:  # noqa: ARG001
    with Exporter.start() as exporter:
        terminal = opened(exporter)
        try:
            terminal.expect("EXECUTABLE")
            exporter.stop()
            terminal.expect("has stopped: start it", "ended with 1")
        finally:
            terminal.close()
