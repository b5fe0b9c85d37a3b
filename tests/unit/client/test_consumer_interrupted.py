"""What a consumer hands out when errors and cancellation come in between: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest
from fake_cluster import FakeCluster, ModelPartition

from logcluster import sync
from logcluster.client.consumer import Consumer
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.builder import build_batch

A, B = TopicPartition("a", 0), TopicPartition("b", 0)


def fill(partition: ModelPartition, count: int, *, first: int = 0, per_batch: int = 10) -> None:
    for begin in range(first, first + count, per_batch):
        end = min(begin + per_batch, first + count)
        partition.append(build_batch([(1000 + index, None, b"%d" % index, ()) for index in range(begin, end)]))


def two_topics(count: int = 5, *, b_starts_at: int = 0) -> FakeCluster:
    cluster = FakeCluster()
    for name in "ab":
        (partition,) = cluster.add_topic(name)
        fill(partition, count)
    cluster.topics["b"][0].log_start_offset = b_starts_at
    return cluster


def both(client: Any, **options: Any) -> Consumer:
    consumer: Consumer = client.consumer("a", "b", start={A: 0, B: 1}, **options)
    return consumer


def damage(partition: ModelPartition, index: int) -> bytes:
    """Flip a bit of a batch; returns the sound one."""
    sound = partition.batches[index]
    partition.batches[index] = sound[:-1] + bytes([sound[-1] ^ 1])
    return sound


# Errors.


@pytest.mark.parametrize("first", ["a", "b"])
async def test_read_returns_what_it_has_before_the_error_of_another_partition(first: str) -> None:
    cluster = two_topics(b_starts_at=3)

    async def order(broker_id: int, method: str, request: Any) -> None:
        if method == "Fetch":
            items = sorted(request.partitions, key=lambda item: str(item.topic) != first)
            del request.partitions[:]
            request.partitions.extend(items)

    cluster.before = order
    async with cluster.client() as client, both(client) as consumer:
        found = []
        raised = 0
        for _ in range(3):
            try:
                records = await consumer.read(100, timeout_ms=100)
            except errors.OffsetOutOfRange as error:
                assert error.facts["topic"] == "b"
                raised += 1
                continue
            found += [(record.topic, record.offset) for record in records]
        assert found == [("a", offset) for offset in range(5)]
        assert raised == 1
        assert consumer.positions() == {A: 5, B: 1}


async def test_error_that_waits_is_forgotten_when_the_user_seeks() -> None:
    cluster = two_topics(b_starts_at=3)
    async with cluster.client() as client, both(client) as consumer:
        consumer.pause(("b", 0))
        consumer.resume(("b", 0))
        found = await consumer.read(5)
        while len(found) < 5:
            found += await consumer.read(5)
        await consumer.seek(3, partition=("b", 0))
        assert [(record.topic, record.offset) for record in await consumer.read(2)] == [("b", 3), ("b", 4)]


async def test_read_returns_the_records_before_a_damaged_batch_and_never_skips_it() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    fill(partition, 30)
    sound = damage(partition, 1)
    async with cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        assert [record.offset for record in await consumer.read(100)] == list(range(10))
        for _ in range(2):
            with pytest.raises(errors.CorruptMessage):
                await consumer.read(100)
            assert consumer.position(0) == 10
        partition.batches[1] = sound
        assert [record.offset for record in await consumer.read(20)] == list(range(10, 30))


async def test_iteration_goes_on_after_an_error() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    fill(partition, 30)
    sound = damage(partition, 1)
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        records = aiter(consumer)
        found = []
        with pytest.raises(errors.CorruptMessage):
            async for record in records:
                found.append(record.offset)
        partition.batches[1] = sound
        found += [record.offset async for record in records]
        assert found == list(range(30))
        with pytest.raises(StopAsyncIteration):
            await anext(records)


async def test_batches_hand_out_everything_before_and_after_an_error() -> None:
    cluster = two_topics(b_starts_at=3)
    async with cluster.client() as client, both(client) as consumer:
        batches = consumer.batches(max_wait_ms=50)
        found = []
        raised = 0
        for _ in range(4):
            try:
                found += [(record.topic, record.offset) for record in await anext(batches)]
            except errors.OffsetOutOfRange:
                raised += 1
        assert (found, raised) == ([("a", offset) for offset in range(5)], 1)


def test_blocking_read_returns_what_it_has_before_the_error() -> None:
    client = sync.Blocking(FakeCluster().client())
    with client:
        for topic in "ab":
            client.admin.create_topic(topic, partitions=1)
            with client.producer() as producer:
                producer.send_many(topic, [b"%d" % index for index in range(5)])
        client.admin.delete_records({B: 3})
        with client.consumer("a", "b", start={A: 0, B: 1}) as consumer:
            found: list[Any] = []
            raised = 0
            for _ in range(3):
                try:
                    found += consumer.read(100, timeout_ms=100)
                except errors.OffsetOutOfRange:
                    raised += 1
        assert [(record.topic, record.offset) for record in found] == [("a", offset) for offset in range(5)]
        assert raised == 1


# Cancellation.


async def test_cancelled_read_gives_back_what_it_had() -> None:
    cluster = two_topics()
    async with cluster.client() as client, both(client) as consumer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await consumer.read(100)
        assert consumer.positions() == {A: 0, B: 1}
        records = await consumer.read(9)
        assert sorted((record.topic, record.offset) for record in records) == [
            *(("a", offset) for offset in range(5)),
            *(("b", offset) for offset in range(1, 5)),
        ]


async def test_cancelled_read_in_the_middle_of_a_batch_keeps_order_and_bound() -> None:
    cluster = two_topics(count=25)
    async with cluster.client() as client, client.consumer("a", start="earliest", max_records=30) as consumer:
        found = [record.offset for record in await consumer.read(7)]
        for timeout_s in (0, 0.05):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await consumer.read(100)
            assert consumer.position(0) == 7
        fill(cluster.topics["a"][0], 20, first=25)
        found += [record.offset async for record in consumer]
    assert found == list(range(30))


async def test_cancelled_read_does_not_undo_a_seek_made_meanwhile() -> None:
    cluster = two_topics()
    async with cluster.client() as client, client.consumer("a", start="earliest") as consumer:
        reading = asyncio.create_task(consumer.read(100))
        while consumer.position(0) != 5:
            await asyncio.sleep(0.001)
        await consumer.seek(3)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert [record.offset for record in await consumer.read(2)] == [3, 4]


async def test_cancelled_anext_ends_neither_the_iterator_nor_skips_a_record() -> None:
    cluster = two_topics()
    async with cluster.client() as client, client.consumer("a", start="earliest") as consumer:
        records = aiter(consumer)
        found = [(await anext(records)).offset for _ in range(5)]
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await anext(records)
        fill(cluster.topics["a"][0], 2, first=5)
        found += [(await anext(records)).offset for _ in range(2)]
    assert found == list(range(7))


@pytest.mark.parametrize("options", [{}, {"max_records": 3}])
async def test_cancelled_anext_of_batches_skips_nothing(options: Any) -> None:
    cluster = two_topics()
    async with cluster.client() as client, client.consumer("a", start="earliest") as consumer:
        async with aclosing(cast(Any, consumer.batches(**options))) as batches:
            found = []
            while len(found) < 5:
                found += [record.offset for record in await anext(batches)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await anext(batches)
            fill(cluster.topics["a"][0], 2, first=5)
            while len(found) < 7:
                found += [record.offset for record in await anext(batches)]
        assert found == list(range(7))
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_every_moment_of_cancellation_is_harmless() -> None:
    cluster = two_topics(count=40)
    async with cluster.client() as client, both(client, until=40) as consumer:
        found: list[tuple[str, int]] = []
        for steps in range(1, 200):
            reading = asyncio.create_task(consumer.read(17))
            for _ in range(steps % 23):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                records = await reading
            except asyncio.CancelledError:
                continue
            found += [(record.topic, record.offset) for record in records]
        found += [(record.topic, record.offset) async for record in consumer]
    assert [offset for topic, offset in found if topic == "a"] == list(range(40))
    assert [offset for topic, offset in found if topic == "b"] == list(range(1, 40))


# Positions that move while records wait to be handed out.


async def test_reset_comes_after_the_records_that_were_fetched_before() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    fill(partition, 100)
    options: Any = {"start": "earliest", "until": "end", "on_out_of_range": "earliest", "partition_size_bytes_max": 1}

    async def trim(broker_id: int, method: str, request: Any) -> None:
        if method == "Fetch" and request.partitions[0].fetch_offset == 20:
            partition.log_start_offset = 50

    cluster.before = trim
    async with cluster.client() as client, client.consumer("t", **options) as consumer:
        found = [record.offset for record in await consumer.read(3)]
        await asyncio.sleep(0.05)
        found += [record.offset async for record in consumer]
    assert found == [*range(20), *range(50, 100)]


async def test_reader_whose_history_was_cut_reads_again_what_it_had_not_handed_out() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    fill(partition, 40)
    fetch = cluster._Fetch
    is_told = False

    async def diverge(broker_id: int, request: Any) -> Any:
        nonlocal is_told
        response = await fetch(broker_id, request)
        if request.partitions[0].fetch_offset == 40 and not is_told:
            is_told = True
            del response.partitions[:]
            answer = response.partitions.add(topic="t", partition=0)
            answer.diverging_epoch.end_offset = 25
        return response

    cluster._Fetch = diverge  # type: ignore[method-assign]
    async with cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        found = [record.offset for record in await consumer.read(13)]
        while not is_told:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        found += [record.offset for record in await consumer.read(27)]
    assert found == list(range(40))
