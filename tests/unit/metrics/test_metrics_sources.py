"""What sources read out of partitions, metadata and groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from test_partition_rim import SETTINGS, TOPIC_ID, append, flush, make_partition, registration, report

from logcluster.broker.flusher import Flusher
from logcluster.broker.partition import Partition
from logcluster.config import MetricsSection
from logcluster.core.coordinators.groups.records import GroupValue, OffsetValue
from logcluster.core.metadata.image import MetadataDelta
from logcluster.metrics.catalogue import CATALOGUE
from logcluster.metrics.exposition import Sink
from logcluster.metrics.group_lags import GroupLags
from logcluster.metrics.group_sources import GroupChanges, ShardLoads
from logcluster.metrics.log_sources import LogSource, PartitionSource
from logcluster.metrics.quorum_sources import MetadataChanges
from logcluster.model.errors import NotLeaderOrFollower
from logcluster.model.ids import TopicIdPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import build_batch
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk


def values(collect: Callable[[Sink], None]) -> dict[str, float]:
    """Values as `name{labels' values}`, without the logcluster_ before them."""
    sink = Sink(CATALOGUE.values())
    collect(sink)
    return {
        sample.name.removeprefix("logcluster_") + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in sink.families
        for sample in family.samples
    }


def hosting(*partitions: Partition) -> Any:
    return SimpleNamespace(
        partitions=partitions,
        failed_replicas={},
        flusher=Flusher(InlineDisk(), on_failure=lambda error: None),
    )


async def test_logs_and_replication_are_summed() -> None:
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    report(partition, 0)
    append(partition, b"a", b"b", b"c", producer=(7, 0, 0))
    flush(partition)
    report(partition, 1)
    found = values(LogSource(hosting(partition), SystemClock()).collect)
    assert found["partitions"] == found["partitions_led"] == 1
    assert found["log_size_bytes"] == found["log_appended_bytes_total leader"] == partition.log.size_bytes > 0
    assert found["log_appended_records_total leader"] == 3
    assert found["log_appended_records_total follower"] == 0
    assert found["replication_follower_lag_records 2"] == 2
    assert found["replication_uncommitted_records"] == 2
    assert found["producers"] == 1
    assert found["partitions_under_min_in_sync"] == found["partitions_under_replicated"] == 0


async def test_too_few_replicas_in_sync_show() -> None:
    partition, _ = make_partition()
    partition.lead(registration(in_sync=(1,)), SETTINGS)
    found = values(LogSource(hosting(partition), SystemClock()).collect)
    assert found["partitions_under_min_in_sync"] == found["partitions_under_replicated"] == 1
    assert found["partitions_at_min_in_sync"] == 0


async def test_a_follower_counts_what_it_copies() -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    partition.append_as_follower(
        stamp(build_batch([(5, None, b"v", []), (6, None, b"w", [])]), base_offset=0, leader_epoch=0)
    )
    found = values(LogSource(hosting(partition), SystemClock()).collect)
    assert found["log_appended_records_total follower"] == 2
    assert found["log_appended_bytes_total follower"] == partition.log.size_bytes
    assert found["log_appended_bytes_total leader"] == found["partitions_led"] == 0


@pytest.mark.parametrize(
    ("section", "is_shown"),
    [
        (MetricsSection(), True),
        (MetricsSection(per_partition_max=0), False),
        (MetricsSection(per_partition="always", per_partition_max=0), True),
        (MetricsSection(per_partition="never"), False),
    ],
)
async def test_partitions_are_shown_as_the_settings_say(section: MetricsSection, is_shown: bool) -> None:
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    report(partition, 0)
    append(partition, b"a")
    found = values(PartitionSource(lambda: [partition], section).collect)
    assert found["series_left_out partition"] == (0 if is_shown else 1)
    assert ("partition_log_end_offset orders 0" in found) == is_shown
    if is_shown:
        assert found["partition_log_end_offset orders 0"] == 1
        assert found["partition_high_watermark orders 0"] == 0
        assert found["partition_replicas_in_sync orders 0"] == found["partition_replicas orders 0"] == 2
        assert found["partition_follower_lag_records orders 0 2"] == 1
        assert found["partition_appended_records_total orders 0"] == 1


async def test_a_flush_is_timed() -> None:
    seconds: list[float] = []
    flusher = Flusher(InlineDisk(), on_failure=lambda error: None)
    flusher.on_flush = seconds.append
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    append(partition, b"a")
    flusher.mark_dirty(partition)
    await flusher._flush(flusher._take_group())
    assert len(seconds) == 1 and 0 <= seconds[0] < 5
    assert partition.log.flushed_offset == 1


@pytest.mark.parametrize(
    ("changes", "elections", "in_sync"),
    [
        ({"leader_id": 2, "leader_epoch": 1}, {"clean": 1, "unclean": 0}, {"expand": 0, "shrink": 0}),
        (
            {"leader_id": 2, "leader_epoch": 1, "is_recovering": True},
            {"clean": 0, "unclean": 1},
            {"expand": 0, "shrink": 0},
        ),
        (
            {"leader_id": None, "leader_epoch": 1, "in_sync_replicas": ()},
            {"clean": 0, "unclean": 0},
            {"expand": 0, "shrink": 1},
        ),
        ({"in_sync_replicas": (1,)}, {"clean": 0, "unclean": 0}, {"expand": 0, "shrink": 1}),
        ({"in_sync_replicas": (1, 2, 3)}, {"clean": 0, "unclean": 0}, {"expand": 1, "shrink": 0}),
    ],
)
def test_elections_and_in_sync_changes_are_told_apart(changes: Any, elections: Any, in_sync: Any) -> None:
    counts = MetadataChanges()
    before: Any = SimpleNamespace(partition=lambda topic_id, index: registration())
    counts.on_change(before, MetadataDelta(changed_partitions=(replace(registration(), **changes),)))
    assert (counts.elections, counts.in_sync_changes) == (elections, in_sync)


def test_a_new_partition_is_no_election() -> None:
    counts = MetadataChanges()
    before: Any = SimpleNamespace(partition=lambda topic_id, index: None)
    counts.on_change(before, MetadataDelta(changed_partitions=(registration(),)))
    assert counts.elections == {"clean": 0, "unclean": 0}


class Listening:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        self.heard.append((key, wake))

    def on_leadership_ended(self, index: int) -> None:
        self.heard.append(index)


def test_new_group_epochs_are_rebalances() -> None:
    listener = Listening()
    changes = GroupChanges(listener)
    for epoch, total in [(1, 1), (1, 1), (2, 2), (5, 5), (0, 5), (1, 6)]:
        changes.on_committed("g", SimpleNamespace(epoch=epoch), ("m",))
        assert changes.rebalance_count == total
    changes.on_leadership_ended(3)
    changes.on_committed("g", SimpleNamespace(epoch=9), ())
    assert changes.rebalance_count == 6, "whoever coordinated it before has counted"
    assert listener.heard[0] == ("g", ("m",)) and 3 in listener.heard


class SetClock:
    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep_ms(self, delay_ms: int) -> None:
        await asyncio.sleep(0)


def test_loads_are_timed_and_those_that_end_otherwise_are_not() -> None:
    clock = SetClock()
    loads = ShardLoads(clock)
    first: Any = _Shard("loading")
    second: Any = _Shard("loading")
    loads.on_state(first)
    clock.ms += 2_000
    loads.on_state(second)
    assert loads.longest_seconds() == 2.0
    first.state = "active"
    loads.on_state(first)
    second.state = "standby"
    loads.on_state(second)
    assert (loads.durations.count, loads.durations.sum, loads.longest_seconds()) == (1, 2.0, 0.0)


class _Shard:
    def __init__(self, state: str) -> None:
        self.state = state


class CountingDisk(InlineDisk):
    def __init__(self) -> None:
        self.runs = 0

    async def run(self, work: Callable[[], Any]) -> Any:
        self.runs += 1
        return work()


def group_at(offset: int, **more: Any) -> Any:
    key = TopicIdPartition(TOPIC_ID, 0)
    value = OffsetValue(offset=offset, leader_epoch=0, metadata="", commit_time_ms=0, topic="orders")
    entity = SimpleNamespace(name="billing", value=GroupValue(), offsets={key: value}, **more)
    return SimpleNamespace(state="active", held={"billing": SimpleNamespace(entity=entity)})


def lags_of(shard: Any, partition: Partition | None, clock: Any, disk: InlineDisk, series_max: int = 10) -> GroupLags:
    def find(key: TopicIdPartition) -> Partition:
        if partition is None:
            raise NotLeaderOrFollower
        return partition

    return GroupLags(
        lambda: [shard], find=find, topic_name=lambda key: "orders", clock=clock, disk=disk, series_max=series_max
    )


async def committed_partition() -> Partition:
    """Three batches of one record each, made at 5 ms after 1970, and committed."""
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    report(partition, 0)
    for value in (b"a", b"b", b"c"):
        append(partition, value)
    flush(partition)
    report(partition, 3)
    assert partition.high_watermark == 3
    return partition


async def test_lag_is_counted_in_records_and_in_time() -> None:
    partition, clock, disk = await committed_partition(), SetClock(), CountingDisk()
    shard = group_at(1)
    lags = lags_of(shard, partition, clock, disk)
    await lags.look()
    found = values(lags.collect)
    assert found["group_lag_records billing orders"] == 2
    assert found["group_lag_seconds billing orders"] == pytest.approx(0.995)
    assert found["group_lag_unknown billing orders"] == 0
    clock.ms += 10_000
    assert values(lags.collect)["group_lag_seconds billing orders"] == pytest.approx(10.995), "ages grow by themselves"
    await lags.look()
    assert disk.runs == 1, "the committed offset stood still"


async def test_a_group_that_has_read_everything_has_no_lag() -> None:
    disk = CountingDisk()
    lags = lags_of(group_at(3), await committed_partition(), SetClock(), disk)
    await lags.look()
    found = values(lags.collect)
    assert found["group_lag_records billing orders"] == found["group_lag_seconds billing orders"] == 0
    assert disk.runs == 0


async def test_a_log_that_is_elsewhere_is_unknown_and_not_guessed() -> None:
    lags = lags_of(group_at(1), None, SetClock(), InlineDisk())
    await lags.look()
    found = values(lags.collect)
    assert found["group_lag_unknown billing orders"] == 1
    assert found["group_lag_records billing orders"] == 0


async def test_more_groups_than_are_shown_are_counted() -> None:
    lags = lags_of(group_at(1), await committed_partition(), SetClock(), InlineDisk(), series_max=0)
    await lags.look()
    found = values(lags.collect)
    assert found["series_left_out group_topic"] == 1
    assert "group_lag_records billing orders" not in found
