"""What a process can no longer do, whoever has taken it over: seccomp filters and Landlock.

Both come on top of dropped capabilities (`privileges`), and neither can be undone.
"""

from picosnitch_exporter.confinement.calls import EXPORTER, SENSOR
from picosnitch_exporter.confinement.landlock import restrict_files
from picosnitch_exporter.confinement.seccomp import (
    Condition,
    Refusal,
    UnconfinedError,
    filter_of,
    refuse_calls,
)

__all__ = [
    "EXPORTER",
    "SENSOR",
    "Condition",
    "Refusal",
    "UnconfinedError",
    "filter_of",
    "refuse_calls",
    "restrict_files",
]
