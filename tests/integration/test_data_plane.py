"""Produce, replicate, fail over, truncate, deduplicate: three real data planes over the loopback carrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from data_plane_world import TOPIC_ID, World, eventually, raise_for

from logcluster.model.errors import (
    CorruptLog,
    Disconnected,
    FencedLeaderEpoch,
    InvalidProducerEpoch,
    MessageTooLarge,
    NotEnoughReplicas,
    NotEnoughReplicasAfterAppend,
    NotLeaderOrFollower,
    OffsetNotAvailable,
    OffsetOutOfRange,
    OutOfOrderSequenceNumber,
    RequestTimedOut,
    StorageFailure,
    UnknownLeaderEpoch,
    UnknownTopicOrPartition,
    UnsupportedVersion,
)
from logcluster.record.batch import decode_records, iterate_headers
from logcluster.storage.log import PartitionLog
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


def stored(log: PartitionLog) -> bytes:
    return log.read(log.log_start_offset, size_bytes_max=1 << 30, end_offset=log.log_end_offset).data


def values(log: PartitionLog) -> list[bytes]:
    data = stored(log)
    return [
        record.value or b""
        for position, header in iterate_headers(data)
        for record in decode_records(data[position : position + header.size_bytes])
    ]


async def test_acked_record_is_on_disk_of_all_in_sync_replicas(world: World) -> None:
    world.controller.create_topic()
    ack = await world.produce(1, b"a", b"b")
    raise_for(ack)
    assert ack.base_offset == 0
    for broker in world.brokers.values():
        assert broker.partition().log.flushed_offset == 2
        assert values(broker.partition().log) == [b"a", b"b"]
        broker.partition().check()
    await eventually(lambda: all(broker.partition().high_watermark == 2 for broker in world.brokers.values()))


async def test_async_flush_mode_acks_from_memory(world: World) -> None:
    world.controller.create_topic(flush_mode="async")
    raise_for(await world.produce(1, b"a"))
    assert [broker.partition().log.flushed_offset for broker in world.brokers.values()] == [0, 0, 0]
    assert [broker.partition().log.log_end_offset for broker in world.brokers.values()] == [1, 1, 1]


async def test_many_partitions_and_many_in_flight_keep_order(world: World) -> None:
    world.controller.create_topic(partitions=3)
    acks = await asyncio.gather(
        *(world.produce(1 + index, b"%d" % number, index=index) for number in range(50) for index in range(3))
    )
    for ack in acks:
        raise_for(ack)
    for index in range(3):
        want = [b"%d" % number for number in range(50)]
        assert values(world[1].partition(index).log) == want
        assert stored(world[2].partition(index).log) == stored(world[1].partition(index).log)


async def test_failover_keeps_acked_records_and_answers_retries_with_the_original_offset(world: World) -> None:
    world.controller.create_topic()
    for sequence in range(4):
        raise_for(await world.produce(1, b"%d" % sequence, producer=(77, 0, sequence)))
    await world[1].kill()
    world.controller.fence(1)
    world.controller.change(leader_id=2, in_sync_replicas=(2, 3))
    retry = await world.produce(2, b"2", producer=(77, 0, 2))
    raise_for(retry)
    assert retry.base_offset == 2, "the new leader knows the batch from replication"
    after = await world.produce(2, b"4", producer=(77, 0, 4))
    raise_for(after)
    assert after.base_offset == 4
    with pytest.raises(OutOfOrderSequenceNumber):
        raise_for(await world.produce(2, b"x", producer=(77, 0, 9)))
    assert values(world[3].partition().log) == [b"0", b"1", b"2", b"3", b"4"]


async def test_deposed_leader_truncates_what_diverged_and_rejoins(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="logcluster.replica_stream")
    world.controller.create_topic()
    raise_for(await world.produce(1, b"kept"))
    assert world.network is not None
    for follower in ("broker-2", "broker-3"):
        world.network.cut("broker-1", follower)
        world.network.cut(follower, "broker-1")
    world.controller.brokers.pop(1)  # the old leader hears nothing of its deposition
    lost = asyncio.ensure_future(world.produce(1, b"lost", timeout_ms=60_000))
    await eventually(lambda: world[1].partition().log.log_end_offset == 2)
    world.controller.change(leader_id=2, in_sync_replicas=(2, 3))
    raise_for(await world.produce(2, b"new", b"newer"))
    assert not lost.done(), "a leader without its followers acknowledges nothing"
    for follower in ("broker-2", "broker-3"):
        world.network.heal("broker-1", follower)
        world.network.heal(follower, "broker-1")
    world.controller.brokers[1] = world[1]
    world[1].manager.on_metadata(world.controller.image, world.controller.image.delta_since(world[1].manager.image))
    with pytest.raises(Disconnected) as failed:
        raise_for(await lost)
    assert not failed.value.definite, "the record might have survived"
    await eventually(lambda: 1 in world.controller.registration().in_sync_replicas)
    assert values(world[1].partition().log) == [b"kept", b"new", b"newer"]
    assert stored(world[1].partition().log) == stored(world[2].partition().log)
    assert world[1].partition().log.leader_epochs == world[2].partition().log.leader_epochs
    cut = "log_truncated partition=orders-0 leader_id=2 leader_epoch=1 from_offset=2 to_offset=1"
    assert [line for line in caplog.messages if line.startswith("log_truncated")] == [cut]
    assert not [line for line in caplog.messages if line.startswith("truncated_below_high_watermark")]


async def test_restarted_follower_truncates_by_epoch_never_to_its_high_watermark(world: World) -> None:
    """KIP-101: the follower's high watermark lags; what lies above it may be acknowledged."""
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a", b"b", b"c"))
    follower = world[2]
    follower.partition().log.high_watermark = 0
    await follower.kill()
    world.controller.fence(2)
    world.controller.change(leader_id=1, in_sync_replicas=(1, 3), new_epoch=False)
    await follower.start()
    assert follower.partition().log.log_end_offset == 3
    await eventually(lambda: 2 in world.controller.registration().in_sync_replicas)
    assert values(follower.partition().log) == [b"a", b"b", b"c"]


