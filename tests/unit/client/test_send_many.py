"""Many records in one call: where they are, and what became of each when some are lost."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition, lost

from logcluster.client.records import RecordAck, RecordsLost
from logcluster.model import errors


def numbers(partitions: list[ModelPartition]) -> list[list[int]]:
    return [[int(value or b"-1") for value in partition.values()] for partition in partitions]


async def test_send_many_to_a_topic_not_known_yet_tells_where_every_record_is() -> None:
    cluster = FakeCluster()
    partitions = cluster.add_topic("t", 3)
    async with cluster.client() as client, client.producer() as producer:
        records = [(b"k%d" % (index % 7), b"%d" % index) for index in range(5000)]
        first, second = await asyncio.gather(
            producer.send_many("t", records), producer.send_many("t", [b"-1"] * 10, partition=2)
        )
    assert len(first) == 5000 and len(second) == 10
    for index, ack in enumerate(first):
        if index % 500 == 0:
            assert partitions[ack.partition].values()[ack.offset] == b"%d" % index
    assert {ack.partition for ack in second} == {2}
    assert len({(ack.partition, ack.offset) for ack in [*first, *second]}) == 5010


async def test_send_many_to_an_unknown_topic_says_so_and_reports_nothing_later() -> None:
    cluster = FakeCluster()
    async with cluster.client(topic_wait_ms=60) as client, client.producer() as producer:
        with pytest.raises(errors.UnknownTopicOrPartition):
            await producer.send_many("nowhere", [b"v"] * 3000)
        assert producer.buffered_size_bytes == 0


async def test_send_many_to_a_topic_not_known_yet_names_records_without_a_partition() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 2)
    async with cluster.client() as client, client.producer() as producer:
        for _ in range(2):  # not known yet, and known
            with pytest.raises(errors.UnknownTopicOrPartition):
                await producer.send_many("t", [b"v"] * 3, partition=5)


@pytest.mark.parametrize("is_known", [False, True])
async def test_send_many_stops_at_what_is_no_record(is_known: bool) -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    async with cluster.client() as client, client.producer() as producer:
        if is_known:
            await producer.send("t", b"0")
        values: list[Any] = [b"0", "text", b"2"]
        with pytest.raises(errors.InvalidRecord):
            await producer.send_many("t", values)
    assert set(partition.values()) == {b"0"}


async def test_send_many_with_a_small_buffer_waits_for_the_topic_and_then_for_space() -> None:
    cluster = FakeCluster()
    (partition,) = cluster.add_topic("t")
    async with cluster.client() as client, client.producer(buffer_size_bytes=1000) as producer:
        async with asyncio.timeout(5):
            await producer.send_many("t", [b"%d" % index + b" " * 90 for index in range(100)])
    assert numbers([partition]) == [list(range(100))]


async def test_waiting_for_space_ends_when_the_topic_is_not_found() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client(topic_wait_ms=60) as client, client.producer(buffer_size_bytes=1000) as producer:
        future = producer.send_nowait("nowhere", b"x" * 900)
        async with asyncio.timeout(5):
            assert (await producer.send("t", b"y" * 900)).offset == 0
        with pytest.raises(errors.UnknownTopicOrPartition):
            await future


async def test_failed_send_many_says_of_every_record_what_became_of_it() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 3)

    async def plan(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            partitions = {item.partition for item in request.partitions}
            if 1 in partitions:
                raise errors.InvalidRecord("no thanks")
            if 2 in partitions:
                raise lost()

    records = [(b"k%d" % index, b"%d" % index) for index in range(60)]
    async with cluster.client() as client, client.producer(delivery_timeout_ms=200) as producer:
        cluster.before = plan
        with pytest.raises(RecordsLost) as caught:
            await producer.send_many("t", records)
    outcomes = caught.value.outcomes
    assert len(outcomes) == 60
    written = dict(enumerate(cluster.topics["t"][0].values()))
    kinds = set()
    for (_, value), outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, RecordAck):
            assert outcome.partition == 0 and written[outcome.offset] == value
        else:
            assert outcome.facts["partition"] == (1 if outcome.definite else 2)
            assert isinstance(outcome, errors.InvalidRecord if outcome.definite else errors.Disconnected)
        kinds.add(type(outcome))
    assert len(kinds) == 3
    assert [type(outcome) for outcome in pickle.loads(pickle.dumps(caught.value)).outcomes] == list(map(type, outcomes))
    assert outcomes[-1:] == [outcomes[59]]


async def test_losses_that_nobody_awaited_have_no_order_to_tell_of() -> None:
    assert RecordsLost("lost", [errors.InvalidRecord("a")]).outcomes == ()
