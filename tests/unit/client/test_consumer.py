"""The consumer: where it begins, what it hands out, where it ends, and what it does when brokers fail."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition, lost

from logcluster.client.records import Timestamp
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.builder import build_batch
from logcluster.record.control import ControlType, build_control_batch


def fill(partition: ModelPartition, count: int, *, first: int = 0, per_batch: int = 10) -> None:
    for begin in range(first, first + count, per_batch):
        end = min(begin + per_batch, first + count)
        partition.append(build_batch([(1000 + index, None, b"%d" % index, ()) for index in range(begin, end)]))


def make(partitions: int = 1, count: int = 100) -> FakeCluster:
    cluster = FakeCluster()
    for partition in cluster.add_topic("t", partitions):
        fill(partition, count)
    return cluster


async def values(cluster: FakeCluster, **options: Any) -> list[int]:
    async with cluster.client() as client, client.consumer("t", **options) as consumer:
        return [int(record.value or b"") async for record in consumer]


async def test_record_has_all_its_parts() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    partition.append(build_batch([(5, b"k", b"v", [("h", b"1"), ("h", None)])]))
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        (record,) = [record async for record in consumer]
    assert record == ("t", 0, 0, 5, b"k", b"v", [("h", b"1"), ("h", None)])


async def test_reads_everything_from_the_beginning_to_the_end() -> None:
    assert await values(make(), start="earliest", until="end") == list(range(100))


async def test_order_holds_within_each_partition() -> None:
    found = await values(make(partitions=3), start="earliest", until="end")
    assert len(found) == 300
    seen: dict[int, list[int]] = {}
    async with make(partitions=3).client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        async for record in consumer:
            seen.setdefault(record.partition, []).append(record.offset)
    assert seen == {index: list(range(100)) for index in range(3)}


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("earliest", 0),
        (37, 37),
        (100, 100),
        (Timestamp(1042), 42),
        (datetime.fromtimestamp(1.042, UTC), 42),
        (Timestamp(9999), 100),
        ({0: 55}, 55),
        ({("t", 0): "earliest"}, 0),
    ],
)
async def test_start(start: Any, first: int) -> None:
    assert await values(make(), start=start, until="end") == list(range(first, 100))


@pytest.mark.parametrize(("until", "end"), [("end", 100), (37, 37), (0, 0), (Timestamp(1042), 42), ({0: 5}, 5)])
async def test_until(until: Any, end: int) -> None:
    assert await values(make(), start="earliest", until=until) == list(range(end))


async def test_latest_begins_after_what_is_there() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start="latest", max_records=2) as consumer:
        fill(cluster.topics["t"][0], 2, first=100)
        assert [record.offset async for record in consumer] == [100, 101]


async def test_max_records_ends_in_the_middle_of_a_batch() -> None:
    assert await values(make(), start="earliest", max_records=25) == list(range(25))
    assert await values(make(), start="earliest", max_records=0) == []


async def test_partitions_can_be_chosen() -> None:
    cluster = make(partitions=3, count=10)
    async with cluster.client() as client:
        async with client.consumer("t", start="earliest", until="end", partitions=[2]) as consumer:
            assert {record.partition async for record in consumer} == {2}
        with pytest.raises(errors.UnknownTopicOrPartition):
            async with client.consumer("t", partitions=[3]):
                pass


async def test_several_topics() -> None:
    cluster = make(count=5)
    fill(cluster.add_topic("u")[0], 5)
    async with cluster.client() as client, client.consumer("t", "u", start="earliest", until="end") as consumer:
        assert sorted((record.topic, record.offset) for record in [r async for r in consumer]) == [
            (topic, offset) for topic in "tu" for offset in range(5)
        ]


async def test_leaving_a_loop_and_entering_another_skips_and_repeats_nothing() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        found = []
        for stop in (1, 7, 10, 35):
            async for record in consumer:
                found.append(record.offset)
                if len(found) >= stop:
                    break
            assert consumer.positions() == {TopicPartition("t", 0): len(found)}
        found += [record.offset for record in await consumer.read(3)]
        found += [record.offset async for record in consumer]
    assert found == list(range(100))


async def test_batches_hand_out_lists() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        lists = [records async for records in consumer.batches(max_records=7)]
    assert [record.offset for records in lists for record in records] == list(range(100))
    assert max(map(len, lists)) == 7


async def test_read_returns_what_came_in_time() -> None:
    cluster = make(count=5)
    async with cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(3)) == 3
        assert len(await consumer.read(10, timeout_ms=60)) == 2
        assert await consumer.read(10, timeout_ms=10) == []
        fill(cluster.topics["t"][0], 1, first=5)
        (record,) = await consumer.read(1, timeout_ms=5000)
        assert record.offset == 5


async def test_seek_goes_on_from_there() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(55)) == 55
        await consumer.seek(20)
        assert [record.offset for record in await consumer.read(3)] == [20, 21, 22]
        await consumer.seek({0: "earliest"})
        assert [record.offset for record in await consumer.read(1)] == [0]
        await consumer.seek("end")
        assert consumer.position(0) == 100
        await consumer.seek(Timestamp(1099), partition=0)
        assert [record.offset for record in await consumer.read(1)] == [99]


async def test_seek_inside_a_loop_takes_effect_with_the_next_record() -> None:
    cluster = make()
    found = []
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        async for record in consumer:
            found.append(record.offset)
            if len(found) == 3:
                await consumer.seek(97)
    assert found == [0, 1, 2, 97, 98, 99]


async def test_answer_to_a_position_the_user_has_left_is_ignored() -> None:
    cluster = make()
    gates = {90: asyncio.Event(), 0: asyncio.Event()}
    asked = asyncio.Event()

    async def hold(broker_id: int, method: str, request: Any) -> None:
        if method == "Fetch" and request.partitions[0].fetch_offset in gates:
            asked.set()
            await gates[request.partitions[0].fetch_offset].wait()

    cluster.before = hold
    async with cluster.client() as client, client.consumer("t", start=90) as consumer:
        await asked.wait()
        await consumer.seek(0)
        gates[90].set()
        assert await consumer.read(1, timeout_ms=20) == []
        gates[0].set()
        assert [record.offset for record in await consumer.read(3)] == [0, 1, 2]


async def test_paused_partition_keeps_its_place() -> None:
    cluster = make(partitions=2, count=20)
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        first = await consumer.read(3)
        consumer.pause(first[0].partition)
        rest = await consumer.read(20, timeout_ms=50)
        assert {record.partition for record in rest} == {1 - first[0].partition}
        consumer.resume()
        rest += [record async for record in consumer]
    offsets = [(record.partition, record.offset) for record in [*first, *rest]]
    assert sorted(offsets) == [(partition, offset) for partition in range(2) for offset in range(20)]


async def test_new_leader_is_followed() -> None:
    cluster = make()
    options: Any = {"start": "earliest", "until": 200, "partition_size_bytes_max": 1}
    async with cluster.client() as client, client.consumer("t", **options) as consumer:
        found = [record.offset for record in await consumer.read(50)]
        cluster.kill(0)
        cluster.elect("t", 0, 1)
        fill(cluster.topics["t"][0], 100, first=100)
        found += [record.offset async for record in consumer]
    assert found == list(range(200))


async def test_lost_connections_repeat_and_skip_nothing() -> None:
    cluster = make()
    count = 0

    async def cut(broker_id: int, method: str, request: Any) -> None:
        nonlocal count
        count += 1
        if method == "Fetch" and count % 3:
            raise lost()

    cluster.after = cut
    assert await values(cluster, start="earliest", until="end", partition_size_bytes_max=1) == list(range(100))


async def test_offset_that_is_gone_is_an_error_unless_told_otherwise() -> None:
    cluster = make()
    cluster.topics["t"][0].log_start_offset = 50
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        await values(cluster, start=10, until="end")
    assert caught.value.facts["partition"] == 0
    assert await values(cluster, start=10, until="end", on_out_of_range="earliest") == list(range(50, 100))


async def test_offset_beyond_the_end_is_an_error_after_a_while() -> None:
    cluster = make()
    async with cluster.client(topic_wait_ms=60) as client, client.consumer("t", start=101) as consumer:
        with pytest.raises(errors.OffsetOutOfRange):
            await consumer.read(1)


async def test_new_leader_that_does_not_know_its_end_yet_is_waited_for() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start=100) as consumer:
        (partition,) = cluster.topics["t"]
        partition.end_offset = 90
        assert await consumer.read(1, timeout_ms=80) == []
        partition.end_offset = 100
        fill(partition, 1, first=100)
        assert [record.offset for record in await consumer.read(1)] == [100]


async def test_deleted_topic_is_an_error() -> None:
    cluster = make()
    async with cluster.client(topic_wait_ms=60) as client, client.consumer("t", start="earliest") as consumer:
        await consumer.read(100)
        del cluster.topics["t"]
        cluster.metadata_offset += 1
        with pytest.raises(errors.UnknownTopicOrPartition):
            await consumer.read(1)


async def test_beginning_that_moves_between_look_up_and_fetch_is_looked_up_again() -> None:
    cluster = make()

    async def move(broker_id: int, method: str, request: Any) -> None:
        if method == "Fetch":
            cluster.topics["t"][0].log_start_offset = 30

    cluster.before = move
    assert await values(cluster, start="earliest", until="end") == list(range(30, 100))


async def test_damaged_batch_is_an_error_after_the_records_before_it() -> None:
    cluster = make(count=20)
    batches = cluster.topics["t"][0].batches
    batches[1] = batches[1][:-1] + bytes([batches[1][-1] ^ 1])
    async with cluster.client() as client, client.consumer("t", start="earliest", until="end") as consumer:
        found = []
        with pytest.raises(errors.CorruptMessage):
            async for record in consumer:
                found.append(record.offset)
    assert found == list(range(10))


async def test_aborted_records_and_markers_are_left_out() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")

    def put(batch: bytes, count: int) -> None:
        from logcluster.record.batch import stamp

        partition.batches.append(stamp(batch, base_offset=partition.end_offset, leader_epoch=0))
        partition.end_offset += count

    def transactional(producer_id: int, value: bytes) -> None:
        put(
            build_batch(
                [(1, None, value, ())],
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=0,
                is_transactional=True,
            ),
            1,
        )

    def end(producer_id: int, kind: ControlType) -> None:
        put(
            build_control_batch(kind, producer_id=producer_id, producer_epoch=0, coordinator_epoch=0, timestamp_ms=1),
            1,
        )

    transactional(1, b"1")  # aborted
    transactional(2, b"2")  # committed
    end(1, ControlType.ABORT)
    transactional(1, b"3")  # committed
    end(2, ControlType.COMMIT)
    end(1, ControlType.COMMIT)
    fetch = cluster._Fetch

    async def with_aborted(broker_id: int, request: Any) -> Any:
        response = await fetch(broker_id, request)
        for answer in response.partitions:
            answer.aborted_transactions.add(producer_id=1, first_offset=0)
        return response

    cluster._Fetch = with_aborted  # type: ignore[method-assign]
    assert await values(cluster, start="earliest", until="end", isolation="read_committed") == [2, 3]
    assert await values(cluster, start="earliest", until="end") == [1, 2, 3]


async def test_budget_bounds_what_is_fetched_ahead() -> None:
    cluster = make(count=1000)
    size = len(cluster.topics["t"][0].batches[0])
    options: Any = {"start": "earliest", "partition_size_bytes_max": 3 * size}
    async with cluster.client() as client, client.consumer("t", **options) as consumer:
        await asyncio.sleep(0.05)
        assert sum(method == "Fetch" for _, method in cluster.calls) <= 2
        assert len(await consumer.read(1000)) == 1000


async def test_new_partitions_are_read_from_their_beginning() -> None:
    cluster = make(count=5)
    async with cluster.client(metadata_age_ms_max=20) as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(5)) == 5
        added = ModelPartition(1)
        fill(added, 3)
        cluster.topics["t"].append(added)
        cluster.metadata_offset += 1
        records = await consumer.read(3, timeout_ms=5000)
    assert [(record.partition, record.offset) for record in records] == [(1, 0), (1, 1), (1, 2)]


async def test_a_new_partition_without_leader_holds_up_no_other() -> None:
    cluster = make(count=5)
    async with cluster.client(metadata_age_ms_max=20) as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(5)) == 5
        led, offline = ModelPartition(1), ModelPartition(None)
        fill(led, 3)
        fill(offline, 2)
        cluster.topics["t"] += [offline, led]
        cluster.metadata_offset += 1
        records = await consumer.read(3, timeout_ms=5000)
        assert [(record.partition, record.offset) for record in records] == [(2, 0), (2, 1), (2, 2)]
        cluster.elect("t", 1, 0)
        records = await consumer.read(2, timeout_ms=5000)
    assert [(record.partition, record.offset) for record in records] == [(1, 0), (1, 1)]


async def test_unknown_topic_is_an_error() -> None:
    cluster = FakeCluster()
    async with cluster.client(topic_wait_ms=50) as client:
        with pytest.raises(errors.UnknownTopicOrPartition):
            async with client.consumer("nowhere"):
                pass


async def test_what_is_not_there_yet_is_refused_clearly() -> None:
    cluster = make()
    async with cluster.client() as client:
        with pytest.raises(errors.UnsupportedVersion):
            client.producer(transactional_id="x")
        with pytest.raises(errors.UnsupportedVersion):
            client.queue("t", group="g")


@pytest.mark.parametrize(
    "options",
    [{"start": "middle"}, {"start": -1}, {"isolation": "none"}, {"on_out_of_range": "x"}, {"max_records": -1}],
)
async def test_impossible_arguments_are_refused(options: Any) -> None:
    cluster = make()
    async with cluster.client() as client:
        with pytest.raises(errors.RequestError):
            async with client.consumer("t", **options):
                pass


async def test_lag_is_known_from_the_last_answer() -> None:
    cluster = make()
    async with cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        await consumer.read(40)
        assert consumer.lag() == {TopicPartition("t", 0): 60}
