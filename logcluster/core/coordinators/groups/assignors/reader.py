"""What an assignor is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from logcluster.model.ids import TopicId, TopicIdPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A member, as an assignor sees it.

    Args:
        topics: what it reads; topics without a size are left out.
        has: its partitions in the assignment before; any that it may not have are left out.
    """

    topics: frozenset[TopicId]
    has: frozenset[TopicIdPartition] = frozenset()


Target = dict[str, frozenset[TopicIdPartition]]
"""Partitions by member id; every reader is in it."""
Assignor = Callable[[Mapping[str, Reader], Mapping[TopicId, int]], Target]
"""Takes readers by member id, and the numbers of partitions by topic id; the same input gives the same output."""


def kept(readers: Mapping[str, Reader], sizes: Mapping[TopicId, int]) -> dict[str, list[TopicIdPartition]]:
    """What each reader has and may keep, sorted: subscribed, existing, and its alone (the first id keeps it)."""
    taken: set[TopicIdPartition] = set()
    result: dict[str, list[TopicIdPartition]] = {}
    for member_id in sorted(readers):
        reader = readers[member_id]
        mine = sorted(
            partition
            for partition in reader.has
            if partition not in taken
            and partition.topic_id in reader.topics
            and partition.partition < sizes.get(partition.topic_id, 0)
        )
        taken.update(mine)
        result[member_id] = mine
    return result
