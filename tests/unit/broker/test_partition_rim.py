"""One partition with a real log on a simulated disk: appends, waiters, roles, producers."""

from __future__ import annotations

import asyncio

import pytest

from logcluster.broker.commit_waiters import CommitWaiters, Notify
from logcluster.broker.partition import Partition
from logcluster.broker.producer_recovery import load_producers
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import (
    CorruptMessage,
    Disconnected,
    FencedLeaderEpoch,
    LogClusterError,
    NotEnoughReplicas,
    NotLeaderOrFollower,
    RequestTimedOut,
    UnknownLeaderEpoch,
)
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import iterate_headers, stamp, validate_batch
from logcluster.record.builder import build_batch
from logcluster.runtime.clock import SystemClock
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.tail_cache import TailCache

TOPIC_ID = TopicId(b"t" * 16)


class FakeHost:
    """Notes what a partition asks for."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.dirty: list[Partition] = []
        self.isr_requests: list[Partition] = []
        self.watched: list[Partition] = []
        self.flushed: list[Partition] = []

    def mark_dirty(self, partition: Partition) -> None:
        self.dirty.append(partition)

    def request_isr_change(self, partition: Partition) -> None:
        self.isr_requests.append(partition)

    def watch_waiters(self, partition: Partition) -> None:
        self.watched.append(partition)

    def on_follower_flushed(self, partition: Partition) -> None:
        self.flushed.append(partition)


class FakeSlot:
    """A follower's subscription that remembers."""

    def __init__(self, follower_id: int) -> None:
        self.follower_id = follower_id
        self.appends = 0
        self.high_watermarks = 0
        self.ended: list[LogClusterError] = []

    def on_append(self) -> None:
        self.appends += 1

    def on_high_watermark(self) -> None:
        self.high_watermarks += 1

    def end(self, error: LogClusterError) -> None:
        self.ended.append(error)


def make_log(disk: SimulatedDisk | None = None, *, segment_bytes: int = 1 << 20) -> PartitionLog:
    disk = disk or SimulatedDisk()
    disk.make_dir("/logs")
    return PartitionLog.open(
        disk,
        "/logs",
        PartitionMetadata(TopicPartition("orders", 0), TOPIC_ID),
        context=RecoveryContext(),
        config=LogConfig(segment_bytes=segment_bytes),
        tail_cache=TailCache(),
    )


def make_partition(log: PartitionLog | None = None, **config: str) -> tuple[Partition, FakeHost]:
    host = FakeHost()
    overrides = {key.replace("_", "."): value for key, value in config.items()}
    return Partition(log or make_log(), TopicConfig.from_overrides(overrides), ProducerStates(), host), host


def registration(
    leader_id: int | None = 1, *, leader_epoch: int = 0, partition_epoch: int = 0, in_sync: tuple[int, ...] = (1, 2)
) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TOPIC_ID,
        partition=0,
        replicas=(1, 2),
        in_sync_replicas=in_sync,
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=leader_id,
        leader_epoch=leader_epoch,
        partition_epoch=partition_epoch,
        is_recovering=False,
    )


SETTINGS = LeaderSettings(
    local_broker_id=1,
    local_broker_epoch=11,
    min_in_sync_replicas=2,
    replica_lag_time_ms_max=10_000,
    active_broker_epochs={1: 11, 2: 12},
)


def append(partition: Partition, *values: bytes, producer: tuple[int, int, int] = (-1, -1, -1)) -> int:
    batch = build_batch(
        [(5, None, value, []) for value in values],
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
    )
    header = validate_batch(batch, size_bytes_max=1 << 20)
    return partition.append_as_leader(batch, header, acks_all=True).next_offset


def answer_to(future: asyncio.Future[None]) -> Notify:
    def notify(error: LogClusterError | None) -> None:
        if future.done():
            return  # whoever waited gave up
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    return notify


def add(waiters: CommitWaiters, next_offset: int, deadline_ms: int) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.add(next_offset, deadline_ms, answer_to(future))
    return future


def wait_committed(partition: Partition, next_offset: int, deadline_ms: int) -> asyncio.Future[None] | None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return future if partition.when_committed(next_offset, deadline_ms, answer_to(future)) else None


def report(partition: Partition, offset: int) -> None:
    partition.on_replica_report(2, broker_epoch=12, reported_offset=offset, log_end_offset=offset, log_start_offset=0)


def flush(partition: Partition) -> None:
    partition.log.flush()
    partition.on_flushed()


async def test_append_counts_only_once_it_is_on_disk() -> None:
    partition, host = make_partition()
    partition.lead(registration(), SETTINGS)
    report(partition, 0)
    waiting = wait_committed(partition, append(partition, b"a"), 10**12)
    assert waiting is not None and host.dirty == [partition] and host.watched == [partition]
    report(partition, 1)
    assert not waiting.done(), "the leader's own copy is not on disk"
    flush(partition)
    assert waiting.done()
    assert partition.high_watermark == partition.log.high_watermark == 1
    assert wait_committed(partition, 1, 0) is None
    partition.check()


