"""The catalogue of a node's metrics, read when somebody scrapes: nothing is counted twice on the hot path.

Components keep plain integers of their own; a `Source` turns them into samples at scrape time. Names carry their
unit. Exposition is prometheus-client's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector


class Sample(NamedTuple):
    """One value now; `name` ends in its unit, and in `_total` when it only grows."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


Source = Callable[[], Iterable[Sample]]


class _Collector(Collector):
    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for source in self._sources:
            for sample in source():
                family = families.get(sample.name)
                if family is None:
                    kind = CounterMetricFamily if sample.name.endswith("_total") else GaugeMetricFamily
                    family = kind(sample.name, sample.help, labels=[name for name, _ in sample.labels])
                    families[sample.name] = family
                family.add_metric([value for _, value in sample.labels], sample.value)  # type: ignore[attr-defined]
        yield from families.values()


class Metrics:
    """All sources of one node."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self._sources))

    def add(self, source: Source) -> None:
        """Ask `source` at every scrape; it must be quick and must not wait."""
        self._sources.append(source)

    def render(self) -> bytes:
        """All samples in the Prometheus text format."""
        return generate_latest(self._registry)
