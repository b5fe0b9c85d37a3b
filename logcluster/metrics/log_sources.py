"""Logs and replication of the hosted partitions, as a scrape reads them: sums, and on wish each partition.

Series per partition multiply by brokers and metrics; above `metrics.per_partition_max` replicas there are none,
unless `metrics.per_partition` says "always". Of a leader's followers the farthest one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from logcluster.broker.partition import Partition
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.config import MetricsSection
from logcluster.core.replication.in_sync import ReplicaProgress
from logcluster.core.replication.leader import LeaderState
from logcluster.metrics.exposition import Sink
from logcluster.metrics.histogram import Histogram
from logcluster.metrics.running_totals import RunningTotals
from logcluster.runtime.clock import Clock


def _counters(partition: Partition) -> tuple[int, ...]:
    return (
        partition.appended_size_bytes,
        partition.appended_record_count,
        partition.replicated_size_bytes,
        partition.replicated_record_count,
        partition.producers.evicted_count,
        partition.producers.expired_count,
    )


class LogSource:
    """Sums over all hosted replicas."""

    def __init__(self, replicas: ReplicaManager, clock: Clock) -> None:
        self._replicas = replicas
        self._clock = clock
        self._totals: RunningTotals[Partition] = RunningTotals(_counters)
        self.flushes = Histogram()

    def collect(self, sink: Sink) -> None:
        """Put them."""
        partitions = list(self._replicas.partitions)
        led = [partition.leader for partition in partitions if partition.leader is not None]
        self._collect_logs(sink, partitions)
        self._collect_totals(sink, partitions)
        sink.put("logcluster_partitions", len(partitions))
        sink.put("logcluster_partitions_led", len(led))
        _collect_in_sync(sink, led)
        _collect_followers(sink, led, self._clock.monotonic_ms())

    def _collect_logs(self, sink: Sink, partitions: Iterable[Partition]) -> None:
        size_bytes = segments = producers = waiting = 0
        for partition in partitions:
            size_bytes += partition.log.size_bytes
            segments += partition.log.segment_count
            producers += len(partition.producers)
            waiting += len(partition.waiters)
        sink.put("logcluster_log_size_bytes", size_bytes)
        sink.put("logcluster_log_segments", segments)
        sink.put("logcluster_log_replicas_failed", len(self._replicas.failed_replicas))
        sink.put("logcluster_log_flushes_waiting", self._replicas.flusher.dirty_count)
        sink.put_histogram("logcluster_log_flush_duration_seconds", self.flushes)
        sink.put("logcluster_producers", producers)
        sink.put("logcluster_produce_waiting", waiting)

    def _collect_totals(self, sink: Sink, partitions: Iterable[Partition]) -> None:
        totals = self._totals.look(partitions) or [0] * 6
        sink.put("logcluster_log_appended_bytes_total", totals[0], "leader")
        sink.put("logcluster_log_appended_records_total", totals[1], "leader")
        sink.put("logcluster_log_appended_bytes_total", totals[2], "follower")
        sink.put("logcluster_log_appended_records_total", totals[3], "follower")
        sink.put("logcluster_producers_evicted_total", totals[4])
        sink.put("logcluster_producers_expired_total", totals[5])


def _collect_in_sync(sink: Sink, led: list[LeaderState]) -> None:
    under_replicated = under_min = at_min = uncommitted = 0
    for leader in led:
        in_sync = len(leader.in_sync_replicas)
        under_replicated += in_sync < len(leader.replicas)
        under_min += leader.is_under_min
        at_min += in_sync == leader.effective_min_in_sync_replicas and len(leader.replicas) > in_sync
        uncommitted = max(uncommitted, leader.log_end_offset - leader.high_watermark)
    sink.put("logcluster_partitions_under_replicated", under_replicated)
    sink.put("logcluster_partitions_under_min_in_sync", under_min)
    sink.put("logcluster_partitions_at_min_in_sync", at_min)
    sink.put("logcluster_replication_uncommitted_records", uncommitted)


def _collect_followers(sink: Sink, led: list[LeaderState], now_ms: int) -> None:
    records: dict[int, int] = {}
    lag_ms: dict[int, int] = {}
    for leader in led:
        for remote in leader.remotes.values():
            broker_id = remote.broker_id
            records[broker_id] = max(records.get(broker_id, 0), _missing(leader, remote))
            if remote.last_caught_up_ms is not None and _missing(leader, remote):
                lag_ms[broker_id] = max(lag_ms.get(broker_id, 0), now_ms - remote.last_caught_up_ms)
            else:
                lag_ms.setdefault(broker_id, 0)
    for broker_id, count in sorted(records.items()):
        sink.put("logcluster_replication_follower_lag_records", count, str(broker_id))
        sink.put("logcluster_replication_follower_lag_seconds", lag_ms[broker_id] / 1000, str(broker_id))


def _missing(leader: LeaderState, remote: ReplicaProgress) -> int:
    """Records that the leader has and the follower did not report; what retention has deleted is not among them."""
    return max(0, leader.log_end_offset - max(remote.reported_offset, remote.log_start_offset))


class PartitionSource:
    """Every hosted replica by itself, or none: see the top of the file."""

    def __init__(self, partitions: Callable[[], Iterable[Partition]], section: MetricsSection) -> None:
        self._partitions = partitions
        self._section = section

    def collect(self, sink: Sink) -> None:
        """Put them."""
        partitions = list(self._partitions())
        if not self._is_wanted(len(partitions)):
            sink.put("logcluster_series_left_out", len(partitions), "partition")
            return
        sink.put("logcluster_series_left_out", 0, "partition")
        for partition in partitions:
            _collect_partition(sink, partition)

    def _is_wanted(self, count: int) -> bool:
        if self._section.per_partition == "auto":
            return count <= self._section.per_partition_max
        return self._section.per_partition == "always"


def _collect_partition(sink: Sink, partition: Partition) -> None:
    labels = (partition.topic, str(partition.index))
    log, leader, epoch = partition.log, partition.leader, partition.leader_epoch
    appended = partition.appended_size_bytes + partition.replicated_size_bytes
    records = partition.appended_record_count + partition.replicated_record_count
    sink.put("logcluster_partition_log_start_offset", log.log_start_offset, *labels)
    sink.put("logcluster_partition_log_end_offset", log.log_end_offset, *labels)
    sink.put("logcluster_partition_high_watermark", partition.high_watermark, *labels)
    sink.put("logcluster_partition_size_bytes", log.size_bytes, *labels)
    sink.put("logcluster_partition_segments", log.segment_count, *labels)
    sink.put("logcluster_partition_leader", float(leader is not None), *labels)
    sink.put("logcluster_partition_appended_bytes_total", appended, *labels)
    sink.put("logcluster_partition_appended_records_total", records, *labels)
    if epoch is not None:
        sink.put("logcluster_partition_leader_epoch", epoch, *labels)
    if leader is None:
        return
    sink.put("logcluster_partition_replicas", len(leader.replicas), *labels)
    sink.put("logcluster_partition_replicas_in_sync", len(leader.in_sync_replicas), *labels)
    for remote in leader.remotes.values():
        name = "logcluster_partition_follower_lag_records"
        sink.put(name, _missing(leader, remote), *labels, str(remote.broker_id))
