"""Metrics are read when scraped."""

from __future__ import annotations

from logcluster.observability.metrics import Metrics, Sample


def test_samples_are_asked_for_at_every_scrape() -> None:
    metrics = Metrics()
    count = 0

    def source() -> list[Sample]:
        return [
            Sample("logcluster_calls_total", "Calls.", count, (("api", "produce"),)),
            Sample("logcluster_calls_total", "Calls.", 1, (("api", "fetch"),)),
            Sample("logcluster_resident_bytes", "Memory.", 5),
        ]

    metrics.add(source)
    count = 3
    text = metrics.render().decode()
    assert 'logcluster_calls_total{api="produce"} 3.0' in text
    assert 'logcluster_calls_total{api="fetch"} 1.0' in text
    assert "# TYPE logcluster_calls_total counter" in text
    assert "# TYPE logcluster_resident_bytes gauge" in text
