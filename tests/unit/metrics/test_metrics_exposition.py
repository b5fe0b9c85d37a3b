"""Sinks, histograms and totals: what they refuse, and what Prometheus is given."""

from __future__ import annotations

import asyncio

import pytest

from logcluster.metrics.catalogue import CATALOGUE, FOREIGN_PREFIXES
from logcluster.metrics.event_loop import EventLoopWatch
from logcluster.metrics.exposition import Metrics, Sink
from logcluster.metrics.histogram import Histogram
from logcluster.metrics.running_totals import RunningTotals
from logcluster.model.invariants import InvariantViolation


def lines_of(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_sources_are_asked_at_every_scrape() -> None:
    metrics = Metrics()
    count = 0

    def source(sink: Sink) -> None:
        sink.put("logcluster_broker_incidents_total", count, "lane")
        sink.put("logcluster_broker_incidents_total", 1, "grpc")
        sink.put("logcluster_log_size_bytes", 5)

    metrics.add(source)
    assert 'logcluster_broker_incidents_total{transport="lane"} 0.0' in lines_of(metrics)
    count = 3
    lines = lines_of(metrics)
    assert 'logcluster_broker_incidents_total{transport="lane"} 3.0' in lines
    assert 'logcluster_broker_incidents_total{transport="grpc"} 1.0' in lines
    assert "# TYPE logcluster_broker_incidents_total counter" in lines
    assert "logcluster_log_size_bytes 5.0" in lines


def test_what_exists_does_not_depend_on_what_has_happened() -> None:
    typed = {line.split()[2]: line.split()[3] for line in lines_of(Metrics()) if line.startswith("# TYPE")}
    ours = {name: one.kind for name, one in CATALOGUE.items() if not name.startswith(FOREIGN_PREFIXES)}
    assert {name: kind for name, kind in typed.items() if not name.startswith(FOREIGN_PREFIXES)} == ours
    assert {name for name in typed if name.startswith(FOREIGN_PREFIXES)} == set(CATALOGUE) - set(ours)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("logcluster_no_such_metric", ()),
        ("logcluster_log_size_bytes", ("one too many",)),
        ("logcluster_broker_incidents_total", ()),
        ("logcluster_event_loop_lag_seconds", ()),
    ],
)
def test_what_the_catalogue_does_not_have_is_refused(name: str, labels: tuple[str, ...]) -> None:
    sink = Sink(CATALOGUE.values())
    with pytest.raises(InvariantViolation, match="catalogue"):
        sink.put(name, 1, *labels)
    with pytest.raises(InvariantViolation, match="catalogue"):
        sink.put_histogram("logcluster_log_size_bytes", Histogram())


def test_bounds_of_a_histogram_are_inclusive_and_cumulative() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("0.1", 2), ("1.0", 4), ("+Inf", 5)]
    assert (histogram.count, histogram.sum) == (5, pytest.approx(8.65))


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.add(lambda sink: sink.put("logcluster_group_lag_records", 1, 'a"b\\c\nd', "t"))
    assert 'logcluster_group_lag_records{group="a\\"b\\\\c\\nd",topic="t"} 1.0' in lines_of(metrics)


class Owner:
    def __init__(self, count: int) -> None:
        self.count = count


def test_totals_do_not_go_back_when_owners_go() -> None:
    totals: RunningTotals[Owner] = RunningTotals(lambda owner: (owner.count,))
    assert totals.look([]) == []
    first, second = Owner(5), Owner(7)
    assert totals.look([first, second]) == [12]
    first.count += 1
    assert totals.look([first]) == [13], "the second has gone, what it counted stays"
    assert totals.look([first, Owner(2)]) == [15], "a new one counts from its beginning"
    first.count = 1
    assert totals.look([first]) == [16], "one that has begun anew does not take back what it had"


class LateClock:
    """Sleeps far too long, once."""

    def __init__(self) -> None:
        self.sleeps = 0

    def now_ms(self) -> int:
        return 0

    def monotonic_ms(self) -> int:
        return 0

    async def sleep_ms(self, delay_ms: int) -> None:
        self.sleeps += 1
        if self.sleeps == 2:
            await asyncio.Event().wait()
        await asyncio.sleep((delay_ms + 40) / 1000)


async def test_a_late_timer_shows_as_event_loop_lag() -> None:
    watch = EventLoopWatch(LateClock())
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0.3)
    task.cancel()
    assert watch.lags.count == 1
    assert 0.03 < watch.lags.sum < 0.2
