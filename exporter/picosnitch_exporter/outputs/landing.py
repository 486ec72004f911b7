"""The page at `/`: what this is, how it is, what talked most, and where to go."""

import html
from collections.abc import Iterable, Iterator
from heapq import nlargest

from picosnitch_exporter.model import CounterColumn, Executable, Snapshot

TOP = 10
"""Executables on the page."""
_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>picosnitch-exporter: {state}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color-scheme: light dark; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0 0 .5rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
caption {{ text-align: left; padding: .25rem 0; }}
th, td {{ border-bottom: 1px solid; padding: .25rem .75rem .25rem 0; text-align: left;
  overflow-wrap: anywhere; }}
th + th, td {{ text-align: right; white-space: nowrap; }}
</style>
</head>
<body>
<main>
<h1>picosnitch-exporter</h1>
<p>Network traffic of every executable on this host, by its SHA-256.</p>
<h2>State</h2>
<dl>
<dt>State</dt><dd>{state}</dd>
<dt>Version</dt><dd>{version}</dd>
<dt>Executables</dt><dd>{executables}</dd>
<dt>Series of traffic</dt><dd>{series}</dd>
</dl>
<h2>Top executables</h2>
{top}
<h2>More</h2>
<ul>
<li><a href="{telemetry_path}">Metrics, for Prometheus</a></li>
<li><a href="/-/ready">Whether it is ready</a></li>
<li><a href="/-/healthy">Whether it is alive</a></li>
</ul>
<p>In a shell, <code>picosnitch-exporter top</code> shows what talks right now, and
<code>picosnitch-exporter query</code> searches the log of connections.</p>
</main>
</body>
</html>
"""

_TABLE = """<div role="region" aria-labelledby="top" tabindex="0">
<table>
<caption id="top">The {count} that moved most bytes since they were first counted</caption>
<thead>
<tr><th scope="col">Executable</th><th scope="col">Sent</th><th scope="col">Received</th>\
<th scope="col">Connections</th><th scope="col">VirusTotal</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table>
</div>"""


def landing_page(
    *, version: str, reason_not_ready: str | None, snapshot: Snapshot, telemetry_path: str
) -> str:
    """Fill in the page; nothing on it is executable, and what comes from outside is escaped."""
    columns = (
        snapshot.transmit_bytes,
        snapshot.receive_bytes,
        snapshot.connections,
        snapshot.connect_failures,
    )
    state = "ready" if reason_not_ready is None else f"not ready: {reason_not_ready}"
    rows = list(_rows(snapshot))
    top = _TABLE.format(count=len(rows), rows="\n".join(rows)) if rows else "<p>None yet.</p>"
    return _PAGE.format(
        version=html.escape(version),
        state=html.escape(state),
        executables=len(snapshot.executables),
        series=sum(len(column.labels) for column in columns),
        telemetry_path=html.escape(telemetry_path),
        top=top,
    )


def _rows(snapshot: Snapshot) -> Iterator[str]:
    sent, received = _sums(snapshot.transmit_bytes), _sums(snapshot.receive_bytes)
    connections = _sums(snapshot.connections)
    verdicts = {facts.executable: facts.virustotal.verdict for facts in snapshot.executables}
    moved = {one: sent.get(one, 0) + received.get(one, 0) for one in {**sent, **received}}
    for one in nlargest(TOP, moved, key=lambda executable: (moved[executable], executable.exe)):
        name = html.escape(one.exe or "(unknown)")
        cells: Iterable[object] = (
            _amount(sent.get(one, 0)),
            _amount(received.get(one, 0)),
            connections.get(one, 0),
            verdicts.get(one, ""),
        )
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        yield f'<tr><th scope="row">{name}</th>{data}</tr>'


def _sums(column: CounterColumn) -> dict[Executable, int]:
    sums: dict[Executable, int] = {}
    for labels, value in zip(column.labels, column.values, strict=True):
        sums[labels.executable] = sums.get(labels.executable, 0) + value
    return sums


def _amount(value: float) -> str:
    unit = 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{value:.0f} B"
