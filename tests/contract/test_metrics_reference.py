from pathlib import Path

from picosnitch_exporter.catalog import METRICS
from picosnitch_exporter.outputs.reference import markdown

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_page_is_up_to_date_when_compared_with_the_catalog() -> None:
    """`python -m picosnitch_exporter.outputs.reference > docs/metrics.md` brings it up to date."""
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_page_has_each_metric_once_when_read() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [page.count(f"| `{metric.name}` |") for metric in METRICS] == [1] * len(METRICS)
