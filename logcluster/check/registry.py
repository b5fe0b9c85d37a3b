"""What a check is, and where its findings go.

Owns the shape that lets a new family of checks be one new file: a module with a tuple `CHECKS`, each a function over
the Index with the rules it may report, listed in checker.py. Invariants: a finding names a declared rule; every rule
says in one line why its anomaly is illegal; what is legal is a metric, never an anomaly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from logcluster.check.entries import Index


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that must not happen, with the indexes of the events that show it, in order.

    `offsets` are those it is about; reports print only the records around them.
    """

    name: str
    key: str
    detail: str
    events: tuple[int, ...]
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What a run promised, and how much to print.

    `drain_required`: a history without a final drain fails, because tail loss could not have been seen.
    `compacted_topics`: records of these may vanish while newer ones of their key exist, so absence proves nothing.
    `tolerated`: names that are reported apart and do not fail (a run beyond the promised faults may lose, not lie).
    `unavailability_max_ms`, `realtime_lag_max_ms`: None measures only. `examples_max`: anomalies kept per name and key;
    the rest is counted.
    """

    drain_required: bool = False
    compacted_topics: frozenset[str] = frozenset()
    tolerated: frozenset[str] = frozenset()
    unavailability_max_ms: int | None = None
    realtime_lag_max_ms: int | None = None
    examples_max: int = 8


@dataclass
class Findings:
    """Collects anomalies (bounded, with exact counts) and metrics."""

    options: CheckOptions
    rules: dict[str, str]
    anomalies: list[Anomaly] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    _kept: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, name: str, key: str, detail: str, events: Iterable[int], offsets: Iterable[int | None] = ()) -> None:
        """Reports an anomaly. Raises KeyError for a name that no check declares."""
        if name not in self.rules:
            raise KeyError(f"no check declares the anomaly {name!r}")
        self.counts[name] = self.counts.get(name, 0) + 1
        kept = self._kept.get((name, key), 0)
        if kept >= self.options.examples_max:
            return
        self._kept[name, key] = kept + 1
        shown = tuple(sorted({offset for offset in offsets if offset is not None}))
        self.anomalies.append(Anomaly(name, key, detail, tuple(sorted(set(events))), shown))


@dataclass(frozen=True, slots=True)
class Check:
    """A function over the index and the anomalies it may report: name -> why that is illegal."""

    run: Callable[[Index, Findings], None]
    rules: dict[str, str]
