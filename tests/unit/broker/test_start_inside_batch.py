"""A log that begins in the middle of a batch (KAFKA-6975): records were deleted up to there, the batch stays whole."""

from __future__ import annotations

import pytest
from test_partition_rim import (
    SETTINGS,
    TOPIC_ID,
    append,
    flush,
    make_log,
    make_partition,
    registration,
    replicated,
    report,
)

from logcluster.broker.partition import Partition
from logcluster.broker.producer_recovery import load_producers
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import CorruptMessage, OffsetOutOfRange
from logcluster.model.ids import TopicPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import build_batch
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.tail_cache import TailCache

BATCH = stamp(
    build_batch([(5 + n, None, b"%d" % n, []) for n in range(40)], producer_id=9, producer_epoch=0, base_sequence=0),
    base_offset=10,
    leader_epoch=2,
)
"""Offsets 10 to 49."""


def starting_over(disk: SimulatedDisk | None = None) -> Partition:
    """A follower that was told to begin at 13, and got the batch that holds it."""
    partition, _ = make_partition(make_log(disk))
    partition.follow(registration(2, leader_epoch=3))
    partition.restart_at(13)
    partition.append_as_follower(BATCH + replicated(b"after", base_offset=50, leader_epoch=3))
    return partition


def reopened(disk: SimulatedDisk, **context: object) -> PartitionLog:
    log = PartitionLog.open(
        disk,
        "/logs",
        PartitionMetadata(TopicPartition("orders", 0), TOPIC_ID),
        context=RecoveryContext(**context),  # type: ignore[arg-type]
        config=LogConfig(),
        tail_cache=TailCache(),
    )
    log.check()
    return log


async def test_an_empty_log_takes_the_batch_that_holds_its_start_and_starts_where_it_did() -> None:
    partition = starting_over()
    log = partition.log
    log.check()
    partition.check()
    assert (log.log_start_offset, log.log_end_offset) == (13, 51)
    assert [tuple(entry) for entry in log.leader_epochs.entries] == [(2, 13), (3, 50)]
    assert partition.high_watermark == log.high_watermark == 13
    partition.learn_high_watermark(51)
    assert partition.high_watermark == 51
    entry = partition.producers.get(9)
    assert entry is not None and entry.batches[-1].last_offset == 49, "a retry of the batch is still known"


async def test_nothing_below_the_start_is_served_and_the_rest_is_found() -> None:
    partition = starting_over()
    log = partition.log
    for read in (log.read_tail, log.read):
        with pytest.raises(OffsetOutOfRange):
            read(12, size_bytes_max=1 << 20, end_offset=51)
        for offset in (13, 30, 49):
            found = read(offset, size_bytes_max=1, end_offset=51)
            assert found is not None and (found.data, found.next_offset) == (BATCH, 50), "batches go out whole"
    found_time = log.offset_for_timestamp(0)
    assert found_time is not None and found_time.offset == 13
    found_time = log.offset_for_timestamp(5 + 20)
    assert found_time is not None and found_time.offset == 30


@pytest.mark.parametrize(
    "context",
    [
        {"is_clean": True, "recovery_point": 51, "log_start_offset": 13},
        {"recovery_point": 51, "log_start_offset": 13, "may_have_lost_unsynced": False},
        {"recovery_point": 13, "log_start_offset": 13},
        {"recovery_point": 0, "log_start_offset": 13},
        {"recovery_point": None, "log_start_offset": 13, "may_have_lost_unsynced": False},
    ],
    ids=["clean", "all below the point", "point inside the batch", "power loss", "checkpoint damaged"],
)
async def test_a_restart_finds_the_log_as_it_was(context: dict[str, object]) -> None:
    disk = SimulatedDisk()
    partition = starting_over(disk)
    before = partition.producers.describe()
    flush(partition)
    partition.log.close(clean=bool(context.get("is_clean")))
    log = reopened(disk, **context)
    assert (log.log_start_offset, log.log_end_offset) == (13, 51)
    assert [tuple(entry) for entry in log.leader_epochs.entries] == [(2, 13), (3, 50)]
    read = log.read(13, size_bytes_max=1, end_offset=51)
    assert (read.data, read.next_offset) == (BATCH, 50)
    producers = ProducerStates()
    load_producers(log, producers, now_ms=0)
    assert producers.describe() == before