async def test_followers_are_told_of_appends_and_of_the_high_watermark() -> None:
    partition, _ = make_partition(flush_mode="async")
    partition.lead(registration(), SETTINGS)
    slot = FakeSlot(2)
    partition.slots[2] = slot
    append(partition, b"a")
    assert (slot.appends, slot.high_watermarks) == (1, 0)
    report(partition, 1)
    assert slot.high_watermarks == 1


async def test_new_epoch_is_in_the_history_before_anything_is_written() -> None:
    partition, _ = make_partition()
    partition.lead(registration(leader_epoch=3), SETTINGS)
    assert partition.log.leader_epochs.latest == 3
    assert partition.log.log_end_offset == 0


async def test_losing_leadership_leaves_an_unknown_outcome_and_ends_subscriptions() -> None:
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    slot = FakeSlot(2)
    partition.slots[2] = slot
    waiting = wait_committed(partition, append(partition, b"a"), 10**12)
    assert waiting is not None
    reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    partition.readers[reader] = None
    partition.follow(registration(2, leader_epoch=1, partition_epoch=1))
    error = waiting.exception()
    assert isinstance(error, Disconnected) and not error.definite
    assert reader.done()
    assert isinstance(slot.ended[0], NotLeaderOrFollower)
    with pytest.raises(NotLeaderOrFollower) as refused:
        append(partition, b"b")
    assert refused.value.facts["leader_id"] == 2


async def test_a_leader_that_is_elected_again_keeps_who_waits() -> None:
    partition, _ = make_partition(flush_mode="async")
    partition.lead(registration(), SETTINGS)
    waiting = wait_committed(partition, append(partition, b"a"), 10**12)
    assert waiting is not None
    slot = FakeSlot(2)
    partition.slots[2] = slot
    partition.lead(registration(leader_epoch=1, partition_epoch=1), SETTINGS)
    assert isinstance(slot.ended[0], FencedLeaderEpoch), "followers subscribe again under the new epoch"
    assert not waiting.done()
    report(partition, 1)
    assert waiting.done() and waiting.exception() is None


async def test_retry_is_answered_even_when_too_few_replicas_are_in_sync() -> None:
    partition, _ = make_partition()
    partition.lead(registration(), SETTINGS)
    append(partition, b"a", producer=(9, 0, 0))
    partition.lead(registration(partition_epoch=1, in_sync=(1,)), SETTINGS)
    assert append(partition, b"a", producer=(9, 0, 0)) == 1
    with pytest.raises(NotEnoughReplicas):
        append(partition, b"b", producer=(9, 0, 1))
    assert partition.log.log_end_offset == 1


async def test_epochs_of_callers_are_checked() -> None:
    partition, _ = make_partition()
    partition.lead(registration(leader_epoch=4), SETTINGS)
    partition.require_leader(4)
    partition.require_leader(None)
    with pytest.raises(FencedLeaderEpoch):
        partition.require_leader(3)
    with pytest.raises(UnknownLeaderEpoch):
        partition.require_leader(5)


def replicated(*values: bytes, base_offset: int = 0, leader_epoch: int = 0) -> bytes:
    return stamp(
        build_batch([(5, None, value, []) for value in values]), base_offset=base_offset, leader_epoch=leader_epoch
    )


async def test_follower_appends_checked_bytes_and_reports_after_the_flush() -> None:
    partition, host = make_partition()
    partition.follow(registration(2))
    partition.append_as_follower(replicated(b"a", b"b") + replicated(b"c", base_offset=2))
    assert (partition.log.log_end_offset, partition.reported_offset) == (3, 0)
    partition.learn_high_watermark(99)
    assert partition.high_watermark == 3
    flush(partition)
    assert partition.reported_offset == 3
    assert host.flushed == [partition]


@pytest.mark.parametrize("position", [70, 25, 10])
async def test_follower_never_appends_damaged_bytes(position: int) -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    data = bytearray(replicated(b"a", b"b"))
    data[position] ^= 1
    with pytest.raises(CorruptMessage):
        partition.append_as_follower(bytes(data))
    assert partition.log.log_end_offset == 0


@pytest.mark.parametrize(
    "data",
    [replicated(b"a", leader_epoch=7), replicated(b"a") + b"torn", replicated(b"a") + replicated(b"b")],
    ids=["newer epoch", "torn", "offset repeated"],
)
async def test_follower_appends_only_what_continues_its_log(data: bytes) -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    with pytest.raises(CorruptMessage):
        partition.append_as_follower(data)
    assert partition.log.log_end_offset == 0


