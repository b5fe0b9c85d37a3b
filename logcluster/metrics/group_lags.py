"""How far the groups are behind that this broker coordinates: looked at every 15 seconds, shown at every scrape.

Lag is what `logcluster group lag` shows: records between the committed offset and the high watermark, and the age of
the first unread one. Both come from replicas hosted here, leader or follower; a partition whose log is elsewhere is
counted as unknown, never guessed. The age is that of the batch in which the first unread record is: one batch is read
per partition that is behind, off the event loop, at most `READS_PER_LOOK_MAX` in a look, and not again while the
committed offset stands still. What could not be read in time has no age in that look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.partition import Partition
from logcluster.core.coordinators.groups.group import Group
from logcluster.metrics.exposition import Sink
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicIdPartition
from logcluster.record.batch import read_header
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor

INTERVAL_MS: Final = 15_000
READS_PER_LOOK_MAX: Final = 100


class _Behind(NamedTuple):
    """A partition that a group has not read to its end."""

    key: tuple[str, TopicIdPartition]
    partition: Partition
    first_unread: int


@dataclass(slots=True)
class TopicLag:
    """One group in one topic."""

    records: int = 0
    oldest_ms: int | None = None
    """When the oldest first unread batch was made, by its producer's clock; None: nothing is unread, or not known."""
    unknown_count: int = 0


class GroupLags:
    """Looks at the groups of this broker; `run` it in a scope.

    Args:
        shards: every hosted one.
        find: the replica hosted here; raises a LogClusterError when there is none.
        topic_name: None when the topic is gone.
        series_max: groups times topics that are shown; of more, the ones that lag most.
    """

    def __init__(
        self,
        shards: Callable[[], Iterable[Shard]],
        *,
        find: Callable[[TopicIdPartition], Partition],
        topic_name: Callable[[TopicIdPartition], str | None],
        clock: Clock,
        disk: DiskExecutor,
        series_max: int,
    ) -> None:
        self._shards = shards
        self._find = find
        self._topic_name = topic_name
        self._clock = clock
        self._disk = disk
        self._series_max = series_max
        self._times_ms: dict[tuple[str, TopicIdPartition], tuple[int, int]] = {}
        """Where a group stood and when that batch was made, by group and partition."""
        self.lags: dict[tuple[str, str], TopicLag] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep_ms(INTERVAL_MS)

    async def look(self) -> None:
        """Look once. Cancellation: atomic."""
        lags: dict[tuple[str, str], TopicLag] = {}
        behind: list[tuple[TopicLag, _Behind]] = []
        for group in _groups(self._shards()):
            for key, offset in group.offsets.items():
                name = self._topic_name(key)
                if name is None:
                    continue
                lag = lags.setdefault((group.name, name), TopicLag())
                found = self._measure(group.name, key, offset.offset, lag)
                if found is not None:
                    behind.append((lag, found))
        times_ms = await self._times([found for _, found in behind])
        for lag, found in behind:
            time_ms = times_ms.get(found.key)
            if time_ms is not None:
                lag.oldest_ms = time_ms if lag.oldest_ms is None else min(lag.oldest_ms, time_ms)
        self.lags = lags

    def _measure(self, group: str, key: TopicIdPartition, committed: int, lag: TopicLag) -> _Behind | None:
        try:
            partition = self._find(key)
        except LogClusterError:
            lag.unknown_count += 1
            return None
        first_unread = max(committed, partition.log.log_start_offset)
        records = partition.high_watermark - first_unread
        if records <= 0:
            return None
        lag.records += records
        return _Behind((group, key), partition, first_unread)

    async def _times(self, behind: list[_Behind]) -> dict[tuple[str, TopicIdPartition], int]:
        """When the first unread batches were made; of those that could be read."""
        known = {
            item.key: self._times_ms[item.key]
            for item in behind
            if self._times_ms.get(item.key, (-1, 0))[0] == item.first_unread
        }
        unread = [item for item in behind if item.key not in known][:READS_PER_LOOK_MAX]
        if unread:
            times = await self._disk.run(lambda: [_batch_time_ms(item) for item in unread])
            for item, time_ms in zip(unread, times, strict=True):
                if time_ms is not None:
                    known[item.key] = (item.first_unread, time_ms)
        self._times_ms = known
        return {key: time_ms for key, (_, time_ms) in known.items()}

    def collect(self, sink: Sink) -> None:
        """Put what the last look found; ages are of now."""
        now_ms = self._clock.now_ms()
        ranked = sorted(self.lags.items(), key=lambda item: (-item[1].records, item[0]))
        sink.put("logcluster_series_left_out", max(0, len(ranked) - self._series_max), "group_topic")
        for (group, topic), lag in ranked[: self._series_max]:
            sink.put("logcluster_group_lag_records", lag.records, group, topic)
            sink.put("logcluster_group_lag_unknown", lag.unknown_count, group, topic)
            if lag.oldest_ms is not None:
                sink.put("logcluster_group_lag_seconds", max(0, now_ms - lag.oldest_ms) / 1000, group, topic)
            elif not lag.records:
                sink.put("logcluster_group_lag_seconds", 0, group, topic)


def _groups(shards: Iterable[Shard]) -> Iterable[Group]:
    """Groups in memory: those with members, and those that were used lately."""
    for shard in shards:
        if shard.state == "active":
            for held in shard.held.values():
                yield held.entity


def _batch_time_ms(item: _Behind) -> int | None:
    """The first timestamp of the batch that holds the first unread record. Blocks."""
    try:
        read = item.partition.log.read(item.first_unread, size_bytes_max=1, end_offset=item.partition.high_watermark)
    except LogClusterError:
        return None
    return read_header(read.data).base_timestamp_ms if read.data else None
