"""From operations, faults and states to figures: pure, the same facts for the page, the pictures and result.json.

Definitions. A bucket is an equal part of the run; operations count in the bucket of their end (never completed: of
their beginning), latencies of acknowledged writes in that of their beginning: what somebody who asked then had to wait.
Availability is judged second by second from the run's beginning: a second of a partition is good when every probe that
began in it was acknowledged within `PROBE_NS_MAX`, bad when one was not, or when a probe was under way all through it;
seconds in which nobody probed do not count. Percentiles are by nearest rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos.report.cluster import Fault, PartitionHistory, PartitionStates
from chaos.report.gaps import Gap, GapBounds, KindFigures, figures_by_kind, find_gaps, percentile
from chaos.report.operations import Operation, Operations

SECOND_NS = 1_000_000_000
PROBE_NS_MAX = SECOND_NS
_BUCKETS_MAX = 300
_BUCKET_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True, slots=True)
class Scale:
    """The run's time, cut into `count` buckets of `width_ns`."""

    begin_ns: int
    end_ns: int
    width_ns: int
    count: int

    def bucket_of(self, t_ns: int) -> int:
        """Times outside of the run count in its first or last bucket."""
        return min(self.count - 1, max(0, (t_ns - self.begin_ns) // self.width_ns))


@dataclass(slots=True)
class Tally:
    """Outcomes and latencies (of acknowledged operations, microseconds)."""

    ok: int = 0
    fail: int = 0
    unknown: int = 0
    never_completed: int = 0
    latencies_us: list[int] = field(default_factory=list)
    ok_per_bucket: list[int] = field(default_factory=list)

    def add(self, operation: Operation, bucket: int) -> None:
        """Count one operation that ended in `bucket`."""
        if operation.outcome == "ok":
            self.ok += 1
            self.ok_per_bucket[bucket] += 1
            self.latencies_us.append((operation.end_ns - operation.begin_ns) // 1000)
        elif operation.outcome == "fail":
            self.fail += 1
        else:
            self.unknown += 1
            self.never_completed += operation.outcome == "open"

    def latency_us(self, share: float) -> int | None:
        """A percentile; 1.0 is the longest. Call after `freeze`."""
        return percentile(self.latencies_us, share)

    def freeze(self) -> None:
        """Order the latencies, once all operations are counted."""
        self.latencies_us.sort()


@dataclass
class PartitionFigures:
    """One partition. `good` and `bad` are seconds by probes; None for the longest gap when nobody wrote."""

    key: str
    tally: Tally
    good: int = 0
    bad: int = 0
    bad_seconds: list[int] = field(default_factory=list)
    good_seconds: list[int] = field(default_factory=list)
    longest_gap_ns: int | None = None
    history: PartitionHistory = field(default_factory=PartitionHistory)

    @property
    def availability(self) -> float | None:
        """Share of good seconds; None when nobody probed."""
        return self.good / (self.good + self.bad) if self.good + self.bad else None


@dataclass
class Figures:
    """All of a run. Series have one entry per bucket of `scale`."""

    scale: Scale
    events: int
    is_drained: bool
    writes_ok: list[int]
    writes_fail: list[int]
    writes_unknown: list[int]
    records_read: list[int]
    latency_us: dict[str, list[int | None]]
    """Of writes: "p50", "p99", "max"."""
    clients: dict[tuple[str, str], Tally]
    """By client and operation."""
    partitions: dict[str, PartitionFigures]
    gaps: list[Gap]
    kinds: list[KindFigures]
    replica_counts: list[dict[int, float]]
    """Per bucket: size of in-sync replicas (0: no leader) -> how many partitions had it, on the average of its time."""
    leader_changes: int
    controller_changes: int

    @property
    def availabilities(self) -> list[float]:
        """Of probed partitions, worst first."""
        return sorted(part.availability for part in self.partitions.values() if part.availability is not None)

    @property
    def longest_gap(self) -> Gap | None:
        return max(self.gaps, key=lambda gap: (gap.end_ns - gap.begin_ns, gap.key), default=None)

    def total(self, name: str) -> int:
        """Sum of "ok", "fail" or "unknown" over all clients and operations."""
        return sum(getattr(tally, name) for tally in self.clients.values())


def make_scale(begin_ns: int, end_ns: int) -> Scale:
    """Buckets of a round number of seconds, at most `_BUCKETS_MAX`."""
    seconds = max(1, -(-(end_ns - begin_ns) // SECOND_NS))
    width = next((width for width in _BUCKET_SECONDS if seconds <= width * _BUCKETS_MAX), -(-seconds // _BUCKETS_MAX))
    return Scale(begin_ns, end_ns, width * SECOND_NS, -(-seconds // width))


def analyse(
    operations: Operations,
    faults: Sequence[Fault],
    states: PartitionStates,
    *,
    begin_ns: int | None = None,
    end_ns: int | None = None,
    gap_bounds: GapBounds | None = None,
) -> Figures:
    """All figures; beginning and end default to those of the history, and never cut it off."""
    first_ns, last_ns = operations.first_ns or 0, operations.last_ns or 0
    begin_ns = first_ns if begin_ns is None else begin_ns
    end_ns = max(last_ns, last_ns if end_ns is None else end_ns, begin_ns + 1)
    scale = make_scale(begin_ns, end_ns)
    clients, series = _count(operations.items, scale)
    partitions, gaps = _partitions(operations.items, faults, states, scale)
    return Figures(
        scale=scale,
        events=operations.count,
        is_drained=operations.is_drained,
        writes_ok=series["ok"],
        writes_fail=series["fail"],
        writes_unknown=series["unknown"],
        records_read=series["read"],
        latency_us=_latencies(operations.items, scale),
        clients=clients,
        partitions=partitions,
        gaps=gaps,
        kinds=figures_by_kind(gaps, faults, gap_bounds or GapBounds()),
        replica_counts=_replica_counts(states, scale),
        leader_changes=sum(len(part.leader_changes_ns) for part in states.partitions.values()),
        controller_changes=states.controller_changes,
    )


def _bucket_of(operation: Operation, scale: Scale) -> int:
    return scale.bucket_of(operation.begin_ns if operation.outcome == "open" else operation.end_ns)


def _count(items: Iterable[Operation], scale: Scale) -> tuple[dict[tuple[str, str], Tally], dict[str, list[int]]]:
    clients: dict[tuple[str, str], Tally] = {}
    series = {name: [0] * scale.count for name in ("ok", "fail", "unknown", "read")}
    for operation in items:
        bucket = _bucket_of(operation, scale)
        name = (operation.client, operation.f)
        tally = clients.get(name)
        if tally is None:
            tally = clients[name] = Tally(ok_per_bucket=[0] * scale.count)
        tally.add(operation, bucket)
        if operation.keys:
            series["unknown" if operation.is_unknown else operation.outcome][bucket] += 1
        elif operation.f == "poll" and operation.outcome == "ok":
            series["read"][bucket] += operation.records
    for tally in clients.values():
        tally.freeze()
    return dict(sorted(clients.items())), series


def _latencies(items: Iterable[Operation], scale: Scale) -> dict[str, list[int | None]]:
    buckets: list[list[int]] = [[] for _ in range(scale.count)]
    for operation in items:
        if operation.keys and operation.outcome == "ok":
            buckets[scale.bucket_of(operation.begin_ns)].append((operation.end_ns - operation.begin_ns) // 1000)
    for bucket in buckets:
        bucket.sort()
    shares = {"p50": 0.50, "p99": 0.99, "max": 1.0}
    return {name: [percentile(bucket, share) for bucket in buckets] for name, share in shares.items()}


def _partitions(
    items: Iterable[Operation], faults: Sequence[Fault], states: PartitionStates, scale: Scale
) -> tuple[dict[str, PartitionFigures], list[Gap]]:
    writes: dict[str, list[Operation]] = {key: [] for key in states.partitions}
    for operation in items:
        for key in operation.keys:
            writes.setdefault(key, []).append(operation)
    partitions: dict[str, PartitionFigures] = {}
    gaps: list[Gap] = []
    for key in sorted(writes, key=_natural):
        part = partitions[key] = PartitionFigures(key, Tally(ok_per_bucket=[0] * scale.count))
        part.history = states.partitions.get(key, part.history)
        for operation in writes[key]:
            part.tally.add(operation, _bucket_of(operation, scale))
        part.tally.freeze()
        _judge_seconds(part, [write for write in writes[key] if write.is_probe], scale)
        if writes[key]:
            found, part.longest_gap_ns = find_gaps(key, writes[key], faults, scale.end_ns)
            gaps.extend(found)
    gaps.sort(key=lambda gap: (gap.begin_ns, gap.key))
    return partitions, gaps


def _judge_seconds(part: PartitionFigures, probes: Iterable[Operation], scale: Scale) -> None:
    good: set[int] = set()
    bad: set[int] = set()
    for probe in probes:
        second = (probe.begin_ns - scale.begin_ns) // SECOND_NS
        if probe.outcome == "ok" and probe.end_ns - probe.begin_ns <= PROBE_NS_MAX:
            good.add(second)
            continue
        end_ns = scale.end_ns if probe.outcome == "open" else probe.end_ns
        bad.update(range(second, max(second + 1, (end_ns - scale.begin_ns) // SECOND_NS)))
    good -= bad
    part.good, part.bad = len(good), len(bad)
    part.good_seconds, part.bad_seconds = sorted(good), sorted(bad)


def _replica_counts(states: PartitionStates, scale: Scale) -> list[dict[int, float]]:
    counts: list[dict[int, float]] = [{} for _ in range(scale.count)]
    for history in states.partitions.values():
        ends_ns = [*history.times_ns[1:], scale.end_ns]
        for size, begin_ns, end_ns in zip(history.sizes, history.times_ns, ends_ns, strict=True):
            begin_ns = max(begin_ns, scale.begin_ns)
            while begin_ns < end_ns:
                bucket = scale.bucket_of(begin_ns)
                until_ns = min(end_ns, scale.begin_ns + (bucket + 1) * scale.width_ns)
                if until_ns <= begin_ns:
                    break
                counts[bucket][size] = counts[bucket].get(size, 0.0) + (until_ns - begin_ns) / scale.width_ns
                begin_ns = until_ns
    return counts


def _natural(key: str) -> tuple[str, int, str]:
    """Partitions in order of their number, not of its digits."""
    topic, _, number = key.rpartition("-")
    return (topic, int(number), "") if number.isdecimal() else (key, -1, key)
