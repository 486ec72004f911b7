"""What the exporter is told, in the order it needs: each executable and name before its records."""

from collections.abc import Iterable

from picosnitch_exporter.sensor.cgroups import Cgroups
from picosnitch_exporter.sensor.drain import Batch, Subject, subjects_of
from picosnitch_exporter.sensor.execs import ExecWatch, Opened
from picosnitch_exporter.sensor.procfs import Procfs
from picosnitch_exporter.sensor.sending import Sending
from picosnitch_exporter.stream import MAX_RECORD_BYTES, CommandLine, Introductions, Records
from picosnitch_exporter.wire import join_processes


class Handover:
    """Puts frames into the stream."""

    def __init__(
        self, sending: Sending, *, execs: ExecWatch, cgroups: Cgroups, procfs: Procfs
    ) -> None:
        self._sending = sending
        self._execs = execs
        self._cgroups = cgroups
        self._procfs = procfs

    def executables(self, opened: Iterable[Opened]) -> None:
        """With their descriptors, which the stream closes here."""
        for one in opened:
            self._sending.send(one.frame, descriptor=one.descriptor)

    def introductions(self, told: bytes) -> None:
        """Says who is who among those that only an earlier run, or nobody, was told of.

        `told` are process records, in a row.
        """
        for data in join_processes(told, MAX_RECORD_BYTES):
            for subject in subjects_of(data):
                self._introduce(subject)
            self._sending.send(Introductions(data=data))

    def records(self, batch: Batch, instance: int) -> None:
        """What stood in the ring of that instance."""
        # Whatever the batch speaks of was executed before: its event is in the queue by now.
        self.executables(self._execs.read_events())
        for subject in batch.subjects:
            self._introduce(subject)
        self._sending.send(
            Records(instance=instance, start=batch.start, end=batch.end, data=batch.data)
        )

    def _introduce(self, subject: Subject) -> None:
        opened = self._execs.find(
            subject.executable,
            subject.key.tgid,
            changed_ns=subject.changed_ns,
            names=subject.names,
        )
        if opened:
            self.executables((opened,))
        tgid, start_ns = subject.key.tgid, subject.key.start_ns
        for path in self._cgroups.introduce(
            subject.cgroup_id, subject.cgroup1_id, tgid=tgid, start_ns=start_ns
        ):
            self._sending.send(path)
        if not subject.wants_cmdline:
            return
        cmdline = self._procfs.cmdline(tgid)
        if cmdline and self._procfs.is_same_start(tgid, start_ns):
            self._sending.send(CommandLine(key=subject.key, cmdline=cmdline))
