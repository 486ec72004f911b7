"""`picosnitch-exporter doctor`: one line for each requirement, and what mends it."""

import json
import sys

from picosnitch_exporter.config.loading import Loaded
from picosnitch_exporter.errors import ConfigurationError
from picosnitch_exporter.sensor import survey
from picosnitch_exporter.sensor.requirements import Finding, State
from picosnitch_exporter.settings import Settings
from picosnitch_exporter.terminal import settings_check


def configuration(loaded: Loaded | ConfigurationError) -> Finding:
    """What became of the configuration file."""
    if isinstance(loaded, ConfigurationError):
        return Finding(
            name="configuration",
            state=State.FAILED,
            found=str(loaded),
            remedy="what follows is about the defaults",
        )
    if loaded.notices:
        notices = "; ".join(loaded.notices)
        return Finding(name="configuration", state=State.WARNING, found=notices)
    found = "no file, all defaults" if loaded.source is None else f"{loaded.source} is valid"
    return Finding(name="configuration", state=State.OK, found=found)


def run(settings: Settings, *, as_json: bool, before: tuple[Finding, ...] = ()) -> int:
    """Prints what was found, and what had been found `before`; 1 if `run` would fail."""
    findings = (*before, *survey.check(settings.bpf), *settings_check.check(settings))
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "name": one.name,
                        "state": one.state.value,
                        "found": one.found,
                        "remedy": one.remedy,
                    }
                    for one in findings
                ],
                indent=2,
            )
        )
    else:
        width = max(len(one.name) for one in findings)
        is_terminal = sys.stdout.isatty()
        for one in findings:
            print(_line(one, width, is_coloured=is_terminal))
    return 1 if any(one.state is State.FAILED for one in findings) else 0


def _line(finding: Finding, width: int, *, is_coloured: bool) -> str:
    state = f"{finding.state.value:<7}"
    if is_coloured:
        colour = {State.OK: 32, State.WARNING: 33, State.FAILED: 31}[finding.state]
        state = f"\x1b[{colour}m{state}\x1b[0m"
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    text = f"{finding.found}{remedy}".replace("\n", " | ")
    return f"{state} {finding.name:<{width}}  {text}"
