"""Every check of a leader's proposal, in its order, and what an accepted one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import AlterPartition, AlterPartitions, DeleteTopics
from logcluster.model.errors import (
    FencedLeaderEpoch,
    IneligibleReplica,
    InvalidRequest,
    InvalidUpdateVersion,
    NotController,
    StaleBrokerEpoch,
    UnknownTopicId,
    UnknownTopicOrPartition,
)


@pytest.fixture
def bench():
    bench = Bench(4)
    bench.topic()
    return bench


def test_unknown_topic_and_partition_are_told_apart(bench):
    assert isinstance(bench.alter((0,), topic_id=b"?" * 16).error, UnknownTopicId)
    assert isinstance(bench.alter((0,), partition=7).error, UnknownTopicOrPartition)
    topic_id = bench.part().topic_id
    bench.do(DeleteTopics(names=("t",)))
    item = AlterPartition(topic_id=topic_id, partition=0, leader_epoch=0, partition_epoch=0, new_in_sync_replicas=())
    (result,) = bench.do(AlterPartitions(broker_id=0, broker_epoch=bench.epoch(0), partitions=(item,)))
    assert isinstance(result.error, UnknownTopicId)


@pytest.mark.parametrize("ahead", [{"leader_epoch": 1}, {"partition_epoch": 1}])
def test_epochs_ahead_of_ours_mean_that_this_controller_is_stale(bench, ahead):
    # Even from a sender that does not lead: this check comes first (KAFKA-14154).
    result = bench.alter((0,), sender=1, **ahead)
    assert isinstance(result.error, NotController)


def test_an_old_leader_epoch_is_fenced_before_the_sender_is_looked_at(bench):
    bench.fence(0)
    assert bench.part().leader_id == 1
    result = bench.alter((2, 0), sender=2, leader_epoch=0, partition_epoch=0)
    assert isinstance(result.error, FencedLeaderEpoch)
    assert (result.leader_id, result.leader_epoch) == (1, 1)


def test_only_the_leader_may_propose_and_that_comes_before_the_partition_epoch(bench):
    bench.alter((0, 1))
    result = bench.alter((1,), sender=1, partition_epoch=0)
    assert isinstance(result.error, InvalidRequest)


def test_an_old_partition_epoch_is_refused_with_the_current_state(bench):
    bench.alter((0, 1))
    result = bench.alter((0,), partition_epoch=0)
    assert isinstance(result.error, InvalidUpdateVersion)
    assert (result.partition_epoch, result.in_sync_replicas) == (1, (0, 1))


@pytest.mark.parametrize(
    "in_sync",
    [(0, 3), (1, 2), (), (0, 0), (0, 1, 1)],
    ids=["not a replica", "without the leader", "empty", "leader twice", "follower twice"],
)
def test_impossible_sets_are_refused(bench, in_sync):
    assert isinstance(bench.alter(in_sync).error, InvalidRequest)
    assert bench.part().in_sync_replicas == (0, 1, 2)


def test_a_recovered_partition_does_not_recover_again_and_a_recovering_leader_is_alone(bench):
    assert isinstance(bench.alter((0,), recovering=True).error, InvalidRequest)
    bench.topic("u", unclean_leader_election_enable="true", min_insync_replicas="1", assignments=((0, 1),))
    bench.alter((0,), name="u")
    bench.crash(0)
    assert bench.part("u").is_recovering
    assert isinstance(bench.alter((1, 2), name="u", recovering=True).error, InvalidRequest)
    assert bench.alter((1,), name="u", recovering=True).error is None
    assert bench.part("u").is_recovering
    assert bench.alter((1,), name="u", recovering=False).error is None
    assert not bench.part("u").is_recovering


def test_members_must_be_registered_active_and_of_the_epoch_the_leader_knows(bench):
    bench.alter((0,))
    bench.fence(1)
    assert isinstance(bench.alter((0, 1)).error, IneligibleReplica)
    bench.beat(2, want_shutdown=True)
    assert isinstance(bench.alter((0, 2)).error, IneligibleReplica)
    old = bench.epoch(1)
    bench.crash(1)
    bench.restart(1)
    # KIP-903: the leader's knowledge is from before the crash.
    result = bench.alter((0, 1), epochs={1: old})
    assert isinstance(result.error, IneligibleReplica)
    assert result.error.definite
    assert bench.alter((0, 1)).error is None


def test_a_sender_of_an_earlier_registration_is_refused_as_a_whole(bench):
    with pytest.raises(StaleBrokerEpoch):
        bench.do(AlterPartitions(broker_id=0, broker_epoch=999, partitions=()))
    with pytest.raises(StaleBrokerEpoch):
        bench.do(AlterPartitions(broker_id=9, broker_epoch=1, partitions=()))


def test_a_plain_change_keeps_the_leader_epoch_and_grows_the_partition_epoch(bench):
    assert bench.alter((0, 1)).error is None
    assert bench.alter((0, 1, 2)).error is None
    part = bench.part()
    assert (part.leader_epoch, part.partition_epoch, part.in_sync_replicas) == (0, 2, (0, 1, 2))


def test_a_proposal_of_what_is_already_so_only_grows_the_partition_epoch(bench):
    before = bench.part()
    result = bench.alter((2, 1, 0))
    assert result.error is None
    assert result.partition_epoch == before.partition_epoch + 1
    assert bench.part() == replace(before, partition_epoch=before.partition_epoch + 1)


def test_a_partition_that_stands_twice_is_refused_the_second_time(bench):
    part = bench.part()
    item = AlterPartition(
        topic_id=part.topic_id,
        partition=0,
        leader_epoch=0,
        partition_epoch=0,
        new_in_sync_replicas=(),
    )
    results = bench.do(AlterPartitions(broker_id=0, broker_epoch=bench.epoch(0), partitions=(item, item)))
    assert len(results) == 2
    assert "twice" in results[1].error.message
