"""A topic that was deleted and created again under its name: nothing meant for the one reaches the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition, lost

from logcluster.client.accumulator import Accumulator, AccumulatorOptions, PartitionQueue
from logcluster.client.batch import Batch
from logcluster.client.metadata_cache import Answer, Leader, MetadataCache, PartitionFacts, TopicFacts
from logcluster.client.records import RecordsLost
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.batch import read_header
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression


def fill(partition: ModelPartition, count: int, *, first: int = 0) -> None:
    partition.append(build_batch([(1000 + index, None, b"%d" % index, ()) for index in range(first, first + count)]))


# The cache.


def answer(offset: int, *, topic_id: bytes, epoch: int = 0, leader_id: int = 0) -> Answer:
    partition = PartitionFacts(partition=0, leader_id=leader_id, leader_epoch=epoch)
    topic = TopicFacts(name="t", topic_id=topic_id, partitions=(partition,))
    return Answer(cluster_id="c", metadata_offset=offset, brokers=(), topics=(topic,))


def test_hint_about_another_topic_of_the_name_is_ignored() -> None:
    cache = MetadataCache()
    cache.apply(answer(2, topic_id=b"new"))
    assert not cache.note_leader("t", 0, leader_id=2, leader_epoch=7, topic_id=b"old")
    assert cache.leader("t", 0) == Leader(0, 0)
    assert cache.note_leader("t", 0, leader_id=2, leader_epoch=7, topic_id=b"new")
    assert cache.leader("t", 0, topic_id=b"new") == Leader(2, 7)
    assert cache.leader("t", 0, topic_id=b"old") is None


def test_topic_that_was_deleted_by_this_client_does_not_come_back_in_an_answer_from_before() -> None:
    cache = MetadataCache()
    cache.apply(answer(2, topic_id=b"old"))
    cache.forget_topic("t", b"old")
    cache.apply(answer(3, topic_id=b"old"))
    assert cache.topic("t") is None
    cache.apply(answer(4, topic_id=b"new"))
    cache.forget_topic("t", b"old")
    assert cache.leader("t", 0, topic_id=b"new") == Leader(0, 0), "news of the deletion may come late"


# The accumulator.


def accumulator() -> Accumulator:
    made = Accumulator(
        AccumulatorOptions(
            batch_size_bytes=1000,
            buffer_size_bytes=100_000,
            linger_ms=0,
            delivery_timeout_ms=1000,
            max_in_flight=5,
            compression=Compression.NONE,
            is_idempotent=True,
        )
    )
    made.set_identity(7, 0)
    return made


def add(queue: PartitionQueue) -> Batch:
    batch = queue.begin_batch(0)
    batch.append(1, None, b"v", ())
    batch.buffered_size_bytes = 30
    queue._accumulator.buffered_size_bytes += 30
    return batch


def test_retired_partition_gives_up_what_waits_and_lets_what_is_in_flight_finish() -> None:
    made = accumulator()
    queue = made.queue("t", 0, b"old")
    sent = [add(queue) for _ in range(3)]
    taken = queue.take(0, leader_epoch=0)
    assert taken is sent[0]
    queue._is_known = True
    for batch in sent[1:]:
        queue.close_batch()
        assert queue.take(0, leader_epoch=0) is batch
    assert queue.fail_attempt(sent[2], errors.Disconnected(), now_ms=0, backoff_ms=0)
    waiting = add(queue)
    made.retire_topic("t", errors.UnknownTopicId("another one"))
    assert isinstance(waiting.error, errors.UnknownTopicId) and waiting.error.definite
    assert isinstance(sent[2].error, errors.Disconnected) and not sent[2].error.definite
    assert made.unresolved == sent[:2], "whoever flushes waits for these"
    assert queue.take(10_000, leader_epoch=9) is None
    queue.succeed(sent[0], base_offset=0)
    assert not queue.fail_attempt(sent[1], errors.NotLeaderOrFollower(), now_ms=0, backoff_ms=0), "not sent again"
    assert isinstance(sent[1].error, errors.UnknownTopicId) and sent[1].error.definite
    assert (made.unresolved, made.queues, made.buffered_size_bytes) == ([], [], 0)


def test_sequences_begin_anew_with_the_new_topic() -> None:
    made = accumulator()
    queue = made.queue("t", 0, b"old")
    add(queue)
    assert queue.take(0, leader_epoch=0) is not None
    made.retire_topic("t", errors.UnknownTopicId())
    other = made.queue("t", 0, b"new")
    assert other is not queue
    batch = add(other)
    assert other.take(0, leader_epoch=0) is batch
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 1, 0)
    other.close_batch()
    add(other)
    assert other.take(0, leader_epoch=0) is None, "the first one flies alone"


# The producer.


async def test_records_that_wait_for_a_leader_of_the_old_topic_fail_definitely() -> None:
    cluster = FakeCluster()
    (old,) = cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.elect("t", 0, None)
        future = producer.send_nowait("t", b"old")
        await asyncio.sleep(0.03)
        (new,) = cluster.create_again("t")
        with pytest.raises(errors.UnknownTopicId, match="created again") as caught:
            await future
        assert caught.value.definite
        assert (await producer.send("t", b"1")).offset == 0
    assert (old.values(), new.values()) == ([b"0"], [b"1"])
    header = read_header(new.batches[0])
    assert (header.producer_epoch, header.base_sequence) == (1, 0)


async def test_late_request_is_refused_by_the_new_topic() -> None:
    cluster = FakeCluster()
    (old,) = cluster.add_topic("t")
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def delay(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce" and not go_on.is_set():
            entered.set()
            await go_on.wait()

    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.before = delay
        future = producer.send_nowait("t", b"late")
        await entered.wait()
        (new,) = cluster.create_again("t")
        go_on.set()
        with pytest.raises(errors.UnknownTopicId) as caught:
            await future
        assert caught.value.definite
        assert (await producer.send("t", b"1")).offset == 0
    assert (old.values(), new.values()) == ([b"0"], [b"1"])


async def test_record_that_may_be_in_the_old_topic_is_in_doubt_and_not_in_the_new_one() -> None:
    cluster = FakeCluster()
    (old,) = cluster.add_topic("t")
    new: list[ModelPartition] = []

    async def lose(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce" and not new:
            new.extend(cluster.create_again("t"))
            raise lost()

    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.after = lose
        with pytest.raises(errors.Disconnected) as caught:
            await producer.send("t", b"old")
        assert not caught.value.definite
        await producer.flush()
    assert (old.values(), new[0].values()) == ([b"0", b"old"], [])


async def test_send_many_names_what_was_meant_for_the_old_topic() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        (new,) = cluster.create_again("t")
        with pytest.raises(RecordsLost) as caught:
            await producer.send_many("t", [b"old"] * 10)
        assert caught.value.definite
        assert isinstance(caught.value.exceptions[0], errors.UnknownTopicId)
        await producer.send_many("t", [b"new"] * 10)
    assert new.values() == [b"new"] * 10


async def test_client_that_creates_the_topic_again_itself_writes_to_the_new_one_at_once() -> None:
    cluster = FakeCluster()
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        for count in range(3):
            await client.admin.create_topic("t", partitions=count + 1)
            assert (await producer.send("t", b"v", partition=count)).offset == 0
            assert (await producer.send("t", b"v", partition=count)).offset == 1
            async with client.consumer("t", start="earliest", until="end") as consumer:
                assert [(record.partition, record.offset) async for record in consumer] == [(count, 0), (count, 1)]
            await client.admin.delete_topic("t")


async def test_leader_epochs_of_the_old_topic_do_not_hide_the_leader_of_the_new_one() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    for _ in range(4):
        cluster.elect("t", 0, 1)
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        (new,) = cluster.create_again("t")
        with pytest.raises(errors.UnknownTopicId):
            await producer.send("t", b"old")
        assert (new.leader_id, new.leader_epoch) == (0, 0)
        assert (await producer.send("t", b"1")).offset == 0


async def test_lagging_broker_that_still_has_the_old_topic_is_waited_for() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    refusals = 0

    async def lag(broker_id: int, method: str, request: Any) -> None:
        nonlocal refusals
        if method in {"Produce", "Fetch"} and refusals < 3:
            refusals += 1
            raise errors.UnknownTopicId()

    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        cluster.before = lag
        assert (await producer.send("t", b"v")).offset == 0
        refusals = 0
        async with client.consumer("t", start="earliest") as consumer:
            assert [record.offset for record in await consumer.read(1)] == [0]


async def test_deleted_topic_is_given_up_at_once_and_a_new_one_waited_for() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client(topic_wait_ms=2_000) as client, client.producer() as producer:
        await producer.send("t", b"0")
        del cluster.topics["t"]
        cluster.metadata_offset += 1
        with pytest.raises(errors.UnknownTopicOrPartition) as caught:
            await producer.send("t", b"lost")
        assert caught.value.definite
        later = producer.send_nowait("t", b"new")  # the deletion is known by now
        await asyncio.sleep(0.05)
        (new,) = cluster.add_topic("t")
        assert (await later).offset == 0
    assert new.values() == [b"new"]


# The consumer.


async def test_position_in_the_old_topic_is_not_carried_to_the_new_one() -> None:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with asyncio.timeout(5), cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(3)) == 3
        (new,) = cluster.create_again("t")
        fill(new, 10, first=100)
        found = await consumer.read(3, timeout_ms=300)
        assert [record.value for record in found] == [b"3", b"4"], "what was fetched already"
        with pytest.raises(errors.UnknownTopicId, match="offset 5") as caught:
            await consumer.read(3)
        assert caught.value.facts["partition"] == 0
        await consumer.seek("earliest")
        assert [record.value for record in await consumer.read(2)] == [b"100", b"101"]


async def test_reader_that_notices_the_new_topic_itself_is_told() -> None:
    """On a busy machine a back-off may be over before its timer fires: then the call that waits looks first."""
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 1)
    async with (
        asyncio.timeout(5),
        cluster.client() as client,
        client.consumer("t", start="earliest", max_wait_ms=10) as consumer,
    ):
        assert len(await consumer.read(1)) == 1
        consumer.pause()
        await asyncio.sleep(0.05)  # the fetch that is on its way would wake the reader
        cluster.create_again("t")
        await consumer._metadata.refresh()
        consumer._subscription.state("t", 0).is_paused = False  # as a back-off's end: no `pump` says so
        with pytest.raises(errors.UnknownTopicId, match="created again"):
            await consumer.read(1)


@pytest.mark.parametrize(("policy", "first"), [("earliest", 0), ("latest", 10)])
async def test_position_in_the_old_topic_is_reset_if_the_user_says_so(policy: Any, first: int) -> None:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with (
        asyncio.timeout(5),
        cluster.client() as client,
        client.consumer("t", start="earliest", on_out_of_range=policy) as consumer,
    ):
        assert len(await consumer.read(5)) == 5
        (new,) = cluster.create_again("t")
        fill(new, 10)
        while consumer.positions() != {TopicPartition("t", 0): first}:
            records = await consumer.read(1, timeout_ms=10)
            assert not records or first == 0
            if records:
                assert records[0].offset == 0
                break
        fill(new, 1, first=10)
        assert (await consumer.read(20, timeout_ms=200))[-1].offset == 10


@pytest.mark.parametrize("policy", ["error", "earliest"])
async def test_range_of_the_old_topic_is_not_carried_to_the_new_one_whatever_the_user_says(policy: Any) -> None:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with (
        asyncio.timeout(5),
        cluster.client() as client,
        client.consumer("t", start="earliest", until=20, on_out_of_range=policy) as consumer,
    ):
        assert len(await consumer.read(5)) == 5
        fill(cluster.create_again("t")[0], 10)
        with pytest.raises(errors.UnknownTopicId):
            await consumer.read(20)


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), (3, 3)])
async def test_consumer_opened_after_the_creation_reads_the_new_topic(start: Any, first: int) -> None:
    """The client's metadata is old, but nothing was read or looked up in the old topic."""
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with asyncio.timeout(5), cluster.client() as client:
        async with client.consumer("t", start="earliest") as consumer:
            await consumer.read(5)
        fill(cluster.create_again("t")[0], 5, first=100)
        async with client.consumer("t", start=start) as consumer:
            assert [record.value for record in await consumer.read(1)] == [b"%d" % (100 + first)]


