"""Each safeguard of commitment holds, and is gone when its ablation is applied."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest
from ablations_support import (
    LAG_MS,
    SETTINGS,
    TOPIC_ID,
    ControllerBench,
    append,
    flush,
    make_leader,
    make_log,
    make_partition,
    proves,
    proves_async,
    registration,
    report,
    stamped,
)

from logcluster.broker.fetch import FetchHandler
from logcluster.broker.partition import Partition
from logcluster.broker.replica_feed import ReplicaFeed
from logcluster.core.replication.in_sync import ProposalKind
from logcluster.model.errors import NotEnoughReplicas, OffsetNotAvailable, StorageFailure
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk
from logcluster.sim.disk import SimulatedDisk
from logcluster.wire.gen.logcluster.internal.v1 import replication_pb2
from logcluster.wire.gen.logcluster.v1 import data_pb2


def test_fsync_before_ack() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.lead(registration(), SETTINGS)
        append(partition)
        report(partition, 2, 1)
        assert partition.log.flushed_offset == 0
        return partition.high_watermark == 0

    proves("fsync-before-ack", is_kept)


def log_end_after_power_loss(disk: SimulatedDisk, seed: int) -> int:
    disk.crash(power_loss=True, rng=random.Random(seed))
    return make_log(disk).log_end_offset if disk.exists("/logs") else 0


def test_directory_sync() -> None:
    def is_kept() -> bool:
        ends = []
        for seed in range(10):
            disk = SimulatedDisk()
            log = make_log(disk)
            log.append(stamped(0))
            log.flush()
            assert log.flushed_offset == 1
            ends.append(log_end_after_power_loss(disk, seed))
        return min(ends) == 1

    proves("directory-sync", is_kept)


def test_failed_fsync_stops() -> None:
    def is_kept() -> bool:
        disk = SimulatedDisk()
        log = make_log(disk)
        log.append(stamped(0))
        disk.fail_next("sync", errno.EIO, path_contains=".log")
        try:
            log.flush()
        except StorageFailure:
            return log.failure is not None
        assert log.flushed_offset == 1 and log_end_after_power_loss(disk, 1) == 0, "it is said to be there, and is not"
        return False

    proves("failed-fsync-stops", is_kept)


def test_min_insync_replicas() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.lead(registration(in_sync=(1,)), SETTINGS)
        try:
            append(partition)
        except NotEnoughReplicas:
            return True
        flush(partition)
        assert partition.high_watermark == 1
        return False

    proves("min-insync-replicas", is_kept)


def test_high_watermark_freeze() -> None:
    def is_kept() -> bool:
        leader = make_leader(in_sync=(1,))
        leader.on_append(5, 0)
        leader.on_local_report(5, 0)
        return leader.high_watermark == 0

    proves("high-watermark-freeze", is_kept)


def test_high_watermark_covers_isr() -> None:
    def is_kept() -> bool:
        leader = make_leader()
        leader.on_append(5, 0)
        leader.on_local_report(5, 0)
        report(leader, 2, 5, now_ms=0)
        return leader.high_watermark == 0

    proves("high-watermark-covers-isr", is_kept)


def test_isr_shrink_after_commit() -> None:
    def is_kept() -> bool:
        leader = make_leader()
        report(leader, 3, 0, now_ms=0)
        leader.on_replica_gone(3, 0)
        leader.on_append(5, 0)
        now_ms = LAG_MS + 1
        report(leader, 2, 5, now_ms=now_ms)
        proposal = leader.propose(now_ms)
        assert proposal is not None and proposal.kind is ProposalKind.SHRINK
        leader.on_local_report(5, now_ms)
        return leader.high_watermark == 0

    proves("isr-shrink-after-commit", is_kept)


@pytest.mark.parametrize(("reported", "is_enough"), [(3, False), (5, False), (10, True)])
def test_who_may_join(reported: int, is_enough: bool) -> None:
    assert is_newcomer(reported) is is_enough


def is_newcomer(reported: int) -> bool:
    """The leader began with 10 records and knows that 4 of them are committed."""
    leader = make_leader(in_sync=(1, 2), log_end_offset=10, high_watermark=4)
    report(leader, 3, reported, now_ms=0)
    return leader.has_newcomer()


def test_isr_join_caught_up() -> None:
    proves("isr-join-caught-up", lambda: not is_newcomer(3))


def test_isr_join_after_epoch_start() -> None:
    proves("isr-join-after-epoch-start", lambda: not is_newcomer(5))


def test_progress_per_process() -> None:
    def is_kept_by_the_controller() -> bool:
        bench = ControllerBench()
        stale = bench.epoch(2)
        bench.stop(2)
        bench.join(2, incarnation=b"b")
        result = bench.alter((0, 1, 2), sender=0, built_on=bench.partition, epochs={2: stale})
        return result.error is not None

    def is_kept_by_the_leader() -> bool:
        leader = make_leader(in_sync=(1, 2))
        report(leader, 3, 0, now_ms=0, broker_epoch=12)
        return not leader.has_newcomer()

    def is_forgotten() -> bool:
        """Broker 3 held everything, and comes back with an empty disk."""
        leader = make_leader(in_sync=(1, 2), log_end_offset=10, high_watermark=10)
        report(leader, 3, 10, now_ms=0)
        leader.reset_replica(3, broker_epoch=14)
        report(leader, 3, 0, now_ms=0, broker_epoch=14)
        return leader.remotes[3].reported_offset == 0

    proves("progress-per-process", is_kept_by_the_controller)
    proves("progress-per-process", is_kept_by_the_leader)
    proves("progress-per-process", is_forgotten)


def feed_to(partition: Partition) -> ReplicaFeed:
    return ReplicaFeed(
        follower_id=2,
        follower_broker_epoch=12,
        broker_epoch=11,
        find_partition=lambda _topic_id, _index: partition,
        clock=SystemClock(),
        disk=InlineDisk(),
    )


def subscribe(feed: ReplicaFeed, *, position: int, last_epoch: int, leader_epoch: int) -> bool:
    """A follower says where it is; returns whether it was told to cut its log."""
    request = replication_pb2.PartitionSubscribe(
        handle=1,
        topic_id=TOPIC_ID,
        partition=0,
        leader_epoch=leader_epoch,
        fetch_offset=position,
        last_epoch=last_epoch,
        reported_offset=position,
    )
    feed.on_request(replication_pb2.ReplicateRequest(subscribe=[request], credit_bytes=1 << 20))
    message = feed.collect()
    assert message is not None
    return any(answer.HasField("diverging_epoch") for answer in message.partitions)


def led_with_epoch_two() -> Partition:
    """A leader of epoch 2 whose log holds two records of epoch 0."""
    log = make_log()
    log.append(stamped(0))
    log.append(stamped(1))
    partition = make_partition(log)
    partition.lead(registration(leader_epoch=2), SETTINGS)
    append(partition)
    return partition


async def test_reports_after_agreement() -> None:
    async def is_kept() -> bool:
        partition = led_with_epoch_two()
        assert subscribe(feed_to(partition), position=3, last_epoch=1, leader_epoch=2)
        assert partition.leader is not None
        return partition.leader.remotes[2].reported_offset == 0

    await proves_async("reports-after-agreement", is_kept)


async def test_truncation_before_data() -> None:
    async def is_kept() -> bool:
        return subscribe(feed_to(led_with_epoch_two()), position=3, last_epoch=1, leader_epoch=2)

    await proves_async("truncation-before-data", is_kept)


async def test_reads_below_high_watermark() -> None:
    async def is_kept() -> bool:
        partition = make_partition()
        partition.lead(registration(), SETTINGS)
        append(partition)
        return not (await fetch(partition)).batches

    await proves_async("reads-below-high-watermark", is_kept)


async def fetch(partition: Partition, **item: int) -> data_pb2.PartitionFetch:
    """What a consumer is answered."""

    class Finder:
        def partition(self, topic: str, index: int) -> Partition:
            return partition

    handler = FetchHandler(Finder(), clock=SystemClock(), disk=InlineDisk())
    request = data_pb2.FetchRequest(partitions=[data_pb2.FetchPartition(topic="orders", partition=0, **item)])
    async with asyncio.timeout(5):
        return (await handler.fetch(request)).partitions[0]


async def test_deposed_leader_judges_nobody() -> None:
    async def is_kept() -> bool:
        answer = await fetch(led_with_epoch_two(), fetch_offset=9, last_fetched_epoch=3)
        return answer.HasField("error") and not answer.HasField("diverging_epoch")

    await proves_async("deposed-leader-judges-nobody", is_kept)


def test_latest_offset_of_own_epoch() -> None:
    def is_kept() -> bool:
        try:
            make_leader(log_end_offset=10, high_watermark=4).latest_offset()
        except OffsetNotAvailable:
            return True
        return False

    proves("latest-offset-of-own-epoch", is_kept)
