"""The main loop of the sensor: kernel in, frames out.

It never waits for the exporter: frames that the stream does not take yet are kept, up to a bound,
and beyond that the records stay in the kernel.
"""

import errno
import logging
import math
import os
import resource
import select
import signal
import socket
import time
from collections import Counter as Tally

from picosnitch_exporter import memory
from picosnitch_exporter.errors import DescriptorError, PeerGoneError, WireError
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.sensor import confines
from picosnitch_exporter.sensor.cgroups import Cgroups, take_new_cgroups
from picosnitch_exporter.sensor.drain import Drain, read_batches
from picosnitch_exporter.sensor.execs import ExecWatch
from picosnitch_exporter.sensor.filesystems import Filesystems
from picosnitch_exporter.sensor.handover import Handover
from picosnitch_exporter.sensor.kernel_side import KernelSide, Rest
from picosnitch_exporter.sensor.loader import Loader
from picosnitch_exporter.sensor.lookups import watch_lookups
from picosnitch_exporter.sensor.marker import Marker
from picosnitch_exporter.sensor.pins import remove
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.sending import Sending
from picosnitch_exporter.sensor.supervisor import Supervisor
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.stream import (
    FROM_EXPORTER,
    Acknowledge,
    Channel,
    Hello,
    KernelStatus,
    Ready,
    Resume,
    Stopping,
)
from picosnitch_exporter.wire import WIRE_VERSION

_log = logging.getLogger(__name__)

_DRAIN_SECONDS = 1.0
_DRAINS_A_LINGER = 4
"""At least, so that the programs never idle while somebody reads."""
_BEHIND_SECONDS = 0.02
_STATUS_SECONDS = 5.0
_RESUME_SECONDS = 900.0
"""For the exporter process to take in what the run before has left: a journal of 256 MiB, which is
the bound, takes a minute on a slow machine. That it has ended shows at once."""
_REST_SECONDS = 60.0
_SAY_SECONDS = 60.0
_PAGE_BYTES = resource.getpagesize()


