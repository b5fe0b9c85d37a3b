"""Every row of the election order, eligible leader replicas, unclean stops."""

from __future__ import annotations

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import AlterTopicConfig, ElectLeaders
from logcluster.model.errors import ElectionNotNeeded, LeaderNotAvailable, PreferredLeaderNotAvailable


@pytest.fixture
def bench():
    bench = Bench(4)
    bench.topic()
    return bench


def elect(bench, *, name="t", index=0, unclean=False):
    (result,) = bench.do(ElectLeaders(partitions=((name, index),), unclean=unclean))
    return result


def test_a_leader_that_is_still_valid_stays(bench):
    bench.fence(1)
    part = bench.part()
    assert (part.leader_id, part.leader_epoch, part.in_sync_replicas) == (0, 0, (0, 2))


def test_the_next_in_sync_replica_in_assignment_order_leads(bench):
    bench.topic("u", assignments=((2, 0, 1),))
    bench.fence(2)
    assert bench.part("u").leader_id == 0
    assert bench.part("u").leader_epoch == 1


def test_a_replica_out_of_sync_is_not_elected_while_one_is_in_sync(bench):
    bench.alter((0, 2))
    bench.fence(0)
    assert bench.part().leader_id == 2


def test_members_that_leave_below_the_minimum_stay_eligible_and_one_of_them_leads_when_nobody_is_in_sync(bench):
    bench.fence(1)
    assert bench.part().eligible_leader_replicas == ()
    bench.fence(2)
    assert bench.part().eligible_leader_replicas == (2,)
    bench.fence(0)
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas) == (None, ())
    assert set(part.eligible_leader_replicas) == {0, 2}
    assert part.last_known_leaders == (0,)
    assert part.leader_epoch == 1
    bench.beat(1)
    assert bench.part().leader_id is None, "broker 1 left while enough were in sync: it may lack records"
    bench.beat(2)
    part = bench.part()
    assert (part.leader_id, part.in_sync_replicas, part.eligible_leader_replicas) == (2, (2,), (0,))
    assert (part.leader_epoch, part.is_recovering, part.last_known_leaders) == (2, False, ())


def test_eligibility_ends_when_enough_are_in_sync(bench):
    bench.alter((0,))
    assert bench.part().eligible_leader_replicas == (1, 2)
    bench.alter((0, 1))
    assert bench.part().eligible_leader_replicas == ()


def test_the_minimum_counts_no_more_than_the_replicas(bench):
    bench.topic("one", assignments=((3,),))
    bench.fence(3)
    assert bench.part("one").eligible_leader_replicas == (3,)
    bench.beat(3)
    assert bench.part("one").leader_id == 3


def test_writing_the_minimum_clears_eligibility_but_not_where_nobody_leads(bench):
    bench.topic("u", assignments=((2, 1),))
    bench.alter((0,))
    bench.fence(2)
    bench.fence(1)
    assert bench.part("u").leader_id is None
    for name in ("t", "u"):
        bench.do(AlterTopicConfig(topic=name, set_values={"min.insync.replicas": "1"}))
    assert bench.part().eligible_leader_replicas == ()
    assert set(bench.part("u").eligible_leader_replicas) == {1, 2}


@pytest.mark.parametrize("flush_mode", ["sync", "async"])
def test_an_unclean_stop_takes_a_replica_out_of_sync(bench, flush_mode):
    bench.topic("u", flush_mode=flush_mode)
    bench.crash(1)
    bench.restart(1)
    assert bench.part("u").in_sync_replicas == (0, 2)


def test_an_unclean_stop_ends_eligibility_without_synced_acks(bench):
    bench.topic("u", flush_mode="async")
    bench.alter((0,), name="u")
    bench.crash(1)
    bench.restart(1)
    assert bench.part("u").eligible_leader_replicas == (2,)


def test_after_an_unclean_stop_a_synced_replica_stays_eligible_behind_the_clean_ones(bench):
    bench.alter((0,))
    assert bench.part().eligible_leader_replicas == (1, 2)
    bench.crash(1)
    bench.restart(1)
    assert bench.part().eligible_leader_replicas == (2, 1)
    strict = Bench(3, trust_synced_logs=False)
    strict.topic()
    strict.alter((0,))
    strict.crash(1)
    strict.restart(1)
    assert strict.part().eligible_leader_replicas == (2,)


def test_a_clean_stop_keeps_eligibility_without_synced_acks(bench):
    bench.topic("u", flush_mode="async")
    bench.alter((0,), name="u")
    bench.crash(1)
    bench.restart(1, clean=True)
    assert bench.part("u").eligible_leader_replicas == (1, 2)


