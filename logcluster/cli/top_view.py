"""Two looks at a cluster, compared: the rows that `logcluster top` shows. Pure.

Invariant: what cannot be known is None, never a guess. A counter that began anew (its process restarted) has no rate
for one look; a partition that did not exist at the earlier look is counted from zero; a broker that does not answer
keeps what the metadata says of it and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from logcluster.cli import top_metrics as names
from logcluster.cli.connection import partition_state
from logcluster.cli.top_metrics import Metrics, event_loop_lag, increase, is_restart
from logcluster.client.lag import LagSample, LagTotal, LagTrend, PartitionLag, compare, total_lag
from logcluster.model.ids import TopicPartition

if TYPE_CHECKING:
    from logcluster.client.metadata_cache import BrokerFacts, TopicFacts


class EndOffset(NamedTuple):
    """Where a partition's log ended, and when that was seen (clock that does not go back)."""

    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLook:
    """One broker at one time; `metrics` is None when it gave none."""

    facts: BrokerFacts
    at_ms: int
    metrics: Metrics | None = None
    is_reachable: bool = True
    memory_bytes: int | None = None
    """Where it answered by other means than its metrics."""
    error: str | None = None
    """Why there are no metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLook:
    """One group at one time; `lags` is None when nobody said."""

    group: str
    state: str
    member_count: int
    at_ms: int
    lags: tuple[PartitionLag, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything that was seen at one time. `at_ms` is of a clock that does not go back, `time_ms` since 1970."""

    at_ms: int
    time_ms: int
    cluster_id: str
    controller_id: int | None
    brokers: Mapping[int, BrokerLook]
    topics: Mapping[str, TopicFacts]
    end_offsets: Mapping[TopicPartition, EndOffset] = field(default_factory=dict)
    groups: tuple[GroupLook, ...] = ()
    groups_error: str | None = None
    """Why the list of groups is old or missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRow:
    """One broker; rates are per second between the two looks."""

    broker_id: int
    state: str
    reachable: bool
    restarted: bool
    is_controller: bool
    leaders: int
    replicas: int
    in_bytes_per_second: float | None = None
    out_bytes_per_second: float | None = None
    produce_per_second: float | None = None
    fetch_per_second: float | None = None
    event_loop_lag_ms: float | None = None
    event_loop_lag_max_ms: float | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    disk_free_bytes: int | None = None
    disk_size_bytes: int | None = None
    log_directory_failed: bool | None = None
    replicas_failed: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCounts:
    """All partitions, internal ones included; `under_min_in_sync` is None when no broker gave metrics."""

    count: int
    offline: int
    under_min_in_sync: int | None
    under_replicated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRow:
    """What came into one topic per second; sums over the partitions of which it is known."""

    topic: str
    internal: bool
    partitions: int
    records_per_second: float | None
    bytes_per_second: float | None
    unknown_partitions: int
    """Without a rate of records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """How far one group is behind and where that is going."""

    group: str
    state: str
    members: int
    total: LagTotal
    trend: LagTrend


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Two looks, compared."""

    time_ms: int
    seconds: float
    """Between the looks."""
    cluster_id: str
    controller_id: int | None
    brokers: tuple[BrokerRow, ...]
    partitions: PartitionCounts
    topics: tuple[TopicRow, ...]
    """The hottest first."""
    groups: tuple[GroupRow, ...]
    """The furthest behind first."""
    groups_error: str | None = None


def compare_looks(before: Look, after: Look) -> View:
    """What happened between two looks, and how things are at the later one."""
    return View(
        time_ms=after.time_ms,
        seconds=max(0, after.at_ms - before.at_ms) / 1000,
        cluster_id=after.cluster_id,
        controller_id=after.controller_id,
        brokers=tuple(
            _broker_row(before.brokers.get(broker_id), broker, after)
            for broker_id, broker in sorted(after.brokers.items())
        ),
        partitions=_partition_counts(after),
        topics=tuple(sorted((_topic_row(before, after, facts) for facts in after.topics.values()), key=_coolness)),
        groups=tuple(_group_rows(before.groups, after.groups)),
        groups_error=after.groups_error,
    )


def _broker_row(before: BrokerLook | None, after: BrokerLook, look: Look) -> BrokerRow:
    broker_id = after.facts.broker_id
    partitions = [partition for topic in look.topics.values() for partition in topic.partitions]
    now = after.metrics or Metrics()
    then = before.metrics if before is not None and before.metrics is not None else None
    elapsed_ms = 0 if before is None else after.at_ms - before.at_ms

    def rate(name: str, **labels: str) -> float | None:
        return None if then is None else _per_second(increase(then, now, name, **labels), elapsed_ms)

    mean_seconds, worst_seconds = (None, None) if then is None else event_loop_lag(then, now)
    cpu, memory, failed = rate(names.CPU_SECONDS), now.total(names.MEMORY), now.total(names.DISK_FAILED)
    return BrokerRow(
        broker_id=broker_id,
        state=after.facts.state,
        reachable=after.is_reachable,
        restarted=then is not None and is_restart(then, now),
        is_controller=broker_id == look.controller_id,
        leaders=sum(partition.leader_id == broker_id for partition in partitions),
        replicas=sum(broker_id in partition.replicas for partition in partitions),
        in_bytes_per_second=rate(names.REQUEST_BYTES, api="Produce"),
        out_bytes_per_second=rate(names.RESPONSE_BYTES, api="Fetch"),
        produce_per_second=rate(names.REQUESTS, api="Produce"),
        fetch_per_second=rate(names.REQUESTS, api="Fetch"),
        event_loop_lag_ms=None if mean_seconds is None else mean_seconds * 1000,
        event_loop_lag_max_ms=None if worst_seconds is None else worst_seconds * 1000,
        cpu_percent=None if cpu is None else cpu * 100,
        memory_bytes=after.memory_bytes if memory is None else round(memory),
        disk_free_bytes=_whole(now.total(names.DISK_FREE)),
        disk_size_bytes=_whole(now.total(names.DISK_SIZE)),
        log_directory_failed=None if failed is None else failed > 0,
        replicas_failed=_whole(now.total(names.REPLICAS_FAILED)),
        error=after.error,
    )


def _per_second(grown: float | None, elapsed_ms: int) -> float | None:
    return None if grown is None or elapsed_ms <= 0 else grown * 1000 / elapsed_ms


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _partition_counts(look: Look) -> PartitionCounts:
    states = [partition_state(partition) for topic in look.topics.values() for partition in topic.partitions]
    said = [broker.metrics.total(names.UNDER_MIN_IN_SYNC) for broker in look.brokers.values() if broker.metrics]
    known = [count for count in said if count is not None]
    return PartitionCounts(
        count=len(states),
        offline=states.count("offline"),
        under_min_in_sync=round(sum(known)) if known else None,
        under_replicated=states.count("under-replicated"),
    )


def _topic_row(before: Look, after: Look, facts: TopicFacts) -> TopicRow:
    earlier = before.topics.get(facts.name)
    if earlier is not None and earlier.topic_id != facts.topic_id:
        earlier = None  # deleted, and created again
    leaders = {} if earlier is None else {found.partition: found.leader_id for found in earlier.partitions}
    records: list[float | None] = []
    bytes_in: list[float | None] = []
    for partition in facts.partitions:
        name = TopicPartition(facts.name, partition.partition)
        is_new = partition.partition not in leaders
        records.append(_record_rate(before, after, name, is_new=is_new))
        stayed = is_new or leaders[partition.partition] == partition.leader_id
        bytes_in.append(_byte_rate(before, after, name, partition.leader_id, is_new=is_new) if stayed else None)
    return TopicRow(
        topic=facts.name,
        internal=facts.is_internal,
        partitions=len(facts.partitions),
        records_per_second=_sum_of_known(records),
        bytes_per_second=_sum_of_known(bytes_in),
        unknown_partitions=records.count(None),
    )


def _record_rate(before: Look, after: Look, name: TopicPartition, *, is_new: bool) -> float | None:
    """By end offsets, which outlive restarts and changes of leader."""
    later = after.end_offsets.get(name)
    earlier = EndOffset(0, before.at_ms) if is_new else before.end_offsets.get(name)
    if later is None or earlier is None or later.offset < earlier.offset:
        return None
    return _per_second(later.offset - earlier.offset, later.at_ms - earlier.at_ms)


def _byte_rate(before: Look, after: Look, name: TopicPartition, leader_id: int | None, *, is_new: bool) -> float | None:
    """By what the leader appended, if it led and ran at both looks."""
    now = after.brokers.get(leader_id) if leader_id is not None else None
    if now is None or now.metrics is None:
        return None
    later = now.metrics.partition(names.PARTITION_BYTES, *name)
    if is_new:
        return _per_second(later, now.at_ms - before.at_ms)
    then = before.brokers.get(now.facts.broker_id)
    if then is None or then.metrics is None or is_restart(then.metrics, now.metrics):
        return None
    earlier = then.metrics.partition(names.PARTITION_BYTES, *name)
    if earlier is None or later is None or later < earlier:
        return None
    return _per_second(later - earlier, now.at_ms - then.at_ms)


def _sum_of_known(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _coolness(row: TopicRow) -> tuple[float, float, str]:
    return -(row.records_per_second or 0), -(row.bytes_per_second or 0), row.topic


def _group_rows(before: Sequence[GroupLook], after: Sequence[GroupLook]) -> list[GroupRow]:
    earlier = {group.group: group for group in before}
    rows = []
    for group in after:
        lags = group.lags or ()
        now = LagSample(at_ms=group.at_ms, lags=lags)
        seen = earlier.get(group.group)
        then = now if seen is None or seen.lags is None else LagSample(at_ms=seen.at_ms, lags=seen.lags)
        rows.append(
            GroupRow(
                group=group.group,
                state=group.state,
                members=group.member_count,
                total=total_lag(lags),
                trend=compare(then, now).trend,
            )
        )
    return sorted(rows, key=lambda row: (-(row.total.records or 0), row.group))