class Sensor:
    """One run of the sensor; `stop_signals` is a descriptor that is readable once it should end."""

    def __init__(
        self,
        settings: Settings,
        end: socket.socket,
        *,
        loader: Loader,
        marker: Marker,
        stop_signals: int,
    ) -> None:
        self._settings = settings
        self._channel = Channel(end, receives=FROM_EXPORTER)
        end.settimeout(0)
        self._stop_signals = stop_signals
        self._procfs = Procfs()
        self._sending = Sending(self._channel)
        self._lost: Tally[tuple[str, str]] = Tally()
        self._supervisor = Supervisor(os.environ)
        self._taken_position = -1
        self._say_again = 0.0
        # Marks first: whatever is executed once the programs count has its event.
        self._marker = marker
        fanotify = marker.fanotify
        self._filesystems = Filesystems(procfs=self._procfs, mark=fanotify.watch_filesystem)
        self._filesystems.watch()
        self._execs = ExecWatch(
            fanotify=fanotify,
            filesystems=self._filesystems,
            procfs=self._procfs,
            lost=self._count_lost,
        )
        self._side: KernelSide = loader.start()
        self._lookups = (
            watch_lookups(loader.library, self._side, self._procfs)
            if settings.bpf.getaddrinfo
            else ()
        )
        self._filesystems.tell_programs(self._side.maps["watched_devices"])
        new_cgroups = self._side.maps["new_cgroups"]
        self._cgroups = Cgroups(self._procfs, take_new=lambda: take_new_cgroups(new_cgroups))
        self._handover = Handover(
            self._sending, execs=self._execs, cgroups=self._cgroups, procfs=self._procfs
        )
        self._drain = Drain(self._side, loader.library, position=self._side.ring.consumer_position)
        self._rings = {self._side.instance: self._side.ring}
        if self._side.records_lost:
            self._lost["record", "other_layout"] += self._side.records_lost
        self._epoll = select.epoll()
        self.is_ready = False
        """Whether it has got so far that its pins are worth keeping."""

    def _count_lost(self, stage: str, reason: str) -> None:
        self._lost[stage, reason] += 1

    def remove(self) -> None:
        """Takes everything out of the kernel: links are closed when the process ends."""
        self._side.detach()
        if self._side.folder:
            remove(self._settings.bpf.pin_path)

    def run(self) -> int:
        """Runs until a stop signal; returns its number.

        Raises
        ------
        PeerGoneError
            if the exporter has ended first.
        """
        self._cgroups.walk()
        self._say_hello()
        self._await_resume()
        self._handover.executables(self._execs.running())
        self._handover.introductions(self._drain.introductions())
        for rest in self._side.rests:
            self._read_rest(rest)
        self._filesystems.mark_by(self._marker.watch_filesystem)
        confines.apply(self._side.maps["counters"])
        self._sending.send(Ready())
        self.is_ready = True
        self._supervisor.ready()
        memory.give_back()  # what libbpf took to read the kernel's types
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._epoll.register(self._execs.fileno(), select.EPOLLIN)
        self._epoll.register(self._filesystems.mounts_descriptor, select.EPOLLPRI)
        self._epoll.register(self._stop_signals, select.EPOLLIN)
        # The ring stays readable until the exporter has acknowledged; only changes matter.
        self._epoll.register(self._side.ring.descriptor, select.EPOLLIN | select.EPOLLET)
        try:
            return self._loop()
        finally:
            self._epoll.close()

    def _say_hello(self) -> None:
        side = self._side
        self._sending.send(
            Hello(
                wire_version=WIRE_VERSION,
                instance=side.instance,
                plan=side.plan,
                refused_plans=side.refused_plans,
                plan_losses=side.losses,
                hooks=side.hooks,
                kernel_release=os.uname().release,
                adopted=side.adopted,
                idle=side.idle_seconds > 0,
            )
        )

    def _await_resume(self) -> None:
        deadline = time.monotonic() + _RESUME_SECONDS
        while time.monotonic() < deadline:
            readable, _w, _x = select.select(
                [self._channel.fileno(), self._stop_signals], [], [], 1.0
            )
            if self._stop_signals in readable:
                raise PeerGoneError("stopped while starting")
            if not readable:
                self._side.control.beat()
                self._supervisor.starting()
                continue
            frame, _descriptor = self._channel.receive()
            if not isinstance(frame, Resume):
                raise WireError(f"a {type(frame).__name__} frame instead of Resume")
            if frame.instance == self._side.instance:
                self._side.ring.release(frame.position)
                self._drain.position = max(frame.position, self._drain.position)
            return
        raise PeerGoneError(f"the exporter process has not answered for {_RESUME_SECONDS:.0f} s")

    def _read_rest(self, rest: Rest) -> None:
        """Hands over what the ring of an earlier layout still holds, and removes it.

        Nothing of the new ring may come in between: whoever has taken something in from that one
        knows no more how far it was with the old one.
        """
        self._rings[rest.instance] = rest.ring
        end = rest.ring.consumer_position
        for batch in read_batches(rest.ring, end):
            self._handover.records(batch, rest.instance)
            end = batch.end
        deadline = time.monotonic() + _REST_SECONDS
        while rest.ring.consumer_position < end:
            if time.monotonic() >= deadline:
                raise PeerGoneError("the exporter process takes nothing in")
            self._side.control.beat()
            self._await_stream(deadline)
        remove(rest.folder)
        _log.info(Event("old_ring_read", {"path": str(rest.folder)}))

    def _loop(self) -> int:
        linger_seconds = self._settings.bpf.linger_seconds or math.inf
        drain_seconds = min(_DRAIN_SECONDS, linger_seconds / _DRAINS_A_LINGER)
        next_drain = next_status = time.monotonic()
        is_behind = False
        while True:
            timeout = max(0.0, min(next_drain, next_status) - time.monotonic())
            ready = {descriptor for descriptor, _events in self._epoll.poll(timeout)}
            if self._stop_signals in ready:
                return self._stop()
            if self._receive_from(ready) and is_behind:
                # What was acknowledged has made room in the ring.
                next_drain = time.monotonic()
            self._sending.flush()
            self._watch_exporter()
            if self._sending.is_congested:
                next_drain = time.monotonic() + _BEHIND_SECONDS
                continue
            try:
                if time.monotonic() >= next_drain:
                    self._wake()
                    is_behind = self._drain.collect()
                    pause = _BEHIND_SECONDS if is_behind else drain_seconds
                    next_drain = time.monotonic() + pause
                self._pump()
                if time.monotonic() >= next_status:
                    self._send_status()
                    next_status = time.monotonic() + _STATUS_SECONDS
            except (DescriptorError, OSError) as error:
                self._put_off(error)
                next_drain = next_status = time.monotonic() + _DRAIN_SECONDS

    def _receive_from(self, ready: set[int]) -> bool:
        """Takes in what is ready; true if the exporter may have acknowledged something."""
        if self._filesystems.mounts_descriptor in ready:
            self._filesystems.watch_own_mounts()
        if self._channel.fileno() not in ready:
            return False
        self._receive()
        return True

    def _put_off(self, error: DescriptorError | OSError) -> None:
        """Without descriptors nothing can be read: it stays in the kernel until there are some."""
        if isinstance(error, OSError) and error.errno not in {errno.EMFILE, errno.ENFILE}:
            raise error
        self._side.control.raise_dirty()
        if time.monotonic() >= self._say_again:
            self._say_again = time.monotonic() + _SAY_SECONDS
            _log.warning(
                Event(
                    "no_descriptors",
                    {"error": str(error), "meaning": "reading is put off: raise RLIMIT_NOFILE"},
                )
            )

    def _watch_exporter(self) -> None:
        """Puts systemd's watchdog off, unless the exporter process leaves what it is sent."""
        if not self._supervisor.wants_alive:
            return
        position = self._side.ring.consumer_position
        is_idle = not self._sending and not self._channel.unread_bytes
        if is_idle or position != self._taken_position:
            self._taken_position = position
            self._supervisor.alive()

    def _wake(self) -> None:
        """Has the programs count again, where nobody has read for longer than they linger."""
        if self._side.wake():
            _log.warning(
                Event(
                    "kernel_was_idle",
                    {
                        "seconds": round(self._side.idle_seconds, 1),
                        "meaning": "this process was stopped for longer than bpf.linger_seconds",
                    },
                )
            )

    def _pump(self) -> None:
        """Hands over what the ring holds, each executable before the records that name it."""
        self._handover.introductions(self._drain.late_introductions())
        for batch in self._drain.batches():
            self._handover.records(batch, self._side.instance)
            self._drain.position = batch.end
            if self._sending.is_congested:
                break
        self._handover.executables(self._execs.read_events())

    def _receive(self) -> None:
        while True:
            try:
                frame, _descriptor = self._channel.receive()
            except BlockingIOError:
                return
            if not isinstance(frame, Acknowledge):
                raise WireError(f"a {type(frame).__name__} frame after the start")
            for instance, ring in self._rings.items():
                if frame.instance == instance:
                    ring.release(frame.position)

    def _send_status(self) -> None:
        self._cgroups.take()
        self._lost["call", "not_run"] = self._side.missed_calls()
        statm = (self._procfs.root / "self/statm").read_text("ascii").split()
        self._sending.send(
            KernelStatus(
                counters=self._drain.counters(),
                maps=self._drain.maps(),
                map_memory_bytes=self._drain.map_memory(self._procfs),
                programs=self._drain.programs(),
                drain_seconds=self._drain.take_durations(),
                sensor_lost=tuple((*key, count) for key, count in sorted(self._lost.items())),
                open_descriptors=self._procfs.open_descriptors(),
                idle_seconds=self._side.idle_seconds,
                resident_bytes=int(statm[1]) * _PAGE_BYTES,
                cpu_seconds=time.process_time(),
            )
        )

    def _stop(self) -> int:
        """Drains a last time and lets the exporter commit; returns the signal."""
        number = os.read(self._stop_signals, 1)[0]
        self._supervisor.stopping()
        keeps = number == signal.SIGTERM and self._settings.bpf.keep_on_exit and self._side.folder
        if not keeps:
            self._side.control.active = 0
        deadline = time.monotonic() + 2.0
        is_behind = True
        while is_behind and time.monotonic() < deadline:
            is_behind = self._drain.collect()
            self._pump()
            self._await_stream(deadline)
        self._send_status()
        self._sending.send(Stopping())
        while self._sending and time.monotonic() < deadline:
            self._await_stream(deadline)
        self._await_end()
        if not keeps:
            self.remove()
        return number

    def _await_stream(self, deadline: float) -> None:
        """Gives the exporter time to take frames and to acknowledge."""
        timeout = max(0.0, min(0.1, deadline - time.monotonic()))
        select.select([self._channel], [self._channel] if self._sending else [], [], timeout)
        self._receive()
        self._sending.flush()

    def _await_end(self) -> None:
        """Takes acknowledgements until the exporter has closed its end."""
        deadline = time.monotonic() + 2.5
        try:
            while time.monotonic() < deadline:
                select.select([self._channel], [], [], 0.1)
                self._receive()
        except PeerGoneError:
            return
        _log.error(Event("exporter_slow", {"meaning": "not committed in time; the ring keeps it"}))
