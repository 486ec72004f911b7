"""The main loop of the exporter process: one thread owns all state.

It journals what it receives before it acknowledges, so that the kernel may forget it; a commit
makes rows, totals and positions durable together, and then the journal may forget as well.
"""

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from picosnitch_exporter import __version__, catalog, memory, privileges
from picosnitch_exporter.errors import PeerGoneError, PicosnitchError
from picosnitch_exporter.identity.hashing import Hasher
from picosnitch_exporter.identity.processes import ProcessTable
from picosnitch_exporter.identity.registry import Registry
from picosnitch_exporter.log.domains import DomainTable
from picosnitch_exporter.log.ignore import IgnoreRules
from picosnitch_exporter.log.journal import Journal
from picosnitch_exporter.log.rows import Hiding, Windows
from picosnitch_exporter.log.sqlite import Database
from picosnitch_exporter.log.writer import LogWriter
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.model import Commit
from picosnitch_exporter.outputs.http import WebServer
from picosnitch_exporter.service import confines, live, telemetry
from picosnitch_exporter.service.checking import Checks, unjudged
from picosnitch_exporter.service.containers import Workloads
from picosnitch_exporter.service.conversation import Conversation
from picosnitch_exporter.service.intake import Intake
from picosnitch_exporter.service.live import LiveServer
from picosnitch_exporter.service.status import ClockWatch, report_own
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.state.attribution import Attributor
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.state.store import Store
from picosnitch_exporter.stream import FROM_SENSOR, Channel

_log = logging.getLogger(__name__)

JOURNAL_FOLDER = "journal"
"""In the storage path."""
_TICK_SECONDS = 0.25
_ANSWER_SECONDS = 0.05
"""Between two ticks that somebody has asked for: `top` may ask again and again."""
_CHECKS_TICK_SECONDS = 1.0
_IDLE_TICK_SECONDS = 5.0
"""While nothing comes and nothing is awaited: to wake is most of what it takes then."""
_STALE_SECONDS = 60.0
_STOP_SECONDS = 2.0
_OTLP_STOP_SECONDS = 1.0
"""The last export has at least so long, beside the last commit."""


def run(
    settings: Settings,
    end: socket.socket,
    listening: tuple[socket.socket, ...],
    desktop: socket.socket | None,
) -> int:
    """The exporter process, until the sensor says stop; the exit code.

    `desktop` is where notifications are sent, None where there is no use for them.

    Raises
    ------
    PicosnitchError
        if it can't start, the sensor is gone, or a part of it has failed.
    """
    readers = privileges.find_group(settings.storage.group)
    top = live.bind(settings.storage.path, readers=readers)  # nothing can be made from the next on
    confined = confines.apply(settings, os.environ)
    exporter = ExporterProcess(settings, end, listening, desktop)
    if top is not None:
        exporter.serve_live(top, readers=readers)
    exporter.note_confined(confined)
    return exporter.run()


