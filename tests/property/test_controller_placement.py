"""Placement keeps its goals for any cluster."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, strategies as st

from logcluster.core.controller.placement import PlacementBroker, place
from logcluster.model.errors import InvalidReplicationFactor


@st.composite
def clusters(draw):
    count = draw(st.integers(1, 12))
    rack_count = draw(st.integers(1, 4))
    brokers = [
        PlacementBroker(
            broker_id=broker_id * 3,
            rack=f"r{draw(st.integers(1, rack_count))}" if rack_count > 1 else "",
            replicas_elsewhere=draw(st.integers(0, 50)),
            leaders_elsewhere=draw(st.integers(0, 50)),
        )
        for broker_id in range(count)
    ]
    return brokers, draw(st.integers(1, min(count, 5))), draw(st.integers(1, 60)), draw(st.integers(0, 2**32))


@given(clusters())
def test_replicas_are_distinct_leaders_even_and_racks_different_where_possible(cluster):
    brokers, replication_factor, partitions, seed = cluster
    placed = place(brokers=brokers, partitions=partitions, replication_factor=replication_factor, rng=Random(seed))
    racks = {broker.broker_id: broker.rack for broker in brokers}
    assert len(placed) == partitions
    leaders = Counter(replicas[0] for replicas in placed)
    assert max(leaders.values()) - min(leaders.get(broker.broker_id, 0) for broker in brokers) <= 1
    for replicas in placed:
        assert len(set(replicas)) == replication_factor
        assert set(replicas) <= set(racks)
        different = len({racks[broker_id] for broker_id in replicas})
        assert different == min(replication_factor, len(set(racks.values())))


@given(clusters())
def test_replicas_are_even_in_a_cluster_of_one_rack(cluster):
    brokers, replication_factor, partitions, seed = cluster
    brokers = [PlacementBroker(broker_id=broker.broker_id) for broker in brokers]
    placed = place(brokers=brokers, partitions=partitions, replication_factor=replication_factor, rng=Random(seed))
    hosted = Counter(broker_id for replicas in placed for broker_id in replicas)
    assert max(hosted.values()) - min(hosted.get(broker.broker_id, 0) for broker in brokers) <= 2


@given(clusters())
def test_the_same_seed_gives_the_same_placement(cluster):
    brokers, replication_factor, partitions, seed = cluster
    placements = [
        place(brokers=brokers, partitions=partitions, replication_factor=replication_factor, rng=Random(seed))
        for _ in range(2)
    ]
    assert placements[0] == placements[1]


@given(clusters(), st.integers(1, 30))
def test_growing_a_topic_evens_out_what_is_there(cluster, added):
    brokers, _, partitions, seed = cluster
    first = place(brokers=brokers, partitions=partitions, replication_factor=1, rng=Random(seed))
    more = place(brokers=brokers, partitions=added, replication_factor=1, rng=Random(seed + 1), existing=first)
    leaders = Counter(replicas[0] for replicas in [*first, *more])
    assert max(leaders.values()) - min(leaders.get(broker.broker_id, 0) for broker in brokers) <= 1


def test_topics_of_one_partition_spread_over_the_cluster():
    totals: Counter[int] = Counter()
    for seed in range(30):
        brokers = [
            PlacementBroker(broker_id=broker_id, leaders_elsewhere=totals[broker_id], replicas_elsewhere=0)
            for broker_id in range(3)
        ]
        (replicas,) = place(brokers=brokers, partitions=1, replication_factor=3, rng=Random(seed))
        totals[replicas[0]] += 1
    assert sorted(totals.values()) == [10, 10, 10]


def test_followers_who_lead_next_are_spread_too():
    brokers = [PlacementBroker(broker_id=broker_id) for broker_id in range(3)]
    placed = place(brokers=brokers, partitions=60, replication_factor=3, rng=Random(1))
    successors = Counter(replicas[:2] for replicas in placed)
    assert len(successors) == 6
    assert set(successors.values()) == {10}


@pytest.mark.parametrize("replication_factor", [0, 3])
def test_an_impossible_factor_names_the_usable_brokers(replication_factor):
    brokers = [PlacementBroker(broker_id=broker_id) for broker_id in range(2)]
    with pytest.raises(InvalidReplicationFactor, match="2 usable brokers"):
        place(brokers=brokers, partitions=1, replication_factor=replication_factor, rng=Random(1))
