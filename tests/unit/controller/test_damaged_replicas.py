"""Replicas whose broker says that their log is damaged: out of sync at once, never elected, never forgotten."""

from __future__ import annotations

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import AlterTopicConfig, ElectLeaders, FailedReplica
from logcluster.core.metadata.image import MetadataImage
from logcluster.model.errors import FencedLeaderEpoch


@pytest.fixture
def bench():
    bench = Bench(3)
    bench.topic()
    return bench


def failed(bench, *, name="t", leader_epoch=None):
    part = bench.part(name)
    epoch = part.leader_epoch if leader_epoch is None else leader_epoch
    return FailedReplica(topic_id=part.topic_id, partition=part.partition, leader_epoch=epoch)


def report(bench, broker_id, *, name="t", leader_epoch=None, **options):
    return bench.beat(broker_id, failed_replicas=(failed(bench, name=name, leader_epoch=leader_epoch),), **options)


def leaderless(*, unclean="false"):
    """Broker 0 alone was in sync and eligible when its log was found damaged; 1 and 2 are alive and behind."""
    bench = Bench(3)
    bench.topic(min_insync_replicas="1", unclean_leader_election_enable=unclean)
    bench.alter((0,))
    report(bench, 0)
    return bench


def test_a_damaged_leader_is_replaced_by_the_next_in_sync_replica(bench):
    report(bench, 0)
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.in_sync_replicas) == (1, 1, (1, 2))
    assert part.eligible_leader_replicas == ()


def test_a_damaged_follower_leaves_and_the_leader_begins_a_new_epoch(bench):
    report(bench, 2)
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.in_sync_replicas) == (0, 1, (0, 1))


def test_a_proposal_made_before_the_damage_cannot_bring_the_replica_back(bench):
    before = bench.part()
    report(bench, 2)
    # The leader has not heard of the new epoch; it proposes what it was told by the damaged log.
    result = bench.alter((0, 1, 2), leader_epoch=before.leader_epoch, partition_epoch=bench.part().partition_epoch)
    assert isinstance(result.error, FencedLeaderEpoch)
    assert bench.part().in_sync_replicas == (0, 1)


def test_a_replica_out_of_sync_ends_the_epoch_in_which_its_leader_might_propose_it(bench):
    bench.alter((0, 1))
    before = bench.part()
    report(bench, 2)
    assert (bench.part().leader_id, bench.part().leader_epoch) == (0, before.leader_epoch + 1)
    result = bench.alter((0, 1, 2), leader_epoch=before.leader_epoch, partition_epoch=before.partition_epoch)
    assert isinstance(result.error, FencedLeaderEpoch)


def test_a_report_that_is_repeated_changes_nothing(bench):
    report(bench, 0)
    index = bench.index
    report(bench, 0, leader_epoch=0)
    report(bench, 0, leader_epoch=0)
    assert bench.index == index


@pytest.mark.parametrize("leader_epoch", [0, 2])
def test_a_report_of_another_leader_epoch_is_ignored(bench, leader_epoch):
    bench.topic("u", assignments=((0, 1, 2),))
    bench.fence(0)
    bench.beat(0)
    assert bench.part("u").leader_epoch == 1
    index = bench.index
    report(bench, 1, name="u", leader_epoch=leader_epoch)
    assert bench.index == index


def test_reports_of_unknown_partitions_and_foreign_replicas_are_ignored():
    bench = Bench(4)
    bench.topic()
    index = bench.index
    report(bench, 3)
    bench.beat(0, failed_replicas=(FailedReplica(topic_id=b"x" * 16, partition=0, leader_epoch=0),))
    assert bench.index == index


def test_the_repaired_replica_comes_back_by_its_leaders_proposal(bench):
    report(bench, 0)
    bench.alter((0, 1, 2))
    assert bench.part().in_sync_replicas == (0, 1, 2)
    bench.beat(0)
    bench.fence(1)
    bench.fence(2)
    assert bench.part().leader_id == 0


def test_a_replica_back_in_sync_may_lead_although_its_broker_was_not_heard_since(bench):
    report(bench, 0)
    bench.alter((0, 1, 2))
    bench.fence(1)
    bench.fence(2)
    assert bench.part().leader_id == 0


def test_an_eligible_replica_leads_when_the_only_one_in_sync_is_damaged(bench):
    bench.alter((0,))
    assert bench.part().eligible_leader_replicas == (1, 2)
    report(bench, 0)
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas, part.eligible_leader_replicas) == (1, (1,), (2,))
    assert not part.is_recovering


def test_a_damaged_replica_is_not_eligible_where_another_one_is(bench):
    bench.alter((0,))
    report(bench, 2)
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas, part.eligible_leader_replicas) == (0, (0,), (1,))