async def test_new_topic_with_fewer_partitions_is_an_error_and_not_silence() -> None:
    cluster = FakeCluster()
    for partition in cluster.add_topic("t", 3):
        fill(partition, 1)
    async with asyncio.timeout(5), cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        found = []
        while len(found) < 3:
            found += await consumer.read(3, timeout_ms=100)
        cluster.create_again("t", 1)
        raised = 0
        while raised < 3:
            with pytest.raises(errors.UnknownTopicId):
                await consumer.read(1)
            raised += 1


async def test_offsets_are_looked_up_in_the_new_topic() -> None:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with asyncio.timeout(5), cluster.client() as client:
        assert await client.admin.list_offsets("t", "latest") == [5]
        fill(cluster.create_again("t")[0], 2)
        async with client.consumer("t", start="latest") as consumer:
            assert consumer.position(0) == 2


async def test_reset_to_the_new_topic_comes_after_the_records_of_the_old_one() -> None:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], 5)
    async with (
        asyncio.timeout(5),
        cluster.client() as client,
        client.consumer("t", start="earliest", on_out_of_range="earliest") as consumer,
    ):
        found = [record.value for record in await consumer.read(2)]
        (new,) = cluster.create_again("t")
        fill(new, 10, first=100)
        await asyncio.sleep(0.1)  # the refusal and the new id are known by now
        while len(found) < 15:
            found += [record.value for record in await consumer.read(20, timeout_ms=100)]
    assert found == [b"%d" % number for number in [*range(5), *range(100, 110)]]


