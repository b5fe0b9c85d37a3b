"""Taking partitions on: what passes is waited for, and ends no consumer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from fake_cluster import FakeCluster

from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.group.membership import AssignedPartition
from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState
from logcluster.model.errors import Disconnected, InvalidTopic, LogClusterError, UnknownTopicOrPartition


class FakeMetadata:
    """Answers as it was told to, one outcome per question."""

    def __init__(self, *outcomes: LogClusterError | None) -> None:
        self.outcomes = list(outcomes)
        self.topics: list[str] = []

    def add_topics(self, *names: str) -> None:
        self.topics += names

    async def topic(self, name: str) -> None:
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            self.topics.remove(name)
            raise outcome
        if name not in self.topics:
            self.topics.append(name)


async def get_to_know(metadata: FakeMetadata) -> list[int]:
    slept: list[int] = []

    async def sleep_ms(delay_ms: int) -> None:
        slept.append(delay_ms)
        metadata.topics.append("t")

    consumer = SimpleNamespace(
        _metadata=metadata,
        _membership=SimpleNamespace(options=SimpleNamespace(group="g")),
        _clock=SimpleNamespace(sleep_ms=sleep_ms),
        _context=SimpleNamespace(policy=SimpleNamespace(backoff_ms_max=70)),
    )
    await GroupConsumer._get_to_know(cast("GroupConsumer", consumer), "t")
    return slept


async def test_brokers_that_cannot_be_asked_are_asked_again() -> None:
    metadata = FakeMetadata(Disconnected("gone"), Disconnected("gone"), None)
    assert await get_to_know(metadata) == [70, 70]
    assert metadata.outcomes == []


async def test_a_topic_that_nobody_knows_is_asked_about_further() -> None:
    metadata = FakeMetadata(UnknownTopicOrPartition("no such topic", topic="t"))
    assert await get_to_know(metadata) == []
    assert metadata.topics == ["t"]


async def test_a_refusal_that_stays_ends_the_consumer() -> None:
    with pytest.raises(InvalidTopic):
        await get_to_know(FakeMetadata(InvalidTopic("no such name")))


async def test_records_of_a_lost_partition_hold_up_no_commit_of_its_successor() -> None:
    """The partition was lost and given back while a read gathered: others have committed beyond what it gathered."""
    item = AssignedPartition("t", b"t" * 16, 0)
    async with FakeCluster().client() as client:
        consumer = client.consumer("t", group="g")
        assert isinstance(consumer, GroupConsumer)
        before = consumer._states[item] = consumer._subscription.add("t", 0, start=20)
        before.move(40)
        record = ConsumerRecord("t", 0, 31, 0, None, b"v", ())

        async def gather(*_: object) -> tuple[list[ConsumerRecord], dict[PartitionState, tuple[int, int]]]:
            consumer._drop([item])
            consumer._states[item] = consumer._subscription.add("t", 0, start=60)
            consumer._states[item].move(60)
            return [record], {before: (31, before.moves)}

        consumer._gather = gather  # type: ignore[method-assign]
        assert await consumer.read(10) == [record]
        assert consumer._done_offset(consumer._states[item]) == 60


async def test_a_lost_membership_takes_what_was_being_taken_on_with_it() -> None:
    """It was cancelled inside of the application's hook, so that the membership does not own it yet."""
    owned, taken_on = AssignedPartition("t", b"t" * 16, 0), AssignedPartition("t", b"t" * 16, 1)
    dropped: list[AssignedPartition] = []
    consumer = SimpleNamespace(
        _states={owned: object(), taken_on: object()},
        _discard=lambda state: None,
        _names=lambda partitions: [],
        _drop=dropped.extend,
    )
    await GroupConsumer.lose(cast("GroupConsumer", consumer), [owned])
    assert dropped == [owned, taken_on]
