"""Where the numbers go: Prometheus over HTTP, and OTLP."""
