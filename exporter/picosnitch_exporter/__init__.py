"""Network traffic of every executable, by SHA-256, as Prometheus metrics."""

__version__ = "0.1.0"
