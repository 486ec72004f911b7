"""The exporter process: everything that needs no privileges, and has none."""
