"""A request made for one topic never reaches another one of the same name: real brokers over the loopback carrier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from data_plane_world import TOPIC_ID, World, raise_for

from logcluster.model.errors import NotLeaderOrFollower, UnknownTopicId, UnknownTopicOrPartition
from logcluster.record.builder import build_batch
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb

OTHER_ID = bytes(reversed(TOPIC_ID))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as running:
        yield running


async def produce(world: World, broker_id: int, topic_id: bytes | None, **fields: Any) -> pb.PartitionAck:
    request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=5_000)
    batch = build_batch([(1_000, None, b"v", [])])
    request.partitions.add(topic="orders", partition=0, batch=batch, topic_id=topic_id, **fields)
    return (await world.stub(broker_id).Produce(request)).partitions[0]


async def fetch(world: World, broker_id: int, topic_id: bytes | None) -> pb.PartitionFetch:
    request = pb.FetchRequest(max_wait_ms=50, min_bytes=1)
    request.partitions.add(topic="orders", partition=0, fetch_offset=0, topic_id=topic_id)
    return (await world.stub(broker_id).Fetch(request)).partitions[0]


async def list_offset(world: World, broker_id: int, topic_id: bytes | None) -> pb.PartitionOffset:
    request = pb.ListOffsetsRequest()
    request.partitions.add(topic="orders", partition=0, position=pb.OFFSET_POSITION_LATEST, topic_id=topic_id)
    return (await world.stub(broker_id).ListOffsets(request)).partitions[0]


async def epoch_end(world: World, broker_id: int, topic_id: bytes | None) -> pb.PartitionEpochEndOffset:
    request = pb.GetEpochEndOffsetsRequest()
    request.partitions.add(topic="orders", partition=0, leader_epoch=0, topic_id=topic_id)
    return (await world.stub(broker_id).GetEpochEndOffsets(request)).partitions[0]


CALLS = [produce, fetch, list_offset, epoch_end]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("topic_id", [TOPIC_ID, None, b""])
async def test_right_topic_id_and_none_at_all_are_served(world: World, call: Any, topic_id: bytes | None) -> None:
    world.controller.create_topic()
    raise_for(await call(world, 1, topic_id))


@pytest.mark.parametrize("call", CALLS)
async def test_other_topic_id_is_refused_definitely_and_nothing_is_written(world: World, call: Any) -> None:
    world.controller.create_topic()
    with pytest.raises(UnknownTopicId) as caught:
        raise_for(await call(world, 1, OTHER_ID))
    assert caught.value.definite and caught.value.retriable and caught.value.refresh_metadata
    assert world[1].partition().log.log_end_offset == 0


async def test_the_topic_is_looked_at_before_the_leader_epoch(world: World) -> None:
    """Epochs of different topics say nothing about one another; nor does who leads."""
    world.controller.create_topic()
    with pytest.raises(UnknownTopicId):
        raise_for(answer := await produce(world, 1, OTHER_ID, leader_epoch=7))
    answer = await produce(world, 1, OTHER_ID, leader_epoch=7)
    assert not answer.HasField("leader")


async def test_broker_without_a_replica_names_the_leader_of_this_topic_only(world: World) -> None:
    world.controller.create_topic(replicas=(1, 2))
    answer = await produce(world, 3, TOPIC_ID)
    with pytest.raises(NotLeaderOrFollower):
        raise_for(answer)
    assert answer.leader.leader_id == 1
    answer = await produce(world, 3, OTHER_ID)
    with pytest.raises(UnknownTopicId):
        raise_for(answer)
    assert not answer.HasField("leader")


async def test_deleted_topic_is_unknown(world: World) -> None:
    world.controller.create_topic()
    world.controller.remove_topic()
    with pytest.raises(UnknownTopicOrPartition):
        raise_for(await produce(world, 1, TOPIC_ID))
