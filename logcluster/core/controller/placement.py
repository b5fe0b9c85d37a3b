"""Where the replicas of new partitions go: a pure function of brokers, counts, load and a seeded Random.

Goals, in this order: replicas of a partition on different brokers; on different racks as far as there are racks;
replicas spread evenly over brokers; leaders (the first replicas) spread evenly over brokers; and the second replicas,
who lead next, of one broker's leaders spread over the others, so that its failure does not push all onto one.

Greedy: for each partition, brokers are taken least loaded by this topic first; ties go to the one least loaded by
all other topics, then by a shuffled order drawn once per call. A broker that is new and empty so fills up without
taking the whole of a new topic. With `b` brokers and replication factor `r` a partition costs O(r * b).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from logcluster.model.errors import InvalidReplicationFactor


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementBroker:
    """A broker that can take replicas; `may_lead` is False while it drains.

    The counts are of partitions of all other topics: how many it hosts, and is the preferred leader of.
    """

    broker_id: int
    rack: str = ""
    may_lead: bool = True
    replicas_elsewhere: int = 0
    leaders_elsewhere: int = 0


@dataclass(slots=True)
class _Load:
    """What a broker carries so far, existing partitions included."""

    broker: PlacementBroker
    tie_break: int
    replicas: int = 0
    leaders: int = 0


def place(
    *,
    brokers: Sequence[PlacementBroker],
    partitions: int,
    replication_factor: int,
    rng: Random,
    existing: Iterable[Sequence[int]] = (),
) -> list[tuple[int, ...]]:
    """Choose replicas for `partitions` new partitions; the first of each is its preferred leader.

    Args:
        existing: assignments of the topic's present partitions, counted as load.
        rng: makes ties fall differently from topic to topic.

    Raises:
        InvalidReplicationFactor: there are fewer brokers than replicas asked for, or the factor is below 1.
    """
    if not 1 <= replication_factor <= len(brokers):
        raise InvalidReplicationFactor(
            f"replication factor {replication_factor} is not possible: {len(brokers)} usable brokers",
            usable_brokers=len(brokers),
            replication_factor=replication_factor,
        )
    order = list(range(len(brokers)))
    rng.shuffle(order)
    loads = [_Load(broker, tie) for broker, tie in zip(brokers, order, strict=True)]
    by_id = {load.broker.broker_id: load for load in loads}
    successions: dict[tuple[int, int], int] = {}
    for assignment in existing:
        _count(assignment, by_id, successions)
    placed: list[tuple[int, ...]] = []
    for _ in range(partitions):
        assignment = _place_one(loads, replication_factor, successions)
        _count(assignment, by_id, successions)
        placed.append(assignment)
    return placed


def _count(assignment: Sequence[int], by_id: Mapping[int, _Load], successions: dict[tuple[int, int], int]) -> None:
    leader_id = assignment[0]
    for position, broker_id in enumerate(assignment):
        load = by_id.get(broker_id)
        if load is None:
            continue
        load.replicas += 1
        if position == 0:
            load.leaders += 1
        elif position == 1:
            successions[leader_id, broker_id] = successions.get((leader_id, broker_id), 0) + 1


def _leader_rank(load: _Load) -> tuple[bool, int, int, int, int]:
    broker = load.broker
    return (not broker.may_lead, load.leaders, load.replicas, broker.leaders_elsewhere, load.tie_break)


def _place_one(
    loads: Sequence[_Load], replication_factor: int, successions: Mapping[tuple[int, int], int]
) -> tuple[int, ...]:
    leader = min(loads, key=_leader_rank)
    leader_id = leader.broker.broker_id
    chosen = [leader]
    racks = {leader.broker.rack: 1}
    remaining = [load for load in loads if load is not leader]
    while len(chosen) < replication_factor:
        follower = min(
            remaining,
            key=lambda load: (
                racks.get(load.broker.rack, 0),
                load.replicas,
                successions.get((leader_id, load.broker.broker_id), 0),
                load.broker.replicas_elsewhere,
                load.tie_break,
            ),
        )
        remaining.remove(follower)
        chosen.append(follower)
        racks[follower.broker.rack] = racks.get(follower.broker.rack, 0) + 1
    return tuple(load.broker.broker_id for load in chosen)
