"""The producer against brokers that lose connections, change leaders, fall silent and refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition, lost, not_sent

from logcluster.client.batch import Batch
from logcluster.client.futures import RecordFuture
from logcluster.client.producer import Producer
from logcluster.client.records import RecordsLost
from logcluster.model import errors
from logcluster.record.compression import Compression


def numbers(partitions: list[ModelPartition]) -> list[list[int]]:
    return [[int(value or b"-1") for value in partition.values()] for partition in partitions]


async def test_awaited_send_tells_where_the_record_is() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        for offset in range(3):
            ack = await producer.send("t", b"v", key=b"k", headers={"h": b"1"}, timestamp_ms=5)
            assert ack == ("t", 0, offset, 5)
    assert partition.values() == [b"v"] * 3


async def test_records_of_a_topic_not_known_yet_keep_their_order() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        futures = [producer.send_nowait("t", b"%d" % index) for index in range(10)]
        acks = [await future for future in futures]
    assert [ack.offset for ack in acks] == list(range(10))
    assert numbers(partitions) == [list(range(10))]


async def test_many_records_travel_in_few_requests() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t", 3)
    async with cluster.client() as client, client.producer() as producer:
        sent = await producer.send_many("t", ((b"k%d" % (index % 50), b"%d" % index) for index in range(10_000)))
        assert len(sent) == 10_000
        assert sent[0].offset == 0
        assert sum(partition.end_offset for partition in partitions) == 10_000
    assert sum(method == "Produce" for _, method in cluster.calls) < 50
    for written in numbers(partitions):
        assert written == sorted(written)


async def test_same_key_always_goes_to_the_same_partition() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 5)
    async with cluster.client() as client, client.producer() as producer:
        first = await producer.send("t", b"a", key=b"21")
        second = await producer.send("t", b"b", key=b"21")
    assert first.partition == second.partition == (-973932308 & 0x7FFFFFFF) % 5


async def test_records_without_a_key_spread_over_partitions() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t", 4)
    async with cluster.client() as client, client.producer() as producer:
        for _ in range(40):
            await producer.send("t", b"v")
    assert all(partition.end_offset > 0 for partition in partitions)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_lost_connections_write_nothing_twice_and_keep_the_order(when: str) -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t", 2)
    count = 0

    async def cut(broker_id: int, method: str, request: Any) -> None:
        nonlocal count
        count += 1
        if method == "Produce" and count % 3 == 0:
            raise lost()

    async with cluster.client() as client, client.producer(linger_ms=0, batch_size_bytes=100) as producer:
        setattr(cluster, when, cut)
        futures = []
        for index in range(200):
            futures.append(producer.send_nowait("t", b"%d" % index, partition=index % 2))
            await asyncio.sleep(0)
        acks = [await future for future in futures]
    assert numbers(partitions) == [list(range(0, 200, 2)), list(range(1, 200, 2))]
    assert [ack.offset for ack in acks] == [index // 2 for index in range(200)]


async def test_leader_change_is_followed_by_the_hint() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.elect("t", 0, 2)
        await producer.send("t", b"1")
    assert numbers(partitions) == [[0, 1]]
    assert [broker_id for broker_id, method in cluster.calls if method == "Produce"] == [0, 0, 2]


async def test_killed_leader_is_replaced_without_loss_or_repetition() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")

    async def fail_over() -> None:
        await asyncio.sleep(0.05)
        cluster.kill(0)
        await asyncio.sleep(0.1)
        cluster.elect("t", 0, 1)

    async with cluster.client() as client, client.producer(linger_ms=0) as producer:
        killer = asyncio.create_task(fail_over())
        for index in range(300):
            await producer.send("t", b"%d" % index)
            await asyncio.sleep(0.001)
        await killer
    assert numbers(partitions) == [list(range(300))]


async def test_silent_leader_is_left_once_another_one_leads() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    async with cluster.client(stall_ms=50) as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.silent.add(0)
        waiting = producer.send_nowait("t", b"1")
        await asyncio.sleep(0.02)
        cluster.elect("t", 0, 1)
        async with asyncio.timeout(5):
            await waiting
    assert numbers(partitions) == [[0, 1]]


async def test_slow_leader_that_still_leads_is_waited_for() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")

    async def slow(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            await asyncio.sleep(0.2)

    async with cluster.client(stall_ms=20) as client, client.producer() as producer:
        cluster.before = slow
        await producer.send("t", b"0")
    assert numbers(partitions) == [[0]]
    assert sum(method == "Produce" for _, method in cluster.calls) == 1


async def test_buffer_refuses_when_full_and_takes_again_when_acknowledged() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    async with cluster.client() as client, client.producer(buffer_size_bytes=1000) as producer:
        await producer.send("t", b"0")
        taken = 1
        with pytest.raises(errors.BufferFull) as refused:
            while True:
                producer.send_nowait("t", b"%d" % taken + b" " * 90)
                taken += 1
        assert taken == 1 + 1000 // (24 + 91)
        assert refused.value.definite
        await producer.send("t", b"%d" % taken + b" " * 90)
        assert producer.buffered_size_bytes == 0
    assert numbers(partitions) == [list(range(taken + 1))]


async def test_record_larger_than_the_buffer_is_refused_at_once() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client, client.producer(buffer_size_bytes=1000) as producer:
        with pytest.raises(errors.BufferFull):
            await producer.send("t", b"x" * 2000)


async def test_leaving_the_block_flushes() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t", 3)
    async with cluster.client() as client, client.producer(linger_ms=60_000) as producer:
        for index in range(100):
            producer.send_nowait("t", b"%d" % index)
            await asyncio.sleep(0)
    assert sum(partition.end_offset for partition in partitions) == 100


async def test_leaving_the_block_names_records_that_were_lost_and_never_awaited() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 2)

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no thanks")

    async with cluster.client() as client:
        with pytest.raises(RecordsLost) as caught:
            async with client.producer() as producer:
                cluster.before = refuse
                for index in range(5):
                    producer.send_nowait("t", b"v", partition=index % 2)
                with pytest.raises(errors.InvalidRecord):
                    await producer.send("t", b"v", partition=1)
    (first, second) = sorted(caught.value.exceptions, key=lambda error: str(error.facts["partition"]))
    assert first.facts == {"topic": "t", "partition": 0, "record_count": 3}
    assert second.facts == {"topic": "t", "partition": 1, "record_count": 2}
    assert isinstance(first, errors.InvalidRecord)
    assert caught.value.definite
    assert isinstance(caught.value, errors.LogClusterError)
    assert "t-0: 3 records not written: no thanks" in str(caught.value)


async def test_losses_are_noted_on_the_error_that_leaves_the_block() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no thanks")

    async with cluster.client() as client:
        with pytest.raises(ZeroDivisionError) as caught:
            async with client.producer() as producer:
                cluster.before = refuse
                producer.send_nowait("t", b"v")
                raise ZeroDivisionError
    assert "t-0: 1 record not written" in caught.value.__notes__[0]


async def test_unknown_outcome_is_reported_as_such() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")

    async def lose(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise lost()

    async with cluster.client() as client, client.producer(delivery_timeout_ms=150) as producer:
        cluster.after = lose
        with pytest.raises(errors.Disconnected) as caught:
            await producer.send("t", b"v")
    assert not caught.value.definite
    assert partition.values() == [b"v"], "written once, though nobody could say so"


async def test_unreachable_leader_is_reported_as_definite() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    async with cluster.client() as client, client.producer(delivery_timeout_ms=150) as producer:
        await producer.send("t", b"0")
        cluster.kill(0)
        with pytest.raises(errors.BrokerNotAvailable) as caught:
            await producer.send("t", b"1")
    assert caught.value.definite
    assert partition.end_offset == 1


async def test_too_few_replicas_are_waited_for_and_then_reported() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.NotEnoughReplicas("1 of 2")

    async with cluster.client() as client, client.producer(delivery_timeout_ms=120) as producer:
        cluster.before = refuse
        with pytest.raises(errors.NotEnoughReplicas) as caught:
            await producer.send("t", b"v")
    assert caught.value.definite
    assert caught.value.facts["partition"] == 0
    assert 2 < sum(method == "Produce" for _, method in cluster.calls) < 20


async def test_unknown_topic_is_reported_after_the_time_to_wait_for_it() -> None:
    cluster = FakeCluster()
    async with cluster.client(topic_wait_ms=60) as client, client.producer() as producer:
        with pytest.raises(errors.UnknownTopicOrPartition) as caught:
            await producer.send("nowhere", b"v")
        assert "nowhere" in caught.value.message
        cluster.add_topic("nowhere")
        assert (await producer.send("nowhere", b"v")).offset == 0


async def test_partition_that_does_not_exist_is_refused() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 2)
    async with cluster.client() as client, client.producer() as producer:
        held = producer.send_nowait("t", b"v", partition=2)
        with pytest.raises(errors.UnknownTopicOrPartition):
            await held
        with pytest.raises(errors.UnknownTopicOrPartition):
            producer.send_nowait("t", b"v", partition=2)


@pytest.mark.parametrize("value", ["text", 5, ["list"]])
async def test_what_is_no_record_is_refused(value: Any) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        with pytest.raises(errors.InvalidRecord):
            await producer.send("t", value)
        await producer.send("t", b"fine")
        with pytest.raises(errors.InvalidRecord):
            producer.send_nowait("t", value)
        assert producer.buffered_size_bytes == 0


async def test_cancelled_send_still_writes_its_record() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    entered = asyncio.Event()

    async def slow(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            entered.set()
            await asyncio.sleep(0.02)

    async with cluster.client() as client, client.producer() as producer:
        cluster.before = slow
        task = asyncio.create_task(producer.send("t", b"7"))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert numbers(partitions) == [[7]]


async def test_cancelling_one_waiter_leaves_the_others_of_the_batch() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        tasks = [asyncio.create_task(producer.send("t", b"v")) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert [results[0].offset, results[2].offset] == [0, 2]  # type: ignore[union-attr]


async def test_acks_0_and_1_need_no_producer_id() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    async with cluster.client() as client:
        async with client.producer(acks=0) as producer:
            assert (await producer.send("t", b"v")).offset == -1
        async with client.producer(acks=1) as producer:
            assert (await producer.send("t", b"v")).offset == 1
    assert partition.end_offset == 2
    assert not any(method == "InitProducerId" for _, method in cluster.calls)


async def test_partitions_added_later_are_used() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"v")
        partitions.append(ModelPartition(1))
        cluster.metadata_offset += 1
        with pytest.raises(errors.UnknownTopicOrPartition):
            producer.send_nowait("t", b"v", partition=1)
        await asyncio.sleep(0.05)
        assert (await producer.send("t", b"v", partition=1)).partition == 1


async def test_deleted_topic_is_given_up_before_the_delivery_timeout() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(topic_wait_ms=50) as client, client.producer() as producer:
        await producer.send("t", b"v")
        del cluster.topics["t"]
        cluster.metadata_offset += 1
        async with asyncio.timeout(5):
            with pytest.raises(errors.UnknownTopicOrPartition):
                await producer.send("t", b"v")


async def test_closed_producer_refuses() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client:
        async with client.producer() as producer:
            await producer.send("t", b"v")
        with pytest.raises(errors.ShuttingDown):
            producer.send_nowait("t", b"v")
        await producer.close()


async def test_cancelled_block_still_flushes() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")

    async def work() -> None:
        async with cluster.client() as client, client.producer() as producer:
            await producer.send("t", b"0")
            producer.send_nowait("t", b"1")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())
    assert partition.end_offset == 2


async def test_records_wait_while_no_producer_id_can_be_had() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    refusals = 0

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        nonlocal refusals
        if method == "InitProducerId" and refusals < 5:
            refusals += 1
            raise errors.NotReady()

    async with cluster.client() as client:
        cluster.before = refuse
        async with client.producer() as producer:
            await producer.send("t", b"v")
    assert (partition.end_offset, refusals) == (1, 5)


async def test_without_any_broker_connecting_fails_quickly_and_names_the_addresses() -> None:
    cluster = FakeCluster(1)
    cluster.kill(0)
    client = cluster.client(connect_timeout_ms=100)
    async with asyncio.timeout(5):
        with pytest.raises(errors.BrokerNotAvailable) as caught:
            await client.__aenter__()
    assert "fake:7070" in caught.value.message
    assert caught.value.hint


async def test_bug_in_a_task_fails_the_records_instead_of_hanging() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")

    async def explode(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise ZeroDivisionError

    async with cluster.client() as client, client.producer() as producer:
        cluster.before = explode
        async with asyncio.timeout(5):
            with pytest.raises(errors.LogClusterError) as caught:
                await producer.send("t", b"v")
    assert not caught.value.definite


async def test_refused_connection_is_retried_until_the_broker_is_back() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    refusals = 0

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        nonlocal refusals
        if method == "Produce" and refusals < 3:
            refusals += 1
            raise not_sent("refused")

    async with cluster.client() as client, client.producer() as producer:
        cluster.before = refuse
        await producer.send("t", b"v")
    assert (partition.end_offset, refusals) == (1, 3)


async def test_records_of_a_batch_too_large_for_its_topic_are_written_in_order() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    append = partition.append

    def bounded(data: bytes) -> int:
        if len(data) > 500:
            raise errors.MessageTooLarge(size_bytes_max=500)
        return append(data)

    partition.append = bounded  # type: ignore[method-assign]
    async with cluster.client() as client, client.producer(compression="none") as producer:
        await producer.send("t", b"0")
        future = producer.send_nowait("t", b"x" * 600)
        sent = await producer.send_many("t", [b"%d" % index for index in range(1, 500)])
        assert [ack.offset for ack in sent] == list(range(1, 500))
        with pytest.raises(errors.MessageTooLarge):
            await future
    assert numbers([partition]) == [list(range(500))]


async def test_record_somebody_waits_for_is_not_lost_unnoticed() -> None:
    batch = Batch("t", 0, compression=Compression.NONE, size_bytes_max=100, created_ms=0, deadline_ms=1)
    batch.append(1, None, b"v", ())
    batch.append(1, None, b"v", ())

    async def wait() -> None:
        await RecordFuture(batch, 1, 0)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    batch.fail(errors.InvalidRecord())
    assert batch.lost_count == 1
    with pytest.raises(errors.InvalidRecord):
        await task


async def test_calls_made_while_the_topic_is_not_known_are_taken_in_their_order() -> None:
    # Found by the simulator: a later send_many was written before an earlier one.
    for seed in range(20):
        cluster = FakeCluster()
        partitions = cluster.add_topic("t")

        async def slow(broker_id: int, method: str, request: Any, pause: int = seed % 7) -> None:
            if method == "GetMetadata":
                for _ in range(pause):
                    await asyncio.sleep(0)

        async with cluster.client() as client, client.producer() as producer:
            cluster.before = slow
            tasks: list[asyncio.Task[Any]] = []
            called: list[int] = []

            async def send(number: int, producer: Producer = producer, called: list[int] = called) -> None:
                called.append(number)
                await producer.send("t", b"%d" % number)

            async def send_many(first: int, producer: Producer = producer, called: list[int] = called) -> None:
                called.extend(range(first, first + 10))
                await producer.send_many("t", [b"%d" % number for number in range(first, first + 10)])

            for call in range(12):
                first = call * 10
                if (call + seed) % 3 == 0:
                    tasks.append(asyncio.create_task(send(first)))
                elif (call + seed) % 5 == 0:
                    called.append(first)
                    producer.send_nowait("t", b"%d" % first)
                else:
                    tasks.append(asyncio.create_task(send_many(first)))
                for _ in range((call * seed) % 4):
                    await asyncio.sleep(0)
            for task in tasks:
                await task
        assert numbers(partitions) == [called], seed