# Topics that only seem to be gone.


def test_broker_that_does_not_know_its_cluster_yet_is_not_believed() -> None:
    cache = MetadataCache()
    cache.apply(answer(5, topic_id=b"one"))
    starting = Answer(cluster_id="", metadata_offset=-1, brokers=(), missing_topics=("t",))
    assert not cache.apply(starting)
    assert cache.topic_id("t") == b"one" and not cache.is_missing("t")


def test_producer_epoch_is_never_used_again_with_other_records() -> None:
    """If the topic turns out to be the same, the broker would take new records for duplicates of older ones."""
    made = accumulator()
    queue = made.queue("t", 0, b"one")
    for epoch in range(4):
        batch = add(queue)
        assert queue.take(0, leader_epoch=0) is batch
        assert (batch.producer_epoch, batch.base_sequence) == (epoch, 0)
        queue.succeed(batch, base_offset=0)
        made.retire_topic("t", errors.UnknownTopicOrPartition())
        queue = made.queue("t", 0, b"one")
    made.producer_epoch = 2**15 - 1
    add(queue)
    assert queue.take(0, leader_epoch=0) is not None
    made.retire_topic("t", errors.UnknownTopicOrPartition())
    assert made.is_identity_needed and made.producer_id is None


async def test_brokers_that_start_without_metadata_lose_and_repeat_nothing() -> None:
    # Found by the simulator: records were acknowledged as duplicates of those before the restart, and lost.
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    metadata = cluster._GetMetadata
    is_starting = False

    def empty(broker_id: int, request: Any) -> Any:
        response = metadata(broker_id, request)
        if is_starting:
            response.Clear()
            for name in request.topics:
                response.topics.add(name=name).error.code = errors.UnknownTopicOrPartition.code
        return response

    cluster._GetMetadata = empty  # type: ignore[method-assign]
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        for number in range(3):
            await producer.send("t", b"%d" % number)
        is_starting = True
        cluster.elect("t", 0, None)
        futures = [producer.send_nowait("t", b"%d" % number) for number in range(3, 6)]
        await asyncio.sleep(0.1)
        is_starting = False
        cluster.elect("t", 0, 1)
        assert [(await future).offset for future in futures] == [3, 4, 5]
    assert partition.values() == [b"%d" % number for number in range(6)]
