"""The lines of both text formats: a metric's header, labels and numbers.

Sources: Prometheus exposition formats, text 0.0.4; OpenMetrics 1.0.0.
"""

import math

from picosnitch_exporter.catalog import Metric, label_value

_FIRST_EXPONENT = 7
"""Digits before the point from which on Go, and with it every client, writes an exponent."""


def header(metric: Metric, *, openmetrics: bool) -> bytes:
    """The lines that go before a metric's samples."""
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    if not openmetrics:
        return f"# HELP {metric.name} {text}\n# TYPE {metric.name} {metric.kind}\n".encode()
    text = text.replace('"', '\\"')
    unit = f"# UNIT {metric.family} {metric.unit}\n" if metric.unit else ""
    lines = f"# HELP {metric.family} {text}\n# TYPE {metric.family} {metric.kind}\n{unit}"
    return lines.encode()


def escape(text: str) -> str:
    """A label's value as it stands between the quotes."""
    return label_value(text).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    """A sample's value, in the digits that Prometheus's own client libraries give it."""
    value = float(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
    text = repr(value)
    point = text.find(".")
    if value <= 0 or point < _FIRST_EXPONENT:
        return text
    digits = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
    return f"{digits}e+{point - 1:02d}"
