"""From sources to the text that Prometheus reads; exposition itself is prometheus-client's.

A source is asked at every scrape and puts values under names of the catalogue. A name that is not there, or another
number of labels, is a programmer's error. Every metric of the catalogue shows its help and type, with or without
values, so that what exists does not depend on what has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from logcluster.metrics.catalogue import CATALOGUE, FOREIGN_PREFIXES, Definition
from logcluster.metrics.histogram import Histogram
from logcluster.model.invariants import InvariantViolation

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_FAMILIES: Final = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class Sink:
    """Takes the values of one scrape."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._places: dict[str, tuple[Metric, int]] = {
            definition.name: (
                _FAMILIES[definition.kind](definition.name, definition.help, labels=definition.labels),
                len(definition.labels),
            )
            for definition in definitions
        }

    @property
    def families(self) -> Iterator[Metric]:
        """Everything that was put, by metric."""
        return (family for family, _ in self._places.values())

    def put(self, name: str, value: float, *labels: str) -> None:
        """Give a value of a gauge or a counter, with its labels' values in the catalogue's order.

        Raises:
            InvariantViolation: the catalogue does not have this metric, or not these labels.
        """
        family, label_count = self._places.get(name, (None, 0))
        if not isinstance(family, GaugeMetricFamily | CounterMetricFamily) or len(labels) != label_count:
            raise InvariantViolation("the catalogue has the metric and its labels", metric=name, labels=labels)
        family.add_metric(labels, value)

    def put_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        """Give a histogram.

        Raises:
            InvariantViolation: as `put` does.
        """
        family, label_count = self._places.get(name, (None, 0))
        if not isinstance(family, HistogramMetricFamily) or len(labels) != label_count:
            raise InvariantViolation("the catalogue has the histogram and its labels", metric=name, labels=labels)
        family.add_metric(labels, buckets=list(histogram.buckets()), sum_value=histogram.sum)


Source = Callable[[Sink], None]
"""Puts what it knows now; must be quick and must not wait."""


class _Collector(Collector):
    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources
        self._definitions = [
            definition for definition in CATALOGUE.values() if not definition.name.startswith(FOREIGN_PREFIXES)
        ]

    def collect(self) -> Iterator[Metric]:
        sink = Sink(self._definitions)
        for source in self._sources:
            source(sink)
        yield from sink.families


class Metrics:
    """All sources of one node, and what prometheus-client says of the process."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._registry: CollectorRegistry | None = None

    def add(self, source: Source) -> None:
        """Ask `source` at every scrape."""
        self._sources.append(source)

    def render(self) -> bytes:
        """All values in the Prometheus text format."""
        if self._registry is None:
            # Not before somebody asks: it looks into /proc, which a simulated node must not.
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(_Collector(self._sources))
            ProcessCollector(registry=self._registry)
            GCCollector(registry=self._registry)
        return generate_latest(self._registry)

    def page(self) -> tuple[int, str, bytes]:
        """What `/metrics` answers: status, content type, body."""
        return 200, CONTENT_TYPE, self.render()
