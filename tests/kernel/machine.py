"""What tests/vm tells about the guest that the tests run in; elsewhere nothing is set."""

import os
from pathlib import Path

# How many times slower than a machine of today: all deadlines are as much longer.
SLOWNESS = float(os.environ.get("PICOSNITCH_TEST_SLOWNESS", "1"))
# The plan under test, in place of the one that the exporter would choose.
PLAN = os.environ.get("PICOSNITCH_TEST_PLAN", "")
# tests/kernel/traffic, compiled and linked statically: a guest has no compiler.
TRAFFIC = (
    Path(os.environ["PICOSNITCH_TEST_TRAFFIC"]) if "PICOSNITCH_TEST_TRAFFIC" in os.environ else None
)
