import time

import pytest

from picosnitch_exporter import catalog
from picosnitch_exporter.service.status import ClockWatch
from picosnitch_exporter.state.health import Health

HOUR_NS = 3_600_000_000_000


def jumps(health: Health) -> dict[str, float]:
    (found,) = (family for family in health.collect() if family.metric is catalog.CLOCK_JUMPS)
    return {reading.labels[0]: reading.value for reading in found.readings}


@pytest.mark.parametrize(
    ("step_ns", "expected"),
    [
        (HOUR_NS, {"forward": 1.0, "backward": 0.0}),
        (-HOUR_NS, {"forward": 0.0, "backward": 1.0}),
        (500_000_000, {"forward": 0.0, "backward": 0.0}),
    ],
)
def test_only_steps_of_the_wall_clock_are_counted_when_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, step_ns: int, expected: dict[str, float]
) -> None:
    health, clocks = Health(), ClockWatch()
    now_ns, boot_ns = 1_700_000_000 * 10**9, 1000 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: boot_ns)
    clocks.look(health)
    # Asleep for an hour: both clocks go on.
    now_ns, boot_ns = now_ns + HOUR_NS, boot_ns + HOUR_NS
    clocks.look(health)
    assert jumps(health) == {"forward": 0.0, "backward": 0.0}

    now_ns += step_ns
    clocks.look(health)
    assert jumps(health) == expected
    assert clocks.to_unix(boot_ns) == now_ns / 1e9