def test_an_eligible_replica_that_is_down_is_waited_for(bench):
    bench.fence(2)
    bench.fence(1)
    bench.topic("other", assignments=((0,),))
    assert bench.part().eligible_leader_replicas == (1,)
    report(bench, 0)
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas, part.eligible_leader_replicas) == (None, (), (1,))
    assert part.last_known_leaders == (0,)
    bench.beat(2)
    assert bench.part().leader_id is None
    bench.beat(1)
    assert (bench.part().leader_id, bench.part().in_sync_replicas) == (1, (1,))


def test_the_last_copy_is_kept_and_the_partition_has_no_leader():
    bench = leaderless()
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.in_sync_replicas) == (None, 1, ())
    assert part.eligible_leader_replicas == (0,)
    assert part.last_known_leaders == (0,)


def test_the_last_copy_stays_known_and_unelected_however_often_it_is_reported():
    bench = leaderless()
    index, part = bench.index, bench.part()
    report(bench, 0)
    report(bench, 0)
    assert (bench.index, bench.part()) == (index, part)


@pytest.mark.parametrize("leader_epoch", [0, 1])
def test_nothing_that_holds_elections_elects_the_damaged_last_copy(leader_epoch):
    bench = leaderless()
    report(bench, 0, leader_epoch=leader_epoch)
    bench.fence(1)
    bench.beat(1)
    bench.topic("u")
    bench.do(AlterTopicConfig(topic="t", set_values={"min.insync.replicas": "2"}))
    bench.do(ElectLeaders(partitions=None))
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.eligible_leader_replicas) == (None, 1, (0,))


def test_a_broker_that_comes_back_with_its_damage_does_not_lead():
    bench = leaderless()
    bench.crash(0)
    bench.register(0, incarnation=b"b", previous=bench.epoch(0))
    report(bench, 0)
    assert not bench.image.brokers[0].is_fenced
    part = bench.part()
    assert (part.leader_id, part.eligible_leader_replicas, part.last_known_leaders) == (None, (0,), (0,))


def test_a_last_copy_that_is_sound_again_leads():
    bench = leaderless()
    bench.beat(0)
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.in_sync_replicas) == (0, 2, (0,))


def test_a_last_copy_that_was_repaired_while_its_broker_was_down_leads():
    bench = leaderless()
    bench.crash(0)
    bench.restart(0, clean=True)
    assert bench.part().leader_id == 0


def test_where_it_is_allowed_an_unclean_election_passes_over_the_damaged_replica():
    bench = leaderless(unclean="true")
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas, part.is_recovering) == (1, (1,), True)


def test_allowing_unclean_elections_afterwards_passes_over_the_damaged_replica():
    bench = leaderless()
    bench.do(AlterTopicConfig(topic="t", set_values={"unclean.leader.election.enable": "true"}))
    assert bench.part().leader_id == 1


def test_an_unclean_election_on_request_passes_over_the_damaged_replica():
    bench = leaderless()
    (result,) = bench.do(ElectLeaders(partitions=(("t", 0),), unclean=True))
    assert result.leader_id == 1


def test_a_single_replica_that_is_damaged_has_no_leader_even_where_unclean_is_allowed():
    bench = Bench(1)
    bench.topic(assignments=((0,),), unclean_leader_election_enable="true")
    report(bench, 0)
    part = bench.part()
    assert (part.leader_id, part.eligible_leader_replicas, part.last_known_leaders) == (None, (0,), (0,))


def test_the_last_known_leader_is_not_elected_while_it_is_damaged():
    bench = Bench(2)
    bench.topic(flush_mode="async", assignments=((0, 1),), min_insync_replicas="1")
    bench.alter((0,))
    bench.crash(0)
    bench.register(0, incarnation=b"b")
    part = bench.part()
    assert (part.eligible_leader_replicas, part.last_known_leaders) == ((), (0,))
    report(bench, 0)
    part = bench.part()
    assert (part.leader_id, part.last_known_leaders) == (None, (0,))
    bench.fence(1)
    bench.beat(1)
    assert bench.part().leader_id is None


def test_a_controlled_shutdown_told_with_the_damage_keeps_others_eligible_instead(bench):
    bench.fence(1)
    bench.fence(2)
    report(bench, 0, want_shutdown=True)
    part = bench.part()
    assert (part.leader_id, part.eligible_leader_replicas) == (None, (2,))


def test_the_other_partitions_of_the_broker_are_not_touched(bench):
    bench.topic("u")
    before = bench.part("u")
    report(bench, 0)
    assert bench.part("u") == before


def test_a_new_active_controller_learns_of_the_damage_with_the_first_heartbeat():
    before = leaderless()
    image: MetadataImage = before.image
    bench = Bench(image=image)
    report(bench, 0)
    bench.fence(1)
    bench.beat(1)
    assert bench.part().leader_id is None


def test_a_new_process_starts_without_the_damage_of_the_one_before(bench):
    report(bench, 0)
    bench.crash(0)
    bench.register(0, incarnation=b"b")
    assert not bench.controller.sessions.damaged