def test_the_last_known_leader_leads_when_nobody_is_in_sync_or_eligible(bench):
    bench.topic("u", flush_mode="async", assignments=((0, 1),))
    bench.crash(1)
    bench.crash(0)
    bench.restart(1)
    part = bench.part("u")
    assert (part.leader_id, part.eligible_leader_replicas) == (None, (0,)), "broker 0 may come back clean"
    bench.register(0, incarnation=b"b")
    part = bench.part("u")
    assert (part.eligible_leader_replicas, part.last_known_leaders) == ((), (0,))
    # KAFKA-19522: broker 0 is still fenced and must not lead, whatever else happens.
    assert part.leader_id is None
    assert isinstance(elect(bench, name="u").error, PreferredLeaderNotAvailable)
    bench.crash(1)
    bench.restart(1, incarnation=b"c")
    assert bench.part("u").leader_id is None
    bench.beat(0)
    part = bench.part("u")
    assert (part.leader_id, part.in_sync_replicas, part.is_recovering) == (0, (0,), True)
    assert part.last_known_leaders == ()


def test_a_replica_on_a_new_disk_is_neither_eligible_nor_a_last_known_leader(bench):
    bench.topic("one", assignments=((0,),))
    bench.crash(0)
    bench.restart(0, directory=b"new disk")
    part = bench.part("one")
    assert (part.leader_id, part.eligible_leader_replicas, part.last_known_leaders) == (None, (), ())
    assert bench.part().in_sync_replicas == (1, 2)
    result = elect(bench, name="one", unclean=True)
    assert result.leader_id == 0
    assert bench.part("one").is_recovering


def test_without_permission_no_unclean_election_is_held_and_with_it_one_is_at_once(bench):
    bench.topic("u", flush_mode="async", assignments=((0, 1),))
    bench.alter((0,), name="u")
    bench.crash(1)
    bench.restart(1)
    bench.crash(0)
    assert bench.part("u").leader_id is None
    bench.do(AlterTopicConfig(topic="u", set_values={"unclean.leader.election.enable": "true"}))
    part = bench.part("u")
    assert (part.leader_id, part.in_sync_replicas, part.is_recovering) == (1, (1,), True)
    assert part.eligible_leader_replicas == ()


def test_an_operator_may_ask_for_an_unclean_election_but_only_where_nobody_leads(bench):
    assert isinstance(elect(bench, unclean=True).error, ElectionNotNeeded)
    bench.topic("u", assignments=((0, 1),))
    bench.alter((0,), name="u")
    bench.fence(1)
    bench.do(AlterTopicConfig(topic="u", set_values={"min.insync.replicas": "1"}))
    bench.fence(0)
    assert isinstance(elect(bench, name="u", unclean=True).error, LeaderNotAvailable)
    bench.beat(1)
    assert bench.part("u").leader_id is None
    assert elect(bench, name="u", unclean=True).leader_id == 1


def test_the_preferred_leader_is_elected_on_request_only_when_in_sync(bench):
    assert isinstance(elect(bench).error, ElectionNotNeeded)
    bench.fence(0)
    bench.beat(0)
    assert isinstance(elect(bench).error, PreferredLeaderNotAvailable)
    bench.alter((1, 2, 0))
    assert elect(bench).leader_id == 0
    assert bench.part().leader_epoch == 2
    assert bench.do(ElectLeaders(partitions=None)) == ()


def test_leadership_goes_back_to_the_preferred_leader_by_itself_after_it_was_seen_ready_twice(bench):
    bench.fence(0)
    bench.beat(0)
    bench.alter((1, 2, 0))
    beats = [0, 1, 2, 3]
    for now_ms in range(0, 10_001, 500):
        bench.now_ms = now_ms
        for broker_id in beats:
            bench.beat(broker_id)
        bench.run_due()
        if now_ms < 10_000:
            assert bench.part().leader_id == 1
    assert bench.part().leader_id == 0


def test_without_an_interval_leaderships_stay_where_they_are():
    bench = Bench(3, leader_rebalance_interval_ms=None)
    bench.topic()
    bench.fence(0)
    bench.beat(0)
    bench.alter((1, 2, 0))
    assert bench.controller.due(10**9) == [] or all(
        type(request).__name__ == "FenceBroker" for request in bench.controller.due(10**9)
    )


def test_the_last_known_leader_does_not_lead_while_a_clean_copy_may_come_back(bench):
    bench.topic("u", flush_mode="async", assignments=((0, 1),))
    bench.crash(1)
    bench.crash(0)
    bench.restart(0)
    part = bench.part("u")
    assert (part.leader_id, part.eligible_leader_replicas, part.last_known_leaders) == (None, (1,), (0,))
    bench.restart(1, clean=True)
    part = bench.part("u")
    assert (part.leader_id, part.is_recovering) == (1, False)
