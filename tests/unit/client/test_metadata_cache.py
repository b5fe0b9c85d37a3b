"""Order of knowledge: older answers never replace newer ones."""

from __future__ import annotations

from logcluster.client.metadata_cache import Answer, BrokerFacts, Leader, MetadataCache, PartitionFacts, TopicFacts


def broker(broker_id: int) -> BrokerFacts:
    return BrokerFacts(broker_id=broker_id, host="h", grpc_port=7070, lane_port=7071)


def answer(
    offset: int,
    *,
    leader: int | None = 0,
    epoch: int = 0,
    topic_id: bytes = b"a",
    cluster_id: str = "c",
    brokers: int = 1,
) -> Answer:
    return Answer(
        cluster_id=cluster_id,
        metadata_offset=offset,
        brokers=tuple(broker(index) for index in range(brokers)),
        topics=(
            TopicFacts(
                name="t",
                topic_id=topic_id,
                partitions=(PartitionFacts(partition=0, leader_id=leader, leader_epoch=epoch),),
            ),
        ),
    )


def test_older_answer_is_ignored() -> None:
    cache = MetadataCache()
    assert cache.apply(answer(5, leader=1, epoch=3, brokers=3))
    assert not cache.apply(answer(4, leader=0, epoch=2, brokers=1))
    assert cache.leader("t", 0) == Leader(1, 3)
    assert len(cache.brokers) == 3


def test_hint_is_newer_than_an_answer_that_does_not_know_it_yet() -> None:
    cache = MetadataCache()
    cache.apply(answer(5, leader=1, epoch=3))
    assert cache.note_leader("t", 0, leader_id=2, leader_epoch=4)
    cache.apply(answer(6, leader=1, epoch=3))
    assert cache.leader("t", 0) == Leader(2, 4)
    cache.apply(answer(7, leader=0, epoch=5))
    assert cache.leader("t", 0) == Leader(0, 5)


def test_hint_of_an_older_epoch_is_ignored() -> None:
    cache = MetadataCache()
    cache.apply(answer(5, leader=1, epoch=3))
    assert not cache.note_leader("t", 0, leader_id=0, leader_epoch=3)
    assert not cache.note_leader("unknown", 0, leader_id=0, leader_epoch=3)
    assert cache.leader("t", 0) == Leader(1, 3)


def test_topic_created_again_begins_anew() -> None:
    cache = MetadataCache()
    cache.apply(answer(5, leader=1, epoch=9, topic_id=b"a"))
    cache.apply(answer(6, leader=2, epoch=0, topic_id=b"b"))
    assert cache.leader("t", 0) == Leader(2, 0)


def test_another_cluster_begins_anew() -> None:
    cache = MetadataCache()
    cache.apply(answer(500, leader=1, epoch=9))
    assert cache.apply(answer(3, leader=0, epoch=0, cluster_id="other"))
    assert cache.leader("t", 0) == Leader(0, 0)


def test_missing_topic_is_forgotten() -> None:
    cache = MetadataCache()
    cache.apply(answer(5))
    cache.apply(Answer(cluster_id="c", metadata_offset=6, brokers=(), missing_topics=("t",)))
    assert cache.topic("t") is None
    assert cache.is_missing("t")
    assert cache.partition_count("t") == 0


def test_same_epoch_may_lose_its_leader() -> None:
    cache = MetadataCache()
    cache.apply(answer(5, leader=1, epoch=3))
    cache.apply(answer(6, leader=None, epoch=3))
    assert cache.leader("t", 0) == Leader(None, 3)
    assert cache.led_partitions("t") == []
