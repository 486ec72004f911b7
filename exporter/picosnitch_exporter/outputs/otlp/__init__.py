"""The same counters, and the connection log, to any OpenTelemetry backend.

Imported only where there is an endpoint: the SDK and its exporters take 17 to 24 MB.
"""
