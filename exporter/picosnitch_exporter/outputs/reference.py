"""docs/metrics.md, from the catalog.

::

    python -m picosnitch_exporter.outputs.reference > docs/metrics.md
"""

import sys
from collections.abc import Iterable

from picosnitch_exporter.catalog import EXECUTABLE_METRICS, OWN_METRICS, Metric

_INTRODUCTION = """\
# Metrics

<!-- python -m picosnitch_exporter.outputs.reference writes this from catalog.py -->

## What executables do

Each of these has the labels of the executable, before those in the table:

- `sha256`: 64 hexadecimal digits; empty where the file could not be read, which
  `picosnitch_exporter_unhashed_executables_total` counts by its reason.
- `exe`: the path as the host sees it; inside a container, the path in that container.
- `namespace`, `pod`, `container`: only with Kubernetes or containers on; empty on the host.

Executables beyond `metrics.max_executables` share `sha256="other", exe="other"`, so that sums
always add up; so do the series of one executable beyond 256 (raw sockets have 256 protocols).
Series of executables that have been silent for `metrics.stale_after_seconds` are
dropped.

`protocol` is the lower-case IANA keyword (tcp, udp, icmp, icmpv6, sctp, ...), packet for AF_PACKET,
or the number. MPTCP counts as tcp, once. `scope` of the peer is loopback, private, link_local,
multicast, public or unknown. `direction` is outbound or inbound.

A path need not be UTF-8, a label has to be. Its bytes that are not UTF-8 show as `\\xNN`, with
lower-case digits, and so does a backslash of the path itself (`\\x5c`) where it would read like one
of these. Two paths never share a label, and replacing each `\\xNN` by its byte gives back the path.
"""

_OWN = """\
## The exporter on itself

Those without labels are there from the start, most others appear with their first value.
"""

_FORMATS = """\
## Formats

`/metrics` speaks the Prometheus text format 0.0.4 and OpenMetrics 1.0.0, by the client's `Accept`,
and compresses if its `Accept-Encoding` allows gzip. In OpenMetrics, counters and histograms also
have `_created` samples: since when they have counted.
"""


def markdown() -> str:
    """Write the page."""
    sections = (
        _INTRODUCTION,
        _table(EXECUTABLE_METRICS, with_otlp=True),
        _OWN,
        _table(OWN_METRICS, with_otlp=False),
        _FORMATS,
    )
    return "\n".join(sections)


def _table(metrics: Iterable[Metric], *, with_otlp: bool) -> str:
    last, line = ("OTLP | what", "---|---") if with_otlp else ("what", "---")
    lines = [f"| metric | type | labels | {last} |", f"|---|---|---|{line}|"]
    for metric in metrics:
        # Of the exporter's own, the one about sockets has the executable's labels as well.
        own = () if with_otlp else metric.label_names(with_workload_labels=False)
        labels = ", ".join(f"`{label}`" for label in own or metric.labels)
        otlp = f" `{metric.otlp_name}` ({metric.otlp_unit}) |" if with_otlp else ""
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} |{otlp} {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # pragma: no cover - its result is checked
    sys.stdout.write(markdown())
