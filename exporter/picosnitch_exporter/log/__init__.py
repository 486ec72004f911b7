"""The connection log: what became of the traffic, row by row, on disk and on database servers."""