async def test_leader_that_wrote_nothing_can_follow_older_epochs() -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    partition.append_as_follower(replicated(b"a"))
    partition.lead(registration(leader_epoch=5, partition_epoch=1), SETTINGS)
    partition.follow(registration(2, leader_epoch=6, partition_epoch=2))
    partition.append_as_follower(replicated(b"b", base_offset=1, leader_epoch=3))
    assert [entry.leader_epoch for entry in partition.log.leader_epochs.entries] == [0, 3]
    partition.log.check()


async def test_truncation_takes_producers_and_high_watermark_along() -> None:
    partition, _ = make_partition(flush_mode="async")
    partition.lead(registration(), SETTINGS)
    for sequence in range(7):
        append(partition, b"x", producer=(9, 0, sequence))
    report(partition, 7)
    partition.follow(registration(2, leader_epoch=1, partition_epoch=1))
    partition.truncate_to(5)
    assert partition.high_watermark == 5
    entry = partition.producers.get(9)
    assert entry is not None
    assert [batch.first_sequence for batch in entry.batches] == [0, 1, 2, 3, 4], "older batches are back in the window"
    partition.check()


async def test_producer_state_is_rebuilt_from_snapshot_and_log() -> None:
    disk = SimulatedDisk()
    log = make_log(disk, segment_bytes=4096)
    partition, _ = make_partition(log, flush_mode="async")
    partition.lead(registration(), SETTINGS)
    for sequence in range(60):
        append(partition, b"x" * 100, producer=(9, 0, sequence))
    assert log.producer_snapshot_offsets(), "a roll leaves a snapshot"
    fresh = ProducerStates()
    load_producers(log, fresh, now_ms=0)
    assert fresh.describe() == partition.producers.describe()
    entry, before = fresh.get(9), partition.producers.get(9)
    assert entry is not None and before is not None and entry.batches == before.batches


async def test_a_batch_that_the_log_start_cuts_still_knows_its_producer() -> None:
    """Its last records are there, and a retry of it would append them again."""
    log = make_log()
    partition, _ = make_partition(log, flush_mode="async")
    partition.lead(registration(), SETTINGS)
    append(partition, b"x", b"y", b"z", producer=(9, 0, 0))
    append(partition, b"x", producer=(8, 0, 0))
    before = partition.producers.describe()
    log.advance_log_start(2)
    fresh = ProducerStates()
    load_producers(log, fresh, now_ms=0)
    assert fresh.describe() == before
    log.write_producer_snapshot(3, ProducerStates().encode_snapshot(3))
    load_producers(log, fresh, now_ms=0)
    assert [fresh.get(9), fresh.get(8) is None] == [None, False], "a snapshot speaks for everything below it"


async def test_damaged_snapshot_is_ignored_because_the_log_knows() -> None:
    log = make_log()
    partition, _ = make_partition(log, flush_mode="async")
    partition.lead(registration(), SETTINGS)
    append(partition, b"x", producer=(9, 0, 0))
    log.write_producer_snapshot(1, b"garbage")
    fresh = ProducerStates()
    load_producers(log, fresh, now_ms=0)
    assert len(fresh) == 1


async def test_log_append_time_is_stamped_and_sound() -> None:
    partition, _ = make_partition(message_timestamp_type="LogAppendTime")
    partition.lead(registration(), SETTINGS)
    append(partition, b"a")
    data = partition.log.read(0, size_bytes_max=1 << 20, end_offset=1).data
    (header,) = [header for _, header in iterate_headers(data)]
    assert header.max_timestamp_ms > 5
    follower, _ = make_partition()
    follower.follow(registration(1))
    follower.append_as_follower(data)


# -- waiters -----------------------------------------------------------------------------------------------------


async def test_waiters_are_completed_in_order_and_a_late_retry_is_put_in_between() -> None:
    waiters = CommitWaiters()
    order: list[int] = []
    futures = {offset: add(waiters, offset, 100) for offset in (5, 9, 7)}
    for offset, future in futures.items():
        future.add_done_callback(lambda _future, offset=offset: order.append(offset))  # type: ignore[misc]
    waiters.complete_to(7)
    assert (futures[5].done(), futures[7].done(), futures[9].done()) == (True, True, False)
    futures[9].cancel()
    waiters.complete_to(20)
    await asyncio.sleep(0)
    assert order == [5, 7, 9]
    assert len(waiters) == 0


async def test_late_waiters_time_out_without_a_definite_refusal() -> None:
    waiters = CommitWaiters()
    early, late = add(waiters, 5, 100), add(waiters, 6, 200)
    assert waiters.expire(150, topic="t", partition=0)
    error = early.exception()
    assert isinstance(error, RequestTimedOut) and not error.definite
    assert not late.done()
    assert not waiters.expire(200, topic="t", partition=0)
    assert late.exception() is not None
