"""Admin calls, above all what a repeated one means after an unknown outcome."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition, lost

from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.builder import build_batch


async def test_topic_lives_and_dies() -> None:
    cluster = FakeCluster()
    async with cluster.client() as client:
        created = await client.admin.create_topic("t", partitions=3, config={"flush.mode": "async", "retention.ms": 5})
        assert len(created.partitions) == 3
        assert cluster.configs["t"] == {"flush.mode": "async", "retention.ms": "5"}
        assert list(await client.admin.list_topics()) == ["t"]
        assert (await client.admin.describe_topic("t")).topic_id == created.topic_id
        with pytest.raises(errors.TopicAlreadyExists):
            await client.admin.create_topic("t")
        assert await client.admin.create_topic("t", exist_ok=True) == created
        await client.admin.delete_topic("t")
        with pytest.raises(errors.UnknownTopicOrPartition):
            await client.admin.delete_topic("t")
        await client.admin.delete_topic("t", missing_ok=True)
        with pytest.raises(errors.UnknownTopicOrPartition):
            await client.admin.describe_topic("t")


@pytest.mark.parametrize("name", ["CreateTopics", "DeleteTopics"])
async def test_what_an_earlier_attempt_did_is_success(name: str) -> None:
    cluster = FakeCluster()
    losses = 0

    async def lose_one(broker_id: int, method: str, request: Any) -> None:
        nonlocal losses
        if method == name and not losses:
            losses += 1
            raise lost()

    async with cluster.client() as client:
        if name == "DeleteTopics":
            cluster.add_topic("t")
        cluster.after = lose_one
        if name == "CreateTopics":
            assert (await client.admin.create_topic("t")).name == "t"
        else:
            await client.admin.delete_topic("t")
    assert losses == 1
    assert ("t" in cluster.topics) == (name == "CreateTopics")


async def test_refusal_after_an_unknown_outcome_is_still_a_refusal() -> None:
    cluster = FakeCluster()
    calls = 0

    async def once_lost_then_refused(broker_id: int, method: str, request: Any) -> None:
        nonlocal calls
        if method == "CreateTopics":
            calls += 1
            raise lost() if calls == 1 else errors.InvalidTopic("bad name")

    async with cluster.client() as client:
        cluster.before = once_lost_then_refused
        with pytest.raises(errors.InvalidTopic):
            await client.admin.create_topic("t")


async def test_creation_waits_for_leaders() -> None:
    cluster = FakeCluster()
    looks = 0

    async def elect_late(broker_id: int, method: str, request: Any) -> None:
        nonlocal looks
        if method == "CreateTopics" and "t" in cluster.topics:
            cluster.topics["t"][0].leader_id = None
        if method == "GetMetadata" and "t" in cluster.topics:
            looks += 1
            if looks == 3:
                cluster.elect("t", 0, 1)

    async with cluster.client() as client:
        cluster.before = cluster.after = elect_late
        assert (await client.admin.create_topic("t")).partitions[0].leader_id == 1
    assert looks >= 3


async def test_other_brokers_are_asked_when_one_is_dead() -> None:
    cluster = FakeCluster()
    async with cluster.client() as client:
        cluster.kill(0)
        cluster.kill(2)
        for _ in range(5):
            assert [broker.broker_id for broker in await client.admin.list_brokers()] == [0, 1, 2]


async def test_settings_are_changed_and_taken_back() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with cluster.client() as client:
        await client.admin.alter_topic("t", {"retention.ms": 5, "unclean.leader.election.enable": True})
        await client.admin.alter_topic("t", {"retention.ms": None})
        assert cluster.configs["t"] == {"unclean.leader.election.enable": "true"}
        with pytest.raises(errors.UnknownTopicOrPartition):
            await client.admin.alter_topic("nowhere", {"retention.ms": 5})


async def test_offsets_are_looked_up_and_records_deleted() -> None:
    cluster = FakeCluster()
    partitions: list[ModelPartition] = cluster.add_topic("t", 2)
    for partition in partitions:
        partition.append(build_batch([(1000 + index, None, b"v", ()) for index in range(10)]))
    async with cluster.client() as client:
        assert await client.admin.list_offsets("t") == [10, 10]
        assert await client.admin.list_offsets("t", "earliest") == [0, 0]
        assert await client.admin.delete_records({("t", 0): 4, ("t", 1): None}) == {
            TopicPartition("t", 0): 4,
            TopicPartition("t", 1): 10,
        }
        assert await client.admin.list_offsets("t", "earliest") == [4, 10]


async def test_unopened_client_says_how_to_open_it() -> None:
    client = FakeCluster().client()
    with pytest.raises(errors.InvalidRequest) as caught:
        client.producer()
    assert "async with" in caught.value.hint
    with pytest.raises(errors.InvalidRequest):
        _ = client.admin


@pytest.mark.parametrize(
    "options",
    [
        {"acks": 2},
        {"acks": 1, "idempotent": True},
        {"max_in_flight": 6},
        {"compression": "rar"},
        {"linger_ms": -1},
        {"batch_size_bytes": 0},
        {"delivery_timeout_ms": 1.5},
    ],
)
async def test_impossible_producer_options_are_refused(options: Any) -> None:
    async with FakeCluster().client() as client:
        with pytest.raises(errors.RequestError):
            client.producer(**options)
