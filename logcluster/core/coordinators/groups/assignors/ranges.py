"""The range assignor: per topic, contiguous ranges of partitions, the members in the same order for every topic.

So equally numbered partitions of several topics go to the same member, which can join them. The order is the one in
which the members' ranges lie already, and members without one come last, by id: who joins or leaves shifts the
borders of the others, not their order.
"""

from __future__ import annotations

from collections.abc import Mapping

from logcluster.core.coordinators.groups.assignors.reader import Reader, Target, kept
from logcluster.model.ids import TopicId, TopicIdPartition


def range_assign(readers: Mapping[str, Reader], sizes: Mapping[TopicId, int]) -> Target:
    """Assign ranges; where a topic's partitions do not divide evenly, the first members have one more."""
    order = _order(readers, sizes)
    target: dict[str, list[TopicIdPartition]] = {member_id: [] for member_id in sorted(readers)}
    for topic_id in sorted(sizes):
        subscribed = [member_id for member_id in order if topic_id in readers[member_id].topics]
        if not subscribed:
            continue
        share, rest = divmod(sizes[topic_id], len(subscribed))
        start = 0
        for place, member_id in enumerate(subscribed):
            end = start + share + (1 if place < rest else 0)
            target[member_id].extend(TopicIdPartition(topic_id, partition) for partition in range(start, end))
            start = end
    return {member_id: frozenset(partitions) for member_id, partitions in target.items()}


def _order(readers: Mapping[str, Reader], sizes: Mapping[TopicId, int]) -> list[str]:
    """Member ids by the lowest partition number that each has."""
    first = {
        member_id: min((partition.partition for partition in mine), default=None)
        for member_id, mine in kept(readers, sizes).items()
    }

    def place(member_id: str) -> tuple[bool, int, str]:
        lowest = first[member_id]
        return (lowest is None, lowest or 0, member_id)

    return sorted(readers, key=place)