async def test_unfenced_restarted_leader_takes_no_role_from_old_metadata(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    old_image = world.controller.image
    broker = world[1]
    await broker.kill()
    await broker.start()
    broker.manager._is_live = False
    broker.manager._by_id.clear()
    broker.manager.on_metadata(old_image, old_image.delta_since(world.controller.image))
    assert list(broker.manager.partitions) == []


async def test_leader_does_not_write_again_under_the_epoch_of_an_earlier_life(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    await world[1].kill()
    await world[1].start()  # this controller forgets to give a new epoch
    with pytest.raises(NotLeaderOrFollower):
        raise_for(await world.produce(1, b"b"))


async def test_follower_that_fell_behind_the_log_start_starts_over(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    await world[3].kill()
    world.controller.fence(3)
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    raise_for(await world.produce(1, b"b", b"c"))
    assert world[1].manager.delete_records("orders", 0, None) == 3
    raise_for(await world.produce(1, b"d"))
    await world[3].start()
    await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)
    log = world[3].partition().log
    assert (log.log_start_offset, log.log_end_offset) == (3, 4)


async def test_a_wiped_follower_starts_over_inside_a_batch(world: World) -> None:
    """KAFKA-6975: the batch that holds the log start begins below it."""
    world.controller.create_topic()
    raise_for(await world.produce(1, *[b"%d" % n for n in range(40)], producer=(7, 0, 0)))
    await world[3].kill()
    world.controller.fence(3)
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    assert world[1].manager.delete_records("orders", 0, 3) == 3
    world[3].disk = world.filesystem(3)
    await world[3].start()
    await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)
    log = world[3].partition().log
    assert (log.log_start_offset, log.log_end_offset) == (3, 40)
    world.controller.change(leader_id=3, in_sync_replicas=(3, 2))
    await eventually(lambda: world[3].partition().leader is not None)
    answer = await world.fetch(3, 3, format=pb.FETCH_FORMAT_RECORDS)
    assert [record.offset for record in answer.records] == list(range(3, 40))
    with pytest.raises(OffsetOutOfRange):
        raise_for(await world.fetch(3, 2))
    retried = await world.produce(3, *[b"%d" % n for n in range(40)], producer=(7, 0, 0))
    assert retried.base_offset == 0, "the retry of the batch is answered, not appended"


async def test_log_start_that_overtakes_a_subscribed_follower_never_empties_it(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    await eventually(lambda: world[3].partition().high_watermark == 1)
    assert world.network is not None
    world.network.cut("broker-1", "broker-3")
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    world.controller.fence(3)  # or it would be waited for
    feed = next(iter(world[1].partition().slots[3].feed for _ in range(1)))  # type: ignore[attr-defined]
    feed._credit_bytes = 0  # nothing more may be sent to it
    raise_for(await world.produce(1, b"b", b"c"))
    world[1].manager.delete_records("orders", 0, None)
    feed._credit_bytes = 1_000_000
    world[1].partition().slots[3].on_append()
    log = world[3].partition().log
    ends = [log.log_end_offset]
    world.network.heal("broker-1", "broker-3")
    await eventually(lambda: (ends.append(log.log_end_offset), log.log_start_offset == 3)[1])
    assert 0 not in ends
    assert log.log_end_offset == 3


async def test_below_min_in_sync_nothing_is_written_and_the_refusal_is_definite(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    world.controller.change(leader_id=1, in_sync_replicas=(1,), new_epoch=False)
    world.controller.is_reachable = False
    with pytest.raises(NotEnoughReplicas) as refused:
        raise_for(await world.produce(1, b"b"))
    assert refused.value.definite
    assert world[1].partition().log.log_end_offset == 1
    raise_for(await world.produce(1, b"c", acks=pb.ACKS_LEADER))
    assert world[1].partition().high_watermark == 1, "readers do not see what is not committed, whatever acks"
    assert (await world.fetch(1, 1)).batches == b""


async def test_set_falling_below_min_while_waiting_is_an_unknown_outcome(world: World) -> None:
    world.controller.create_topic()
    assert world.network is not None
    for follower in ("broker-2", "broker-3"):
        world.network.cut("broker-1", follower)
    waiting = asyncio.ensure_future(world.produce(1, b"a"))
    await eventually(lambda: world[1].partition().log.log_end_offset == 1)
    world.controller.change(leader_id=1, in_sync_replicas=(1,), new_epoch=False)
    with pytest.raises(NotEnoughReplicasAfterAppend) as failed:
        raise_for(await waiting)
    assert not failed.value.definite
    for follower in ("broker-2", "broker-3"):
        world.network.heal("broker-1", follower)


async def test_silent_follower_leaves_the_in_sync_set_and_writes_go_on() -> None:
    async with World(replica_lag_time_ms_max=300) as world:
        world.controller.create_topic()
        raise_for(await world.produce(1, b"a"))
        assert world.network is not None
        world.network.cut("broker-1", "broker-3")
        raise_for(await world.produce(1, b"b"))
        assert world.controller.registration().in_sync_replicas == (1, 2)
        world.network.heal("broker-1", "broker-3")
        await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)


async def test_unanswered_shrink_commits_nothing() -> None:
    async with World(replica_lag_time_ms_max=200) as world:
        world.controller.create_topic()
        assert world.network is not None
        world.network.cut("broker-1", "broker-3")
        world.controller.is_reachable = False
        with pytest.raises(RequestTimedOut) as failed:
            raise_for(await world.produce(1, b"a", timeout_ms=800))
        assert not failed.value.definite
        assert world.controller.alter_requests
        assert world[1].partition().high_watermark == 0
        world.controller.is_reachable = True
        await eventually(lambda: world[1].partition().high_watermark == 1)
        world.network.heal("broker-1", "broker-3")


async def test_failed_sync_acknowledges_nothing_and_stops_the_directory(world: World) -> None:
    world.controller.create_topic()
    world[1].disk.fail_next("sync", 5, count=1)  # type: ignore[attr-defined]
    with pytest.raises(StorageFailure) as failed:
        raise_for(await world.produce(1, b"a"))
    assert not failed.value.definite
    assert world[1].failures
    with pytest.raises(NotLeaderOrFollower):
        raise_for(await world.produce(1, b"b"))


async def test_damaged_follower_steps_aside_and_refetches_only_when_it_no_longer_counts() -> None:
    async with World(replica_lag_time_ms_max=200) as world:
        world.controller.create_topic()
        raise_for(await world.produce(1, b"a", b"b"))
        partition = world[3].partition()
        epoch_before = world.controller.registration().partition_epoch
        partition.log.fail(CorruptLog("found by a scrub"))
        await eventually(lambda: not list(world[3].manager.partitions))
        world.controller.change(leader_id=1, in_sync_replicas=(1, 2, 3))
        assert not list(world[3].manager.partitions), "it still counts: nothing is replaced"
        await eventually(lambda: world.controller.registration().partition_epoch == epoch_before + 3)
        assert world.controller.registration().in_sync_replicas == (1, 2, 3)
        assert world[3].partition() is not partition
        assert values(world[3].partition().log) == [b"a", b"b"]


async def test_deletion_needs_a_committed_record(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a"))
    world.controller.remove_topic()
    with pytest.raises(UnknownTopicOrPartition):
        raise_for(await world.produce(1, b"b"))
    assert world[1].manager.log_manager.get((TOPIC_ID, 0)) is None  # type: ignore[arg-type]


async def test_clean_restart_keeps_all_five_batches_of_a_producer(world: World) -> None:
    world.controller.create_topic()
    for sequence in range(6):
        raise_for(await world.produce(1, b"%d" % sequence, producer=(5, 0, sequence)))
    await world[2].stop()
    world.controller.fence(2)
    world.controller.change(leader_id=1, in_sync_replicas=(1, 3), new_epoch=False)
    await world[2].start()
    assert world[2].manager.log_manager.previous_broker_epoch is not None
    await eventually(lambda: 2 in world.controller.registration().in_sync_replicas)
    world.controller.change(leader_id=2, in_sync_replicas=(2, 3, 1))
    for sequence in range(1, 6):
        retry = await world.produce(2, b"%d" % sequence, producer=(5, 0, sequence))
        raise_for(retry)
        assert retry.base_offset == sequence


async def test_newer_producer_epoch_fences_the_older_one(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a", producer=(5, 1, 0)))
    with pytest.raises(InvalidProducerEpoch):
        raise_for(await world.produce(1, b"b", producer=(5, 0, 1)))


# -- fetching ----------------------------------------------------------------------------------------------------


async def test_long_poll_wakes_when_something_is_committed(world: World) -> None:
    world.controller.create_topic()
    waiting = asyncio.ensure_future(world.fetch(1, 0, max_wait_ms=20_000, min_bytes=1))
    await eventually(lambda: bool(world[1].partition().readers))
    raise_for(await world.produce(1, b"a"))
    answer = await waiting
    assert (answer.high_watermark, answer.next_offset) == (1, 1)
    assert not world[1].partition().readers


async def test_long_poll_ends_when_leadership_does(world: World) -> None:
    world.controller.create_topic()
    waiting = asyncio.ensure_future(world.fetch(1, 0, max_wait_ms=20_000, min_bytes=1))
    await eventually(lambda: bool(world[1].partition().readers))
    world.controller.change(leader_id=2, in_sync_replicas=(1, 2, 3))
    answer = await waiting
    with pytest.raises(NotLeaderOrFollower):
        raise_for(answer)
    assert (answer.leader.leader_id, answer.leader.leader_epoch) == (2, 1)


async def test_fetch_after_its_wait_says_that_there_is_nothing(world: World) -> None:
    world.controller.create_topic()
    answer = await world.fetch(1, 0, max_wait_ms=10, min_bytes=1)
    assert (answer.batches, answer.next_offset) == (b"", 0)


async def test_typed_records_go_in_and_out(world: World) -> None:
    world.controller.create_topic()
    request = pb.ProduceRequest()
    item = request.partitions.add(topic="orders", partition=0)
    record = item.records.records.add(key=b"k", timestamp_ms=5)
    record.headers.add(key="h", value=b"v")
    item.records.records.add(value=b"second")
    raise_for((await world.stub(1).Produce(request)).partitions[0])
    answer = await world.fetch(1, 1, format=pb.FETCH_FORMAT_RECORDS)
    assert [record.value for record in answer.records] == [b"second"], "earlier records of the batch are left out"
    answer = await world.fetch(1, 0, format=pb.FETCH_FORMAT_RECORDS)
    first = answer.records[0]
    assert (first.key, first.HasField("value"), first.timestamp_ms, first.offset) == (b"k", False, 5, 0)
    assert (first.headers[0].key, first.headers[0].value) == ("h", b"v")
    assert (answer.next_offset, answer.batches) == (2, b"")


async def test_fetch_refuses_other_epochs_and_ranges(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a", b"b"))
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2, 3))
    with pytest.raises(FencedLeaderEpoch):
        raise_for(await world.fetch(1, 0, leader_epoch=0))
    with pytest.raises(OffsetOutOfRange):
        raise_for(await world.fetch(1, 3))
    answer = await world.fetch(1, 5, last_fetched_epoch=0)
    assert (answer.diverging_epoch.leader_epoch, answer.diverging_epoch.end_offset) == (0, 2)
    with pytest.raises(UnknownLeaderEpoch):  # it was replaced and has not heard of it: its log's end says nothing
        raise_for(await world.fetch(1, 5, last_fetched_epoch=2))
    with pytest.raises(NotLeaderOrFollower):
        raise_for(await world.fetch(2, 0))
    with pytest.raises(UnknownTopicOrPartition):
        raise_for((await world.stub(1).Fetch(_fetch_of("nothing"))).partitions[0])


def _fetch_of(topic: str) -> pb.FetchRequest:
    request = pb.FetchRequest()
    request.partitions.add(topic=topic)
    return request


async def test_cold_reads_come_from_disk_for_consumers_and_followers(world: World) -> None:
    world.controller.create_topic()
    await world[3].kill()
    world.controller.fence(3)
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    for number in range(20):
        raise_for(await world.produce(1, b"%d" % number))
    log = world[1].partition().log
    log._tail.clear()
    answer = await world.fetch(1, 0)
    raise_for(answer)
    assert answer.next_offset == 20
    await world[3].start()
    await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)
    assert stored(world[3].partition().log) == stored(log)


# -- offsets and ids ---------------------------------------------------------------------------------------------


async def test_list_offsets(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a", b"b"))
    request = pb.ListOffsetsRequest()
    for position in (
        pb.OFFSET_POSITION_EARLIEST,
        pb.OFFSET_POSITION_LATEST,
        pb.OFFSET_POSITION_MAX_TIMESTAMP,
    ):
        request.partitions.add(topic="orders", position=position)
    request.partitions.add(topic="orders", timestamp_ms=1_000)
    request.partitions.add(topic="orders", timestamp_ms=1_001)
    answers = (await world.stub(1).ListOffsets(request)).partitions
    assert [answer.offset for answer in answers[:4]] == [0, 2, 0, 0]
    assert not answers[4].HasField("offset")
    end = await world.stub(1).GetEpochEndOffsets(
        pb.GetEpochEndOffsetsRequest(partitions=[pb.EpochEndOffsetQuery(topic="orders", leader_epoch=0)])
    )
    assert end.partitions[0].epoch_end.end_offset == 2


async def test_latest_is_not_available_until_the_new_leader_has_proved_it(world: World) -> None:
    world.controller.create_topic()
    raise_for(await world.produce(1, b"a", b"b"))
    await eventually(lambda: world[2].partition().high_watermark == 2)
    world[2].partition().high_watermark = 0  # as if the news had not come
    await world[1].kill()
    await world[3].kill()
    world.controller.change(leader_id=2, in_sync_replicas=(2, 3))
    request = pb.ListOffsetsRequest()
    request.partitions.add(topic="orders", position=pb.OFFSET_POSITION_LATEST)
    with pytest.raises(OffsetNotAvailable):
        raise_for((await world.stub(2).ListOffsets(request)).partitions[0])
    await world[3].start()
    await eventually(lambda: world[2].partition().high_watermark == 2)
    assert (await world.stub(2).ListOffsets(request)).partitions[0].offset == 2


async def test_producer_ids_are_unique_and_transactions_clearly_refused(world: World) -> None:
    stub = world.stub(1)
    answers = await asyncio.gather(*(stub.InitProducerId(pb.InitProducerIdRequest()) for _ in range(5)))
    assert len({answer.producer_id for answer in answers}) == 5
    with pytest.raises(Exception, match="transactional") as refused:
        await stub.InitProducerId(pb.InitProducerIdRequest(transactional_id="t"))
    assert UnsupportedVersion.code == 35
    assert refused.type.__name__ == "AioRpcError"


async def test_batches_are_checked_before_they_are_appended(world: World) -> None:
    world.controller.create_topic(max_message_bytes="200")
    with pytest.raises(MessageTooLarge):
        raise_for(await world.produce(1, b"x" * 300))
    request = pb.ProduceRequest()
    request.partitions.add(topic="orders", batch=b"\0" * 100)
    answer = (await world.stub(1).Produce(request)).partitions[0]
    assert answer.error.definite
    assert world[1].partition().log.log_end_offset == 0


async def test_log_append_time_replaces_the_producers_and_replicates(world: World) -> None:
    world.controller.create_topic(message_timestamp_type="LogAppendTime")
    ack = await world.produce(1, b"a", producer=(5, 0, 0))
    raise_for(ack)
    assert ack.log_append_time_ms > 1_000
    again = await world.produce(1, b"a", producer=(5, 0, 0))
    assert (again.base_offset, again.log_append_time_ms) == (0, ack.log_append_time_ms)
    assert stored(world[3].partition().log) == stored(world[1].partition().log)
