"""What the sensor says of itself and of the kernel side, as metrics."""

import logging
import os
import resource
import time
from dataclasses import dataclass

from picosnitch_exporter import __version__, catalog
from picosnitch_exporter.logging_format import Event
from picosnitch_exporter.state.health import Health
from picosnitch_exporter.stream import Hello, KernelStatus
from picosnitch_exporter.wire import Counter

_log = logging.getLogger(__name__)

_JUMP_SECONDS = 1.0

_LOST = {
    Counter.LOST_FINAL_RECORDS: ("final_record", "ring_and_fallback_full"),
    Counter.DNS_RECORDS_LOST: ("dns_record", "ring_full"),
    Counter.UNSEEN_RECORDS_LOST: ("unseen_record", "ring_full"),
    Counter.FLOWS_FULL: ("peer", "flows_full"),
    Counter.CGROUPS_LOST: ("cgroup", "map_full"),
    Counter.IDLED_CALLS: ("call", "idle"),
}
_DELAYED = {
    Counter.FALLBACK_RECORDS: ("final_record", "ring_full"),
    Counter.STORAGE_FAILED: ("socket", "no_storage"),
    Counter.PROCESS_RECORDS_DELAYED: ("process_record", "ring_full"),
    Counter.LIVE_RECORDS_DELAYED: ("live_record", "ring_full"),
}
_UNATTRIBUTED = {
    "transmit": (Counter.LOST_TRANSMIT_BYTES, Counter.LOST_FINAL_TRANSMIT_BYTES),
    "receive": (Counter.LOST_RECEIVE_BYTES, Counter.LOST_FINAL_RECEIVE_BYTES),
}


def report_hello(health: Health, hello: Hello) -> None:
    """Which plan and hooks are in use."""
    health.set(catalog.BUILD_INFO, (__version__, ""), 1)
    health.set(catalog.KERNEL_PLAN_INFO, (hello.plan, hello.kernel_release), 1)
    for plan, reason in hello.refused_plans:
        health.set(catalog.KERNEL_PLAN_REFUSED_INFO, (plan, reason), 1)
    for loss in hello.plan_losses:
        health.set(catalog.KERNEL_PLAN_LOSS_INFO, (loss,), 1)
    for hook in hello.hooks:
        health.set(catalog.HOOK_INFO, (hook,), 1)


def report_status(health: Health, status: KernelStatus) -> None:
    """Losses, maps and programs of the kernel side; footprint of the sensor."""
    counters = status.counters
    for index, labels in _LOST.items():
        health.set_counter(catalog.EVENTS_LOST, labels, counters[index])
    for index, labels in _DELAYED.items():
        health.set_counter(catalog.EVENTS_DELAYED, labels, counters[index])
    for direction, indexes in _UNATTRIBUTED.items():
        lost_bytes = sum(counters[index] for index in indexes)
        health.set_counter(catalog.UNATTRIBUTED_BYTES, (direction,), lost_bytes)
    for stage, reason, count in status.sensor_lost:
        health.set_counter(catalog.EVENTS_LOST, (stage, reason), count)
    health.set_counter(catalog.KERNEL_GAP_SECONDS, (), status.idle_seconds)
    for use in status.maps:
        health.set(catalog.KERNEL_MAP_ENTRIES, (use.name,), use.entries)
        if use.capacity:
            health.set(catalog.KERNEL_MAP_CAPACITY, (use.name,), use.capacity)
    for name, taken_bytes in status.map_memory_bytes:
        health.set(catalog.KERNEL_MAP_MEMORY_BYTES, (name,), taken_bytes)
    for program in status.programs:
        health.set_counter(catalog.BPF_PROGRAM_RUNS, (program.name,), program.runs)
        seconds = program.run_time_ns / 1e9
        health.set_counter(catalog.BPF_PROGRAM_RUN_SECONDS, (program.name,), seconds)
    for seconds in status.drain_seconds:
        health.observe(catalog.DRAIN_DURATION, (), seconds)
    sensor = ("sensor",)
    health.set(catalog.PROCESS_OPEN_FDS, sensor, status.open_descriptors)
    health.set(catalog.PROCESS_RESIDENT_MEMORY_BYTES, sensor, status.resident_bytes)
    health.set_counter(catalog.PROCESS_CPU_SECONDS, sensor, status.cpu_seconds)


def report_own(health: Health) -> None:
    """Footprint of this process."""
    exporter = ("exporter",)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - once a second
        resident_pages = int(file.read().split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF)
    resident_bytes = resident_pages * resource.getpagesize()
    health.set(catalog.PROCESS_RESIDENT_MEMORY_BYTES, exporter, resident_bytes)
    health.set(catalog.PROCESS_OPEN_FDS, exporter, sum(1 for _ in os.scandir("/proc/self/fd")))
    health.set_counter(catalog.PROCESS_CPU_SECONDS, exporter, used.ru_utime + used.ru_stime)


@dataclass(slots=True)
class ClockWatch:
    """Notices steps of the wall clock; CLOCK_BOOTTIME goes on while the machine sleeps."""

    offset_ns: int = 0
    """Wall clock minus CLOCK_BOOTTIME; while the journal is replayed, as it was then."""

    def to_unix(self, boot_ns: int) -> float:
        """CLOCK_BOOTTIME in nanoseconds as Unix seconds."""
        return (boot_ns + self.offset_ns) / 1e9

    def look(self, health: Health) -> None:
        """Brings the offset up to date."""
        offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if self.offset_ns:
            step_seconds = (offset_ns - self.offset_ns) / 1e9
            if abs(step_seconds) > _JUMP_SECONDS:
                direction = "forward" if step_seconds > 0 else "backward"
                health.count(catalog.CLOCK_JUMPS, (direction,))
                _log.warning(Event("clock_jumped", {"seconds": round(step_seconds, 1)}))
        self.offset_ns = offset_ns
