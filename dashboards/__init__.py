"""Grafana dashboards as code: `python -m dashboards` writes dashboards/json from it.

    json <- __main__ <- fleet, executable, host, log, exporter <- panels, variables <- queries

docs/dashboards.md tells what each shows and how to import them.
"""
