"""The client against real broker processes: every call, both carriers, and brokers that die under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

import logcluster
from logcluster import sync
from logcluster.model.ids import TopicPartition
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(brokers=3) as running:
        yield running


@pytest.mark.parametrize("transport", ["lane", "grpc"])
async def test_records_come_back_as_they_went_in(cluster: Cluster, transport: Any) -> None:
    topic = f"round-trip-{transport}"
    async with cluster.client(transport=transport) as client:
        await client.admin.create_topic(topic, partitions=3, replication_factor=3)
        async with client.producer() as producer:
            ack = await producer.send(topic, b"value", key=b"key", headers=[("h", b"v"), ("h", None)], timestamp_ms=7)
            assert (ack.topic, ack.offset, ack.timestamp_ms) == (topic, 0, 7)
            assert await producer.send(topic, None, key=b"key") == (
                topic,
                ack.partition,
                1,
                pytest.approx(time.time() * 1000, abs=60_000),
            )
            sent = await producer.send_many(topic, [(b"k%d" % (index % 7), b"%d" % index) for index in range(2000)])
            assert len({(one.partition, one.offset) for one in sent}) == 2000
        async with client.consumer(topic, start="earliest", until="end") as consumer:
            records = [record async for record in consumer]
    first = next(record for record in records if record.key == b"key")
    assert first == (topic, ack.partition, 0, 7, b"key", b"value", [("h", b"v"), ("h", None)])
    assert len(records) == 2002
    for key in range(7):
        mine = [int(record.value or b"") for record in records if record.key == b"k%d" % key]
        assert mine == list(range(key, 2000, 7))


async def test_a_broker_that_stands_still_does_not_hold_up_questions_that_others_can_answer(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.admin.describe_cluster()
        for broker_id in cluster.broker_ids:
            await cluster.pause(broker_id)
            try:
                async with asyncio.timeout(6):
                    assert len((await client.admin.describe_cluster()).brokers) == 3
            finally:
                await cluster.resume(broker_id)
    await cluster.wait_ready()


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records(cluster: Cluster, compression: str) -> None:
    topic = f"compressed-{compression}"
    async with cluster.client() as client:
        await client.admin.create_topic(topic, partitions=1, replication_factor=3)
        async with client.producer(compression=compression) as producer:
            await producer.send_many(topic, [b"%d" % index * 20 for index in range(500)])
        async with client.consumer(topic, start="earliest", until="end") as consumer:
            assert [record.value async for record in consumer] == [b"%d" % index * 20 for index in range(500)]


async def test_consumer_begins_and_ends_where_it_is_told(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.admin.create_topic("places", partitions=1, replication_factor=3)
        async with client.producer() as producer:
            for index in range(100):
                producer.send_nowait("places", b"%d" % index, timestamp_ms=1_000_000 + index)
        for start, until, expected in [
            (10, 20, range(10, 20)),
            (datetime.fromtimestamp(1000.050, UTC), "end", range(50, 100)),
            ("earliest", logcluster.Timestamp(1_000_030), range(30)),
            ({0: 98}, "end", range(98, 100)),
        ]:
            async with client.consumer("places", start=start, until=until) as consumer:  # type: ignore[arg-type]
                assert [record.offset async for record in consumer] == list(expected)
        async with client.consumer("places", start="latest") as consumer:
            assert await consumer.read(1, timeout_ms=50) == []
            async with client.producer() as producer:
                await producer.send("places", b"new")
            assert [record.value for record in await consumer.read(1, timeout_ms=10_000)] == [b"new"]
        assert await client.admin.delete_records({("places", 0): 40}) == {TopicPartition("places", 0): 40}
        async with client.consumer("places", start="earliest", until="end") as consumer:
            assert [record.offset async for record in consumer] == list(range(40, 101))
        with pytest.raises(logcluster.OffsetOutOfRange):
            async with client.consumer("places", start=5, until="end") as consumer:
                await consumer.read(1)


async def test_admin_calls(cluster: Cluster) -> None:
    async with cluster.client() as client:
        admin = client.admin
        assert [broker.broker_id for broker in await admin.list_brokers()] == cluster.broker_ids
        described = await admin.describe_cluster()
        assert described.cluster_id == client.cluster_id == cluster.cluster_id
        quorum = await admin.describe_quorum()
        assert quorum.leader_id in cluster.broker_ids
        silences_ms = {voter.node_id: voter.last_contact_ms for voter in quorum.voters}
        assert silences_ms.pop(quorum.leader_id) is None and len(silences_ms) == 2
        assert all(silence_ms is not None and silence_ms < 5_000 for silence_ms in silences_ms.values())
        facts = await admin.create_topic("managed", partitions=2, replication_factor=2, config={"retention.ms": 60_000})
        assert facts.replication_factor == 2
        with pytest.raises(logcluster.TopicAlreadyExists):
            await admin.create_topic("managed")
        assert (await admin.create_topic("managed", exist_ok=True)).topic_id == facts.topic_id
        assert (await admin.describe_config("managed"))["retention.ms"].value == "60000"
        await admin.alter_topic("managed", {"retention.ms": 90_000, "max.message.bytes": 2000})
        with pytest.raises(logcluster.InvalidConfig):
            await admin.alter_topic("managed", {"retention.ms": "soon"})
        with pytest.raises(logcluster.InvalidConfig):
            await admin.create_topic("impossible", config={"no.such.key": 1})
        with pytest.raises(logcluster.InvalidReplicationFactor):
            await admin.create_topic("impossible", replication_factor=9)
        with pytest.raises(logcluster.InvalidTopic):
            await admin.create_topic("im/possible")
        assert len((await admin.create_partitions("managed", 4)).partitions) == 4
        replicas = [replica for replica in await admin.describe_replicas(["managed"]) if replica.topic == "managed"]
        assert len(replicas) == 8
        await admin.delete_topic("managed")
        assert "managed" not in await admin.list_topics()
        with pytest.raises(logcluster.UnknownTopicOrPartition):
            await admin.delete_topic("managed")


async def test_record_larger_than_the_topic_allows_is_refused_alone(cluster: Cluster) -> None:
    async with cluster.client() as client:
        await client.admin.create_topic("small", partitions=1, replication_factor=3, config={"max.message.bytes": 2000})
        async with client.producer(compression="none") as producer:
            await producer.send("small", b"0")
            futures = [producer.send_nowait("small", value) for value in (b"x" * 3000, b"1", b"2")]
            with pytest.raises(logcluster.MessageTooLarge):
                await futures[0]
            assert [(await future).offset for future in futures[1:]] == [1, 2]
            sent = await producer.send_many("small", [b"%d" % index for index in range(3, 1000)])
            assert sent[-1].offset == 999
        async with client.consumer("small", start="earliest", until="end") as consumer:
            assert [int(record.value or b"") async for record in consumer] == list(range(1000))


async def test_blocking_client(cluster: Cluster) -> None:
    def work() -> list[bytes | None]:
        with sync.connect(cluster.bootstrap) as client:
            client.admin.create_topic("blocking", partitions=1, replication_factor=3)
            with client.producer() as producer:
                assert producer.send("blocking", b"0").offset == 0
                producer.send_many("blocking", [b"%d" % index for index in range(1, 100)])
            with client.consumer("blocking", start="earliest", until="end") as consumer:
                return [record.value for record in consumer]

    assert await asyncio.to_thread(work) == [b"%d" % index for index in range(100)]


async def test_nobody_at_the_address_is_said_quickly() -> None:
    began = time.monotonic()
    with pytest.raises(logcluster.BrokerNotAvailable) as caught:
        async with logcluster.connect("127.0.0.1:9", connect_timeout_ms=500):
            pass
    assert time.monotonic() - began < 10
    assert "127.0.0.1:9" in caught.value.message


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_lost_leader_loses_repeats_and_reorders_nothing(cluster: Cluster, how: str) -> None:
    topic = f"failover-{how}"
    async with cluster.client() as client:
        await client.admin.create_topic(topic, partitions=2, replication_factor=3)
        async with client.producer(linger_ms=1) as producer, client.consumer(topic, start="earliest") as consumer:
            seen: dict[int, list[int]] = {0: [], 1: []}
            written = 0
            is_over = False

            async def write() -> int:
                nonlocal written
                while not is_over:
                    for _ in range(20):
                        producer.send_nowait(topic, b"%d" % (written // 2), partition=written % 2)
                        written += 1
                    await asyncio.sleep(0.005)
                await producer.flush()
                return written

            async def read() -> None:
                # Bounded reads, because the last record may be seen before the writer says that it was the last.
                while not (is_over and sum(map(len, seen.values())) >= written):
                    for record in await consumer.read(10_000, timeout_ms=200):
                        seen[record.partition].append(int(record.value or b""))

            tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
            await asyncio.sleep(0.5)
            leader_id = (await client.admin.describe_topic(topic)).partitions[0].leader_id
            assert leader_id is not None
            await (cluster.kill(leader_id) if how == "kill" else cluster.pause(leader_id))
            await asyncio.sleep(3)
            await (cluster.start(leader_id) if how == "kill" else cluster.resume(leader_id))
            await asyncio.sleep(1)
            is_over = True
            count = await tasks[0]
            async with asyncio.timeout(30):
                await tasks[1]
    assert seen == {0: list(range(count // 2)), 1: list(range(count // 2))}


async def test_topic_created_again_gets_nothing_that_was_meant_for_the_one_before(cluster: Cluster) -> None:
    async with (
        cluster.client() as client,
        cluster.client() as writer,
        cluster.client() as reader,
        writer.producer() as producer,
    ):
        await client.admin.create_topic("again", partitions=1, replication_factor=3)
        await producer.send("again", b"old")
        async with reader.consumer("again", start="earliest") as consumer:
            assert [record.value for record in await consumer.read(1)] == [b"old"]
            await client.admin.delete_topic("again")
            await client.admin.create_topic("again", partitions=1, replication_factor=3)
            with pytest.raises(logcluster.UnknownTopicId) as caught:  # the writer has not noticed yet
                await producer.send("again", b"lost")
            assert caught.value.definite
            assert (await producer.send("again", b"new")).offset == 0
            with pytest.raises(logcluster.UnknownTopicId):
                await consumer.read(1)
            await consumer.seek("earliest")
            assert [record.value for record in await consumer.read(1, timeout_ms=10_000)] == [b"new"]
        await writer.admin.delete_topic("again")
        await writer.admin.create_topic("again", partitions=1, replication_factor=3)
        assert (await producer.send("again", b"newer")).offset == 0
