"""VirusTotal and notifications as parts of the exporter process.

What is off is not even imported: TLS alone takes 4 MB.
"""

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from picosnitch_exporter.model import (
    UNJUDGED,
    KnownExecutable,
    KnownVerdict,
    Persisted,
    Verdict,
    VirusTotalResult,
)
from picosnitch_exporter.settings import NotificationSettings, Settings
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store

if TYPE_CHECKING:
    from picosnitch_exporter.checks.held_files import HeldFiles
    from picosnitch_exporter.checks.inquirer import Inquirer, SharedVerdicts
    from picosnitch_exporter.checks.notifier import Channel, Notifier
    from picosnitch_exporter.checks.webhook import Webhook

SCAN_SECONDS: Final = 60.0
"""Between two looks at all executables with series for what has to be asked (again)."""


def unjudged(settings: Settings) -> VirusTotalResult:
    """What stands for a verdict as long as there is none."""
    return VirusTotalResult(verdict=Verdict.PENDING) if settings.virustotal.api_key else UNJUDGED


class Checks:
    """Asks about what is new, and tells of it. One thread, but for `discovered`.

    `failed` is called by any thread that can't go on. `desktop` is where messages for the desktop
    go, None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        health: Health,
        failed: Callable[[BaseException], None],
        desktop: socket.socket | None,
    ) -> None:
        self._store = store
        self._health = health
        self._failed = failed
        self._inquirer = self._make_inquirer(settings) if settings.virustotal.api_key else None
        self._webhook: Webhook | None = None
        self._channels = self._make_channels(settings.notifications, desktop)
        self._notifier: Notifier | None = None
        self._verdicts: list[KnownVerdict] = []
        self._next_scan = 0.0

    @property
    def are_on(self) -> bool:
        """Whether there is anything to ask or to tell."""
        return self._inquirer is not None or self._notifier is not None

    @property
    def keeper(self) -> "HeldFiles | None":
        """Who keeps descriptors of what may have to be uploaded."""
        return self._inquirer.held if self._inquirer is not None else None

    def start(self, persisted: Persisted) -> None:
        """Takes over what the run before knew, before the store does, and begins."""
        if self._inquirer is not None:
            self._store.restore_verdicts(persisted.verdicts)
            self._inquirer.restore(persisted.verdicts)
            self._inquirer.start()
        if self._channels:
            from picosnitch_exporter.checks.notifier import Notifier

            self._notifier = Notifier(
                self._channels,
                known=persisted.executables,
                health=self._health,
                now=time.monotonic(),
            )
        if self._webhook is not None:
            self._webhook.start()

    def discovered(self, executables: tuple[KnownExecutable, ...]) -> None:
        """Takes executables that were never seen before; any thread may call it."""
        if self._inquirer is not None:
            for known in executables:
                self._inquirer.ask(known.executable.sha256, known.executable.exe)
        if self._notifier is not None:
            self._notifier.discovered(executables)

    def tick(self) -> None:
        """Takes in answers, asks and tells; to be called each second while they are on."""
        now = time.monotonic()
        if self._inquirer is not None:
            self._take_answers(self._inquirer, now)
            if now >= self._next_scan:
                self._next_scan = now + SCAN_SECONDS
                self._scan(self._inquirer)
        if self._notifier is not None:
            self._notifier.tick(self._health.collect, now=now, time_seconds=time.time())

    def take_verdicts(self) -> tuple[KnownVerdict, ...]:
        """The verdicts since the last call, for the next commit."""
        verdicts, self._verdicts = tuple(self._verdicts), []
        return verdicts

    def close(self) -> None:
        """Ends the threads."""
        if self._inquirer is not None:
            self._inquirer.close()
        if self._webhook is not None:
            self._webhook.close()

    def _take_answers(self, inquirer: "Inquirer", now: float) -> None:
        for known in inquirer.take_answers():
            self._store.judge(known.sha256, known.result)
            self._verdicts.append(known)
            if self._notifier is not None:
                self._notifier.judged(known, now=now)

    def _scan(self, inquirer: "Inquirer") -> None:
        for fact in self._store.snapshot(time.time()).executables:
            if not inquirer.ask(fact.executable.sha256, fact.executable.exe):
                return

    def _make_inquirer(self, settings: Settings) -> "Inquirer":
        from picosnitch_exporter.checks.client import Client
        from picosnitch_exporter.checks.inquirer import Inquirer
        from picosnitch_exporter.checks.pace import Pace
        from picosnitch_exporter.checks.virustotal import VirusTotal

        wanted = settings.virustotal
        client = Client(proxy_url=wanted.proxy_url)
        return Inquirer(
            VirusTotal(client, base_url=wanted.base_url, api_key=wanted.api_key),
            pace=Pace(
                settings.storage.path / "virustotal.next",
                limit_seconds=wanted.request_limit_seconds,
            ),
            recheck_days=wanted.recheck_days,
            uploads=wanted.file_upload,
            health=self._health,
            failed=self._failed,
            abort=client.abort,
            shared=self._shared_verdicts(settings),
        )

    def _shared_verdicts(self, settings: Settings) -> "SharedVerdicts | None":
        if settings.log.server is None:
            return None
        from picosnitch_exporter.log.shared import ServerVerdicts

        return ServerVerdicts(settings.log.server)

    def _make_channels(
        self, wanted: NotificationSettings, desktop: socket.socket | None
    ) -> "list[Channel]":
        channels: list[Channel] = []
        if desktop is not None:
            from picosnitch_exporter.checks.notifier import DesktopChannel

            channels.append(DesktopChannel(desktop, health=self._health))
        if wanted.webhook_url:
            from picosnitch_exporter.checks.client import Client
            from picosnitch_exporter.checks.webhook import Webhook

            self._webhook = Webhook(
                wanted.webhook_url, client=Client(), health=self._health, failed=self._failed
            )
            channels.append(self._webhook)
        if wanted.syslog:
            from picosnitch_exporter.checks.syslog import Syslog

            channels.append(Syslog(health=self._health))
        return channels
