"""A coordinator on one broker: which shards it has, where a request goes, and how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from coordinator_bench import (
    TOPIC,
    TOPIC_ID,
    GatedDisk,
    Notebooks,
    NoteCodec,
    Roles,
    in_virtual_time,
    look,
    make_partition,
    write,
)

from logcluster.broker.coordinators.runtime import CoordinatorRuntime
from logcluster.broker.partition import Partition
from logcluster.core.metadata.image import EMPTY, MetadataImage
from logcluster.core.metadata.records import MetadataRecord, PartitionRecord, RemoveTopicRecord, TopicRecord
from logcluster.model.errors import (
    CoordinatorLoadInProgress,
    CoordinatorNotAvailable,
    NotCoordinator,
    NotLeaderOrFollower,
    RequestTimedOut,
)
from logcluster.model.hashing import partition_of
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.sim.clock import SimulatedClock
from logcluster.storage.kv_store import MemoryKeyValueStore
from logcluster.storage.shard_store import ShardStore

ORDERS = TopicId(b"o" * 16)
KEYS = {index: next(f"k{n}" for n in range(100) if partition_of(f"k{n}", 3) == index) for index in range(3)}
"""An entity of each shard."""


class Broker:
    """Broker 1 of a cluster whose topic of notes has three partitions; it has replicas of partitions 0 and 1."""

    def __init__(self) -> None:
        self.clock = SimulatedClock(asyncio.get_running_loop())
        self.disk = GatedDisk()
        self.store = ShardStore(MemoryKeyValueStore())
        self.hosted: dict[int, Partition] = {index: make_partition(self.clock, index=index) for index in (0, 1)}
        self.coordinator = Notebooks()
        self.image: MetadataImage = EMPTY
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        self.ended: list[int] = []
        self.runtime = CoordinatorRuntime(
            cast(Any, self.coordinator),
            codec=cast(Any, NoteCodec()),
            store=self.store,
            replicas=self,
            broker_id=1,
            clock=self.clock,
            disk=self.disk,
        )
        self.runtime.listener = self

    def learn(self, *records: MetadataRecord) -> None:
        """The controller has committed these."""
        self.image, delta = self.image.apply(records, offset=self.image.offset + 1, term=1)
        self.runtime.on_metadata(self.image, delta)

    def place(self, index: int, *replicas: int, topic_id: TopicId = TOPIC_ID) -> PartitionRecord:
        return PartitionRecord(
            topic_id=topic_id,
            partition=index,
            replicas=replicas,
            in_sync_replicas=replicas,
            leader_id=replicas[0],
            leader_epoch=5,
        )

    def create_topic(self) -> None:
        self.learn(
            TopicRecord(name=TOPIC, topic_id=TOPIC_ID), self.place(0, 1, 2), self.place(1, 1, 2), self.place(2, 3, 2)
        )

    def lead(self, index: int, epoch: int = 1) -> Roles:
        roles = Roles(self.hosted[index])
        roles.lead(epoch)
        roles.commit()
        return roles

    async def pass_time(self, delay_ms: int = 100) -> None:
        await self.clock.sleep_ms(delay_ms)

    def shards(self) -> list[tuple[int, str]]:
        return sorted((shard.index, shard.state) for shard in self.runtime.shards)

    # What the runtime asks of the replica manager, and tells its listener.

    def partition_by_id(self, topic_id: TopicId, index: int) -> Partition:
        if topic_id != TOPIC_ID or index not in self.hosted:
            raise NotLeaderOrFollower()
        return self.hosted[index]

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        raise AssertionError("nothing is rewritten here")

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        self.heard.append((key, wake))

    def on_leadership_ended(self, index: int) -> None:
        self.ended.append(index)


@contextlib.asynccontextmanager
async def running(*, with_topic: bool = True) -> AsyncIterator[Broker]:
    broker = Broker()
    broker.runtime.start()
    if with_topic:
        broker.create_topic()
    await broker.pass_time()
    yield broker
    broker.disk.release()
    await broker.runtime.close()


# -- where a request goes ------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_request_goes_to_the_shard_of_its_key_and_its_answer_comes_back_when_committed() -> None:
    async with running() as broker:
        roles = broker.lead(1)
        await broker.pass_time()
        key = KEYS[1]
        answering = asyncio.ensure_future(broker.runtime.submit(key, write(key, x="1"), timeout_ms=1_000))
        await broker.pass_time()
        assert broker.hosted[1].log.log_end_offset == 1 and broker.hosted[0].log.log_end_offset == 0
        assert not answering.done() and broker.heard == []
        roles.commit()
        assert await answering == {}
        assert broker.heard == [(key, ())]
        assert await broker.runtime.entities(broker.runtime.shard_of(key)) == [key]


@in_virtual_time
async def test_before_there_is_a_topic_nobody_coordinates() -> None:
    async with running(with_topic=False) as broker:
        with pytest.raises(CoordinatorNotAvailable) as refused:
            await broker.runtime.submit("k", look, timeout_ms=1_000)
        assert refused.value.definite and refused.value.retriable
        broker.runtime.post("k", broker.coordinator.expire)
        await broker.pass_time()
        assert broker.coordinator.expired == []


@in_virtual_time
async def test_a_key_of_a_shard_that_is_elsewhere_is_sent_there() -> None:
    async with running() as broker:
        with pytest.raises(NotCoordinator) as refused:
            await broker.runtime.submit(KEYS[2], look, timeout_ms=1_000)
        assert (refused.value.facts["leader_id"], refused.value.facts["leader_epoch"]) == (3, 5)
        Roles(broker.hosted[0]).follow(4)
        await broker.pass_time()
        with pytest.raises(NotCoordinator) as refused:
            await broker.runtime.submit(KEYS[0], look, timeout_ms=1_000)
        assert refused.value.facts["leader_id"] == 2


# -- how long it may take --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_request_that_the_load_did_not_come_to_in_time_was_certainly_not_carried_out() -> None:
    async with running() as broker:
        broker.disk.hold()
        broker.lead(0)
        key = KEYS[0]
        with pytest.raises(CoordinatorLoadInProgress) as refused:
            await broker.runtime.submit(key, write(key, x="1"), timeout_ms=500)
        assert refused.value.definite
        broker.disk.release()
        await broker.pass_time()
        assert broker.shards() == [(0, "active"), (1, "standby")]
        assert broker.hosted[0].log.log_end_offset == 0, "it is not carried out afterwards either"


@in_virtual_time
async def test_a_request_that_was_appended_and_not_committed_in_time_may_have_been_carried_out() -> None:
    async with running() as broker:
        roles = broker.lead(0)
        await broker.pass_time()
        key = KEYS[0]
        with pytest.raises(RequestTimedOut) as refused:
            await broker.runtime.submit(key, write(key, x="1"), timeout_ms=500)
        assert not refused.value.definite
        roles.commit()
        assert await broker.runtime.submit(key, look, timeout_ms=500) == {"x": "1"}


# -- which shards are here -------------------------------------------------------------------------------------------


@in_virtual_time
async def test_shards_are_those_of_the_replicas_that_are_hosted_here() -> None:
    async with running(with_topic=False) as broker:
        assert broker.shards() == []
        partition = broker.hosted.pop(1)
        broker.create_topic()
        await broker.pass_time()
        assert broker.shards() == [(0, "standby")], "the log of the other one is not open yet"
        broker.hosted[1] = partition
        await broker.pass_time(500)
        assert broker.shards() == [(0, "standby"), (1, "standby")]


@in_virtual_time
async def test_a_replica_that_moved_away_ends_its_shard_and_who_waits_there_is_told() -> None:
    async with running() as broker:
        broker.lead(0)
        await broker.pass_time()
        broker.disk.hold()
        waiting = asyncio.ensure_future(broker.runtime.submit(KEYS[0], look, timeout_ms=60_000))
        await broker.pass_time()
        broker.learn(broker.place(0, 2, 3))
        await broker.pass_time()
        assert isinstance(waiting.exception(), NotCoordinator)
        assert broker.shards() == [(1, "standby")] and broker.ended == [0]


@in_virtual_time
async def test_another_replica_object_of_the_same_partition_gets_another_shard() -> None:
    """The log failed, or was made anew: nothing of what the old shard believed holds for it."""
    async with running() as broker:
        roles = broker.lead(0)
        await broker.pass_time()
        asked = asyncio.ensure_future(broker.runtime.submit(KEYS[0], write(KEYS[0], x="1"), timeout_ms=1_000))
        await broker.pass_time()
        roles.commit()
        await asked
        await broker.pass_time()
        broker.hosted[0] = make_partition(broker.clock, index=0)
        roles.partition.stand_by()
        await broker.pass_time(500)
        broker.lead(0, 7)
        await broker.pass_time()
        assert await broker.runtime.submit(KEYS[0], look, timeout_ms=1_000) == {}, "this log is empty"


@in_virtual_time
async def test_a_deleted_topic_ends_all_shards_and_a_new_one_of_its_name_begins_empty() -> None:
    async with running() as broker:
        broker.store.apply(TopicIdPartition(TOPIC_ID, 0), [(b"k/x", b"1")], next_offset=0, leader_epoch=None)
        broker.learn(RemoveTopicRecord(topic_id=TOPIC_ID))
        await broker.pass_time()
        assert broker.shards() == []
        other = TopicId(b"m" * 16)
        broker.learn(TopicRecord(name=TOPIC, topic_id=other), broker.place(0, 1, 2, topic_id=other))
        await broker.pass_time()
        assert all(key.topic_id == other for key in broker.store.shards()), "the old one is forgotten"


@in_virtual_time
async def test_what_a_broker_finds_of_shards_that_are_not_its_own_is_forgotten_at_the_start() -> None:
    broker = Broker()
    stale = TopicIdPartition(TOPIC_ID, 2)
    for key in (stale, TopicIdPartition(ORDERS, 0), TopicIdPartition(TOPIC_ID, 0)):
        broker.store.apply(key, [(b"k/x", b"1")], next_offset=0, leader_epoch=None)
    broker.create_topic()
    assert broker.shards() == [], "not before it is started"
    broker.runtime.start()
    await broker.pass_time()
    assert broker.store.shards() == [TopicIdPartition(TOPIC_ID, 0), TopicIdPartition(TOPIC_ID, 1)]
    assert broker.store.read(TopicIdPartition(TOPIC_ID, 0), b"") == [(b"k/x", b"1")]
    await broker.runtime.close()


@in_virtual_time
async def test_the_store_forgets_a_shard_whose_replica_moved_away() -> None:
    async with running() as broker:
        broker.learn(broker.place(0, 2, 3))
        await broker.pass_time(1_000)
        assert broker.store.shards() == [TopicIdPartition(TOPIC_ID, 1)]


@in_virtual_time
async def test_a_shard_that_comes_back_while_others_are_forgotten_keeps_what_it_has() -> None:
    """Its position in memory goes on while its keys are gone: it would serve a state without them."""
    broker = Broker()
    back = TopicIdPartition(TOPIC_ID, 0)
    roles = Roles(broker.hosted[0])
    roles.follow(1)
    roles.replicate((f"{KEYS[0]}/x".encode(), b"1"), epoch=1)
    broker.store.apply(back, [(f"{KEYS[0]}/x".encode(), b"1")], next_offset=1, leader_epoch=1)
    broker.runtime.start()
    async with broker.runtime._writes:  # somebody writes, for a moment
        broker.learn(TopicRecord(name=TOPIC, topic_id=TOPIC_ID), broker.place(0, 2, 3), broker.place(1, 2, 3))
        await broker.pass_time()
        broker.learn(broker.place(0, 2, 1))
        await broker.pass_time()
    await broker.pass_time(500)
    kept = broker.store.read(back, b"")
    await broker.runtime.close()
    assert kept == [(f"{KEYS[0]}/x".encode(), b"1")]


# -- metadata --------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_entities_look_at_topics_that_are_new_grew_or_went_and_not_at_new_leaders() -> None:
    async with running() as broker:
        roles = broker.lead(0)
        await broker.pass_time()
        key = KEYS[0]
        asked = asyncio.ensure_future(broker.runtime.submit(key, write(key, live=""), timeout_ms=1_000))
        await broker.pass_time()
        roles.commit()
        await asked
        seen = broker.coordinator.metadata_seen

        async def looked_after(*records: MetadataRecord) -> int:
            seen.clear()
            broker.learn(*records)
            await broker.pass_time()
            return len(seen)

        orders = broker.place(0, 2, 3, topic_id=ORDERS)
        assert await looked_after(TopicRecord(name="orders", topic_id=ORDERS), orders) == 1
        assert await looked_after(broker.place(0, 3, 2, topic_id=ORDERS)) == 0
        assert await looked_after(broker.place(1, 3, 2, topic_id=ORDERS)) == 1
        assert await looked_after(RemoveTopicRecord(topic_id=ORDERS)) == 1
        assert broker.shards() == [(0, "active"), (1, "standby")]


@in_virtual_time
async def test_closing_ends_every_shard_and_the_store() -> None:
    async with running() as broker:
        broker.lead(0)
        await broker.pass_time()
        broker.disk.hold()
        waiting = asyncio.ensure_future(broker.runtime.submit(KEYS[0], look, timeout_ms=60_000))
        await broker.pass_time()
        await broker.runtime.close()
        assert broker.ended == [0] and broker.shards() == []
        await broker.pass_time()
        assert isinstance(waiting.exception(), NotCoordinator)
        with pytest.raises(Exception, match="closed"):
            broker.store.shards()
