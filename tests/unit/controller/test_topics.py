"""Creating, growing, configuring and deleting topics."""

from __future__ import annotations

from time import process_time

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import (
    AlterTopicConfig,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    DrainBroker,
    NewTopic,
)
from logcluster.model.errors import (
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicaAssignment,
    InvalidReplicationFactor,
    InvalidRequest,
    InvalidTopic,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)


def create(bench, *topics, **options):
    return bench.do(CreateTopics(topics=topics, **options))


def refusal(bench, **fields):
    (result,) = create(bench, NewTopic(**fields))
    assert result.topic_id is None
    return type(result.error)


@pytest.fixture
def bench():
    return Bench(3)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ü", "x" * 250, "a\n"])
def test_impossible_names_are_refused(bench, name):
    assert refusal(bench, name=name) is InvalidTopic


def test_impossible_counts_and_settings_are_refused(bench):
    assert refusal(bench, name="t", partitions=-1) is InvalidPartitions
    assert refusal(bench, name="t", partitions=10_001) is InvalidPartitions
    assert refusal(bench, name="t", replication_factor=16) is InvalidReplicationFactor
    assert refusal(bench, name="t", replication_factor=-1) is InvalidReplicationFactor
    assert refusal(bench, name="t", config={"no.such": "1"}) is InvalidConfig
    assert refusal(bench, name="t", config={"min.insync.replicas": "0"}) is InvalidConfig
    assert refusal(bench, name="t", partitions=2, assignments=((0,),)) is InvalidRequest
    assert bench.image.topics == {}


@pytest.mark.parametrize("assignments", [((0, 0),), ((0, 9),), ((0, 1), (2,)), ((),)])
def test_impossible_assignments_are_refused(bench, assignments):
    assert refusal(bench, name="t", assignments=assignments) is InvalidReplicaAssignment


def test_an_assignment_needs_one_live_broker_and_only_live_ones_are_in_sync(bench):
    bench.fence(0)
    assert refusal(bench, name="t", assignments=((0,),)) is InvalidReplicaAssignment
    bench.topic(assignments=((0, 1),))
    assert (bench.part().leader_id, bench.part().in_sync_replicas) == (1, (1,))


def test_the_refusal_of_a_replication_factor_says_how_many_brokers_there_are(bench):
    bench.fence(2)
    (result,) = create(bench, NewTopic(name="t", replication_factor=3))
    assert isinstance(result.error, InvalidReplicationFactor)
    assert result.error.facts["usable_brokers"] == 2
    assert "2 usable brokers" in result.error.message


def test_defaults_are_one_partition_on_three_brokers_or_as_many_as_there_are(bench):
    (result,) = create(bench, NewTopic(name="t"))
    assert (result.partitions, result.replication_factor) == (1, 3)
    (result,) = create(Bench(1), NewTopic(name="t"))
    assert (result.partitions, result.replication_factor) == (1, 1)


def test_each_topic_of_a_request_is_answered_alone_and_the_good_ones_are_one_entry(bench):
    before = bench.index
    results = create(
        bench, NewTopic(name="a"), NewTopic(name="?"), NewTopic(name="b"), NewTopic(name="c"), NewTopic(name="c")
    )
    assert [type(result.error) for result in results] == [
        type(None),
        InvalidTopic,
        type(None),
        InvalidRequest,
        InvalidRequest,
    ]
    assert bench.index == before + 1
    assert set(bench.image.topic_ids) == {"a", "b"}
    (again,) = create(bench, NewTopic(name="a"))
    assert isinstance(again.error, TopicAlreadyExists)


def test_validation_alone_changes_nothing(bench):
    (result,) = create(bench, NewTopic(name="t", partitions=3), validate_only=True)
    assert (result.error, result.partitions, result.topic_id) == (None, 3, None)
    assert bench.image.topics == {}


def test_a_topic_created_again_has_another_id_and_the_old_one_is_remembered_as_deleted(bench):
    first = bench.topic()
    bench.do(DeleteTopics(names=("t",)))
    assert bench.image.topic_by_name("t") is None
    second = bench.topic()
    assert first != second
    assert list(bench.image.deleted_topic_ids) == [first]


def test_deleting_answers_each_name(bench):
    bench.topic()
    results = bench.do(DeleteTopics(names=("t", "t", "u")))
    assert [type(result.error) for result in results] == [
        type(None),
        UnknownTopicOrPartition,
        UnknownTopicOrPartition,
    ]


def test_partitions_are_added_and_never_taken(bench):
    create(bench, NewTopic(name="t", partitions=2))
    before = dict(bench.image.topic_by_name("t").partitions)
    result = bench.do(CreatePartitions(topic="t", partitions=5))
    assert (result.partitions, result.replication_factor) == (5, 3)
    after = bench.image.topic_by_name("t").partitions
    assert sorted(after) == [0, 1, 2, 3, 4]
    assert {index: after[index] for index in before} == before
    for count in (5, 4, 0):
        with pytest.raises(InvalidPartitions):
            bench.do(CreatePartitions(topic="t", partitions=count))
    with pytest.raises(InvalidReplicaAssignment):
        bench.do(CreatePartitions(topic="t", partitions=6, assignments=((0,),)))
    with pytest.raises(InvalidReplicaAssignment):
        bench.do(CreatePartitions(topic="t", partitions=7, assignments=((0, 1, 2),)))
    with pytest.raises(UnknownTopicOrPartition):
        bench.do(CreatePartitions(topic="u", partitions=7))


def test_settings_are_set_and_unset_together(bench):
    bench.topic(retention_ms="5", segment_bytes="2000000")
    bench.do(AlterTopicConfig(topic="t", set_values={"retention.ms": "7"}, unset_keys=("segment.bytes", "segment.ms")))
    assert bench.image.topic_by_name("t").config == {"retention.ms": "7"}
    with pytest.raises(InvalidConfig):
        bench.do(AlterTopicConfig(topic="t", set_values={"retention.ms": "x"}))
    with pytest.raises(InvalidConfig):
        bench.do(AlterTopicConfig(topic="t", set_values={}, unset_keys=("no.such",)))
    with pytest.raises(InvalidRequest):
        bench.do(AlterTopicConfig(topic="t", set_values={"retention.ms": "9"}, unset_keys=("retention.ms",)))
    assert bench.image.topic_by_name("t").config == {"retention.ms": "7"}


def test_new_topics_avoid_draining_brokers_while_there_are_enough_others():
    bench = Bench(4)
    bench.do(DrainBroker(broker_id=0, drain=True))
    create(bench, NewTopic(name="t", partitions=8, replication_factor=3))
    assert all(0 not in part.replicas for part in bench.image.topic_by_name("t").partitions.values())
    create(bench, NewTopic(name="u", partitions=8, replication_factor=4))
    assert all(part.replicas[0] != 0 for part in bench.image.topic_by_name("u").partitions.values())


def test_a_thousand_partitions_take_less_than_a_second():
    bench = Bench(3)
    controller = bench.controller
    started = process_time()
    result = controller.handle(
        CreateTopics(topics=(NewTopic(name="t", partitions=1_000, replication_factor=3),)), now_ms=0, index=99
    )
    controller.replay(result.records, index=99, term=1)
    assert process_time() - started < 1.0
    assert controller.state.partition_count == 1_000