async def test_a_restart_without_the_checkpoint_goes_back_to_the_batch_at_most() -> None:
    disk = SimulatedDisk()
    partition = starting_over(disk)
    flush(partition)
    partition.log.close(clean=False)
    log = reopened(disk, recovery_point=0, log_start_offset=0)
    assert (log.log_start_offset, log.log_end_offset) == (10, 51)


async def test_a_restart_between_the_new_first_segment_and_the_batch_begins_again() -> None:
    disk = SimulatedDisk()
    partition, _ = make_partition(make_log(disk))
    partition.follow(registration(2, leader_epoch=3))
    partition.restart_at(13)
    partition.log.truncate_fully_and_start_at(10)
    partition.log.close(clean=False)
    log = reopened(disk, recovery_point=0, log_start_offset=13)
    assert (log.log_start_offset, log.log_end_offset) == (10, 10), "which is out of the leader's range"


@pytest.mark.parametrize("end", [12, 13], ids=["below the start", "at the start"])
async def test_a_batch_that_ends_before_the_start_is_refused(end: int) -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    partition.restart_at(13)
    values = [b"x"] * (end - 10)
    with pytest.raises(CorruptMessage):
        partition.append_as_follower(replicated(*values, base_offset=10))
    assert (partition.log.log_start_offset, partition.log.log_end_offset) == (13, 13)


async def test_a_log_that_holds_something_takes_no_batch_that_begins_below_its_end() -> None:
    partition, _ = make_partition()
    partition.follow(registration(2))
    partition.append_as_follower(replicated(b"a", b"b"))
    partition.log.advance_log_start(2)
    with pytest.raises(CorruptMessage):
        partition.append_as_follower(replicated(b"b", b"c", base_offset=1))
    partition.log.check()


async def test_damage_in_the_first_batch_leaves_the_empty_log_alone() -> None:
    partition, _ = make_partition()
    partition.follow(registration(2, leader_epoch=3))
    partition.restart_at(13)
    damaged = bytearray(BATCH)
    damaged[-1] ^= 1
    with pytest.raises(CorruptMessage):
        partition.append_as_follower(bytes(damaged))
    assert (partition.log.log_start_offset, partition.log.log_end_offset) == (13, 13)
    partition.append_as_follower(BATCH)
    assert (partition.log.log_start_offset, partition.log.log_end_offset) == (13, 50)


@pytest.mark.parametrize("offset", [13, 20])
async def test_a_cut_of_the_batch_that_holds_the_start_leaves_an_empty_log_there(offset: int) -> None:
    partition = starting_over()
    partition.truncate_to(offset)
    log = partition.log
    log.check()
    partition.check()
    assert (log.log_start_offset, log.log_end_offset) == (13, 13)
    assert partition.producers.get(9) is None
    partition.append_as_follower(BATCH)
    assert (log.log_start_offset, log.log_end_offset) == (13, 50)


async def test_the_batch_that_holds_the_start_goes_with_retention_when_it_is_deleted_whole() -> None:
    partition = starting_over()
    partition.learn_high_watermark(51)
    log = partition.log
    log.advance_log_start(51)
    assert log.apply_retention(0, high_watermark=51, retention_ms=None, retention_bytes=None)
    log.check()
    assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (51, 51, 0)


async def test_a_leader_that_starts_inside_a_batch_still_knows_its_producer_after_a_restart() -> None:
    disk = SimulatedDisk()
    partition, _ = make_partition(make_log(disk), flush_mode="async")
    partition.lead(registration(), SETTINGS)
    append(partition, b"a", b"b", b"c", producer=(9, 0, 0))
    report(partition, 3)
    partition.log.advance_log_start(2)
    flush(partition)
    before = partition.producers.describe()
    partition.log.close(clean=False)
    log = reopened(disk, recovery_point=0, log_start_offset=2)
    producers = ProducerStates()
    load_producers(log, producers, now_ms=0)
    assert producers.describe() == before
    known = producers.check_append(9, 0, 0, 3)
    assert known is not None and known.base_offset == 0
