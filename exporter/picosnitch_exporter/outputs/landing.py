"""The page at `/`: what this is, how it is, and where to go."""

import html

from picosnitch_exporter.model import Snapshot

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>picosnitch-exporter</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 40rem;
  padding: 0 1rem; color-scheme: light dark; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0 0 .5rem; }}
</style>
</head>
<body>
<h1>picosnitch-exporter</h1>
<p>Network traffic of every executable on this host, by its SHA-256.</p>
<dl>
<dt>Version</dt><dd>{version}</dd>
<dt>State</dt><dd>{state}</dd>
<dt>Executables</dt><dd>{executables}</dd>
<dt>Series of traffic</dt><dd>{series}</dd>
</dl>
<ul>
<li><a href="{telemetry_path}">Metrics</a></li>
<li><a href="/-/ready">Ready</a></li>
<li><a href="/-/healthy">Healthy</a></li>
</ul>
</body>
</html>
"""


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
    )
