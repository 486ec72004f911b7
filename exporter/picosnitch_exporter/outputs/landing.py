"""The page at `/`: what this is, how it is, what talked most, and where to go."""

import html
from heapq import nlargest

from picosnitch_exporter.catalog import label_value
from picosnitch_exporter.model import CounterColumn, Executable, Snapshot, Verdict

TOP = 10
"""Executables on the page."""
_SHORT_HASH = 12
"""Digits of a hash: enough to tell two files of one path apart by eye."""
_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>picosnitch-exporter: {state}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem;
  padding: 0 1rem; color-scheme: light dark; }}
h1 {{ font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2rem 0 .5rem; }}
dl {{ display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 0; }}
dt {{ font-size: .875rem; }}
dd {{ font-weight: 600; margin: 0; }}
#talkers {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
caption {{ max-width: calc(100vw - 3rem); padding: 0 0 .5rem; text-align: left; }}
th, td {{ border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent);
  padding: .4rem 0 .4rem 1.5rem; text-align: right;
  vertical-align: top; white-space: nowrap; }}
thead th {{ border-bottom-width: 2px; }}
th:first-child {{ min-width: 14rem; padding-left: 0; text-align: left; white-space: normal; }}
tbody th {{ font-weight: 400; }}
code {{ font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere; }}
small {{ display: block; font-size: .8rem; }}
</style>
</head>
<body>
<main>
<h1>picosnitch-exporter</h1>
<p>Network traffic of every executable on this host, by its SHA-256.</p>
<h2>State</h2>
<dl>
<div><dt>Status</dt><dd>{state}</dd></div>
<div><dt>Version</dt><dd>{version}</dd></div>
<div><dt>Executables</dt><dd>{executables:,}</dd></div>
<div><dt>Series of traffic</dt><dd>{series:,}</dd></div>
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

_TABLE = """<div id="talkers" role="region" aria-labelledby="top" tabindex="0">
<table>
<caption id="top">The {count} that moved most bytes since they were first counted</caption>
<thead>
<tr>{headings}</tr>
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
    return _PAGE.format(
        version=html.escape(version),
        state=html.escape(state),
        executables=len(snapshot.executables),
        series=sum(len(column.labels) for column in columns),
        telemetry_path=html.escape(telemetry_path),
        top=_top(snapshot),
    )


def _top(snapshot: Snapshot) -> str:
    sent, received = _sums(snapshot.transmit_bytes), _sums(snapshot.receive_bytes)
    connections = _sums(snapshot.connections)
    verdicts = {facts.executable: facts.virustotal.verdict for facts in snapshot.executables}
    moved = {one: sent.get(one, 0) + received.get(one, 0) for one in {**sent, **received}}
    top = nlargest(TOP, moved, key=lambda executable: (moved[executable], executable.exe))
    if not top:
        return "<p>None yet.</p>"

    headings = ["Executable", "Sent", "Received", "Connections"]
    # Where nobody asks VirusTotal, the column would say so in every row.
    with_verdicts = any(verdict is not Verdict.DISABLED for verdict in verdicts.values())
    if with_verdicts:
        headings.append("VirusTotal")
    rows = []
    for one in top:
        cells = [
            _amount(sent.get(one, 0)),
            _amount(received.get(one, 0)),
            f"{connections.get(one, 0):,}",
        ]
        if with_verdicts:
            cells.append(_verdict(verdicts.get(one)))
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{_name(one)}</th>{data}</tr>')
    return _TABLE.format(
        count=len(rows),
        headings="".join(f'<th scope="col">{heading}</th>' for heading in headings),
        rows="\n".join(rows),
    )


def _name(one: Executable) -> str:
    path = html.escape(_visible(one.exe) or "(unknown)")
    digest = html.escape(one.sha256[:_SHORT_HASH])
    short = f"<small>SHA-256 <code>{digest}…</code></small>" if len(digest) == _SHORT_HASH else ""
    return f"<bdi><code>{path}</code></bdi>{short}"


def _visible(text: str) -> str:
    """What a browser would obey or not show, as marks of direction, becomes an escape."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in label_value(text)
    )


def _verdict(verdict: Verdict | None) -> str:
    match verdict:
        case None:
            return ""
        case Verdict.MALICIOUS | Verdict.SUSPICIOUS:
            return f"<strong>{verdict}</strong>"
        case _:
            return verdict


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
