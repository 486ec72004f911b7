"""What is known right now: totals, attribution, and the exporter's own health."""
