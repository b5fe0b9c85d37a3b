"""Figures of benchmarks: medians, percentiles, what was lost."""

from __future__ import annotations

from logcluster.cli.bench_failover import _compare
from logcluster.cli.bench_report import latency_figures, medians, percentile
from logcluster.cli.bench_work import sample_values, trimmed


def test_medians_are_taken_figure_by_figure_and_texts_stay() -> None:
    runs = [{"a": 1, "b": 9.0, "name": "x"}, {"a": 3, "b": 1.0, "name": "x"}, {"a": 2, "b": 5.0, "name": "x"}]

    assert medians(runs) == {"a": 2, "b": 5.0, "name": "x"}


def test_percentile_is_a_measured_value() -> None:
    values = [float(number) for number in range(1, 101)]

    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 50) == 7.0
    assert percentile([1.0, 2.0], 99) == 2.0


def test_latencies_are_reported_in_milliseconds() -> None:
    assert latency_figures("ack", [3_000_000, 1_000_000, 2_000_000]) == {
        "ack_p50_ms": 2.0,
        "ack_p99_ms": 3.0,
        "ack_max_ms": 3.0,
    }
    assert latency_figures("ack", []) == {}


def test_comparison_counts_lost_doubled_and_disordered_values() -> None:
    assert _compare([0, 1, 2, 3], [0, 1, 2, 3]) == (0, 0, 0)
    assert _compare([0, 1, 2], [0, 2]) == (1, 0, 0)
    assert _compare([0, 1], [0, 1, 1]) == (0, 1, 0)
    assert _compare([0, 1, 2], [0, 2, 1]) == (0, 0, 1)
    assert _compare([0], [0, 1]) == (0, 0, 0), "a record whose outcome was unknown may be there"


def test_values_have_exactly_the_size_asked_for() -> None:
    for size_bytes in (1, 7, 100, 1024):
        assert {len(value) for value in trimmed(sample_values(size_bytes), size_bytes)} == {size_bytes}
