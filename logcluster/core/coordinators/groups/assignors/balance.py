"""How many partitions of each topic go to members with different subscriptions: as even as the subscriptions allow.

Members with equal subscriptions form a class. A class is as even inside as can be, so only counts matter here: how
many partitions of each topic a class has. The result has the least sum of squares of the members' loads, which is
also the lexicographically most even one. It is reached when no chain of moves leads from a loaded member to one with
at least two fewer: the optimal semi-matching of Harvey, Ladner, Lovasz and Tamir (2003), with whole classes as nodes
and many partitions moved at once.

Partitions without a class go to the least loaded one that may have them. Then the most loaded class gives along the
shortest such chain, until it has none. Whatever can be reached from it then is finished: its loads are within one of
the highest, so no chain of a class that is left would end there, and nothing of it is looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

from logcluster.model.ids import TopicId


@dataclass(slots=True, kw_only=True)
class ReaderClass:
    """Members with equal subscriptions, and how many partitions of each topic they have together."""

    members: list[str]
    topics: list[TopicId]
    counts: dict[TopicId, int] = field(default_factory=dict)
    load: int = 0

    @property
    def lowest(self) -> int:
        """What its least loaded member has."""
        return self.load // len(self.members)

    @property
    def highest(self) -> int:
        """What its most loaded member has."""
        return -(-self.load // len(self.members))

    def move(self, topic_id: TopicId, count: int) -> None:
        """Have `count` more partitions of the topic; fewer when it is negative."""
        self.counts[topic_id] = self.counts.get(topic_id, 0) + count
        self.load += count


def balance(classes: Sequence[ReaderClass], sizes: Mapping[TopicId, int]) -> None:
    """Change the counts of `classes` so that they add up to `sizes`, are even, and differ little from before."""
    subscribers: dict[TopicId, list[int]] = {}
    for index, readers in enumerate(classes):
        for topic_id in readers.topics:
            subscribers.setdefault(topic_id, []).append(index)
    # Topics with few takers first: the others can make up for it.
    for topic_id in sorted(subscribers, key=lambda topic_id: (len(subscribers[topic_id]), topic_id)):
        takers = subscribers[topic_id]
        missing = sizes[topic_id] - sum(classes[index].counts.get(topic_id, 0) for index in takers)
        _place(classes, takers, topic_id, missing)
    active = set(range(len(classes)))
    while len(active) > 1:
        giver = min(active, key=lambda index: (-classes[index].highest, index))
        came_from = _search(classes, subscribers, giver, active)
        taker = _taker(classes, came_from, limit=classes[giver].highest - 2)
        if taker is None:
            active.difference_update(came_from)
        else:
            _shift(classes, came_from, giver, taker)


def _place(classes: Sequence[ReaderClass], takers: list[int], topic_id: TopicId, count: int) -> None:
    heap = [(classes[index].lowest, index) for index in takers]
    heapify(heap)
    for _ in range(count):
        index = heap[0][1]
        classes[index].move(topic_id, 1)
        heapreplace(heap, (classes[index].lowest, index))


@dataclass(frozen=True, slots=True)
class _Step:
    """How a class is reached: from which one, by a partition of which topic, and in how many steps."""

    source: int
    topic_id: TopicId
    depth: int


def _search(
    classes: Sequence[ReaderClass], subscribers: Mapping[TopicId, list[int]], giver: int, active: set[int]
) -> dict[int, _Step | None]:
    """Look, nearest first, at what partitions of `giver` could move to; ends with the first level with a taker."""
    limit = classes[giver].highest - 2
    came_from: dict[int, _Step | None] = {giver: None}
    seen_topics: set[TopicId] = set()
    level = [giver]
    depth = 0
    while level:
        depth += 1
        following: list[int] = []
        for source in level:
            for topic_id in classes[source].topics:
                if topic_id in seen_topics or not classes[source].counts.get(topic_id):
                    continue
                seen_topics.add(topic_id)
                for index in subscribers[topic_id]:
                    if index not in came_from and index in active:
                        came_from[index] = _Step(source, topic_id, depth)
                        following.append(index)
        if any(classes[index].lowest <= limit for index in following):
            break
        level = following
    return came_from


def _taker(classes: Sequence[ReaderClass], came_from: Mapping[int, _Step | None], *, limit: int) -> int | None:
    """The least loaded class that was reached and has room."""
    with_room = [index for index, step in came_from.items() if step is not None and classes[index].lowest <= limit]
    return min(with_room, key=lambda index: (classes[index].lowest, index), default=None)


def _shift(classes: Sequence[ReaderClass], came_from: Mapping[int, _Step | None], giver: int, taker: int) -> None:
    """Move as many partitions along the chain as each make the loads more even."""
    chain: list[tuple[int, TopicId, int]] = []
    index = taker
    while (step := came_from[index]) is not None:
        chain.append((step.source, step.topic_id, index))
        index = step.source
    first, last = classes[giver], classes[taker]
    low, high = 1, min(classes[source].counts[topic_id] for source, topic_id, _ in chain)
    while low < high:
        middle = (low + high + 1) // 2
        gives = -(-(first.load - middle + 1) // len(first.members))
        takes = (last.load + middle - 1) // len(last.members)
        low, high = (middle, high) if gives - takes >= 2 else (low, middle - 1)
    for source, topic_id, target in chain:
        classes[source].move(topic_id, -low)
        classes[target].move(topic_id, low)