class ExporterProcess:
    """All parts of the exporter process, and the thread that drives them."""

    def __init__(
        self,
        settings: Settings,
        end: socket.socket,
        listening: tuple[socket.socket, ...],
        desktop: socket.socket | None,
    ) -> None:
        self._settings = settings
        end.settimeout(0)
        self._failure: BaseException | None = None
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._not_ready: str | None = "starting: no traffic is counted yet"
        self._health = Health()
        self._clocks = ClockWatch()
        storage = settings.storage.path
        self._database = Database(
            storage / "snitch.db",
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
            retention_days=settings.log.sqlite.retention_days,
            keep_rows=settings.log.sqlite.enabled,
            stale_after_seconds=settings.metrics.stale_after_seconds,
        )
        self._journal = Journal(storage / JOURNAL_FOLDER)
        self._store = Store(
            health=self._health,
            max_executables=settings.metrics.max_executables,
            stale_after_seconds=settings.metrics.stale_after_seconds,
            unjudged=unjudged(settings),
        )
        self._checks = Checks(
            settings,
            store=self._store,
            health=self._health,
            failed=self._note_failure,
            desktop=desktop,
        )
        self._hasher = Hasher()
        self._registry = Registry(self._hasher, keeper=self._checks.keeper)
        self._domains = DomainTable(health=self._health, to_unix=self._clocks.to_unix)
        self._windows = Windows(ignore=IgnoreRules(settings.log.ignore), domains=self._domains)
        self._workloads = Workloads(
            settings.kubernetes, os.environ, health=self._health, failed=self._note_failure
        )
        self._attributor = Attributor(
            registry=self._registry,
            processes=ProcessTable(),
            store=self._store,
            rows=self._windows,
            health=self._health,
            clock=time.monotonic_ns,
            to_unix=self._clocks.to_unix,
            workloads=self._workloads.containers,
        )
        self._intake = Intake(
            attributor=self._attributor,
            registry=self._registry,
            domains=self._domains,
            cgroups=self._workloads.cgroups,
            journal=self._journal,
            clocks=self._clocks,
            health=self._health,
        )
        self._conversation = Conversation(
            Channel(end, receives=FROM_SENSOR),
            intake=self._intake,
            health=self._health,
            announce=self._announce,
        )
        self._otlp = telemetry.output(
            settings,
            os.environ,
            snapshot=lambda: self._store.snapshot(time.time()),
            health=self._health,
            failed=self._note_failure,
        )
        self._writer = LogWriter(
            self._database,
            settings=settings.log,
            storage=storage,
            health=self._health,
            committed=self._committed,
            failed=self._note_failure,
            discovered=self._checks.discovered,
            otlp=None if self._otlp is None else self._otlp.courier,
        )
        self._web = WebServer(
            sockets=listening,
            snapshot=lambda: self._store.snapshot(time.time()),
            health=self._health,
            readiness=lambda: self._not_ready,
            settings=settings.web,
            failed=self._note_failure,
            version=__version__,
            with_workload_labels=self._workloads.with_labels,
        )
        self._durable: deque[int] = deque()
        self._next_commit = 0.0
        self._next_stale = 0.0
        self._confined: Mapping[str, bool] = {}
        self._live: LiveServer | None = None

    def note_confined(self, confined: Mapping[str, bool]) -> None:
        """What confines this process, by mechanism, for the metric."""
        self._confined = confined

    def serve_live(self, listener: socket.socket, *, readers: int | None) -> None:
        """Lets `top` ask on this socket, once it runs."""
        self._live = LiveServer(
            listener,
            snapshot=lambda: self._store.snapshot(time.time()),
            readiness=lambda: self._not_ready,
            hiding=Hiding.of(self._settings.log),
            readers=readers,
            health=self._health,
            asked=self._wake,
            failed=self._note_failure,
        )

    def run(self) -> int:
        """Until the sensor says stop; 0, or an exception."""
        self._restore()
        self._writer.start()
        self._workloads.start()
        self._web.start()
        if self._live is not None:
            self._live.start()
        if self._otlp is not None:
            self._otlp.start()
        try:
            self._loop()
        finally:
            self._stop()
        if self._failure is not None:
            raise PicosnitchError(
                f"a part of the exporter has failed: {self._failure}"
            ) from self._failure
        if self._conversation.is_stopping:
            return 0
        if not self._conversation.is_greeted:
            return 1  # the sensor could not start, and says why itself
        raise PeerGoneError("the sensor process has ended")

    def _restore(self) -> None:
        """Takes over what the run before has left: the database first, then the journal."""
        self._clocks.look(self._health)
        persisted = self._workloads.adapt(self._database.load())
        self._intake.instance = persisted.ring_instance
        self._intake.position = persisted.ring_position
        self._registry.restore(persisted.files)
        self._checks.start(persisted)
        self._store.restore(persisted.totals, persisted.executables, now_seconds=time.time())
        if self._otlp is not None:
            self._otlp.begin()
        is_other_boot = not self._database.is_same_boot
        self._registry.trusts_restored = is_other_boot
        entries = self._intake.replay(persisted.journal_segment)
        if entries and is_other_boot:
            # What was counted before the machine went down is for the log alone, and nobody will
            # introduce its processes again.
            self._attributor.flush()
            self._store.restart_counters()
        self._registry.trusts_restored = False
        if entries:
            _log.warning(Event("journal_replayed", {"entries": entries}))
        self._clocks.look(self._health)

    def _loop(self) -> None:
        poll = select.poll()
        conversation = self._conversation
        frames = conversation.fileno()
        for descriptor in (frames, self._hasher.fileno(), self._woken):
            poll.register(descriptor, select.POLLIN)
        self._next_commit = time.monotonic() + self._settings.log.write_limit_seconds
        next_tick = last_tick = time.monotonic()
        while not conversation.is_stopping and self._failure is None:
            pause = 0.0 if conversation.has_work else max(0.0, next_tick - time.monotonic())
            ready = {fd for fd, _event in poll.poll(pause * 1000)}
            self._clocks.look(self._health)
            if frames in ready and not conversation.receive():
                conversation.finish()
                return
            if ready or conversation.has_work:
                next_tick = min(next_tick, last_tick + _TICK_SECONDS)
            if conversation.has_work:
                conversation.work()
            if self._hasher.fileno() in ready:
                self._intake.settled()
            if self._woken in ready:
                os.eventfd_read(self._woken)
                next_tick = min(next_tick, last_tick + _ANSWER_SECONDS)
            if time.monotonic() >= next_tick:
                self._tick()
                last_tick = time.monotonic()
                next_tick = max(last_tick + _TICK_SECONDS, self._latest_tick(last_tick))

    def _latest_tick(self, now: float) -> float:
        """By when it has to be looked what is due, if nothing comes before."""
        if self._attributor.held or self._hasher.pending:
            return now
        idle_seconds = _CHECKS_TICK_SECONDS if self._checks.are_on else _IDLE_TICK_SECONDS
        return min(now + idle_seconds, self._next_commit)

    def _announce(self) -> None:
        self._not_ready = None
        confines.report(self._health, self._confined)  # the sensor has by now
        path = self._settings.web.telemetry_path
        for host, port in self._web.addresses:
            shown = f"[{host}]" if ":" in host else host
            _log.info(Event("listening", {"address": f"http://{shown}:{port}{path}"}))

    def _tick(self) -> None:
        now = time.monotonic()
        self._intake.tick()
        self._health.set(catalog.SERIES, (), self._store.series)
        self._health.set(catalog.EXECUTABLES_KNOWN, (), self._store.executables)
        self._health.set(catalog.HASH_QUEUE_LENGTH, (), self._hasher.pending)
        if now >= self._next_stale:
            self._store.drop_stale(now)
            with contextlib.suppress(OSError):  # no descriptor left
                report_own(self._health)
            memory.give_back()
            self._next_stale = now + _STALE_SECONDS
        dropped = ("sqlite", "full")
        self._health.set_counter(catalog.LOG_ROWS_DROPPED, dropped, self._windows.dropped_rows)
        self._checks.tick()
        if self._live is not None:
            self._live.answer(self._windows, time.time())
        self._forget_durable()
        if (now >= self._next_commit or self._windows.is_full) and self._writer.has_room:
            self._commit()
            self._next_commit = now + self._settings.log.write_limit_seconds

    def _commit(self) -> None:
        """Closes the window and hands everything that has changed to the writer."""
        # What is journaled in the segment that ends has to be in what is committed.
        self._conversation.finish()
        self._attributor.finish_counted()
        segment = self._journal.rotate()
        commit = Commit(
            rows=self._windows.close(time.time()),
            totals=self._store.changed_totals(),
            executables=self._store.changed_executables(),
            files=self._registry.take_new_files(),
            journal_segment=segment,
            ring_instance=self._intake.instance,
            ring_position=self._intake.position,
            verdicts=self._checks.take_verdicts(),
        )
        self._attributor.window_closed()
        self._intake.carry_over(segment)
        self._writer.submit(commit)

    def _forget_durable(self) -> None:
        while self._durable:
            self._intake.forget(self._durable.popleft())

    def _committed(self, commit: Commit) -> None:
        """Called by the writer's thread once a commit is durable; the journal is the main one's."""
        self._durable.append(commit.journal_segment)

    def _note_failure(self, error: BaseException) -> None:
        """Called by any thread that can't go on: the process ends."""
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        """Called by any thread for which the main one has something to do."""
        os.eventfd_write(self._woken, 1)

    def _stop(self) -> None:
        """Commits what there is and ends the threads."""
        self._not_ready = "stopping"
        self._conversation.finish()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._attributor.held and time.monotonic() < deadline:
            self._attributor.tick()
            select.select([self._hasher], [], [], 0.05)
        otlp_seconds = max(_OTLP_STOP_SECONDS, deadline - time.monotonic())
        if self._otlp is not None:
            self._otlp.finish(timeout_seconds=otlp_seconds)
        self._commit()
        closed_by = time.monotonic() + otlp_seconds
        self._writer.close(timeout_seconds=_STOP_SECONDS)
        self._forget_durable()
        if self._otlp is not None:
            self._otlp.close(timeout_seconds=max(0.0, closed_by - time.monotonic()))
        self._checks.close()
        self._workloads.close()
        self._web.close()
        if self._live is not None:
            self._live.close()
        self._hasher.close()
        self._journal.close()
        self._database.close()
        self._conversation.close()
