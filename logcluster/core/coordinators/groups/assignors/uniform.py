"""The uniform assignor: even counts, and under that nothing moves that need not.

Members with equal subscriptions share what is theirs: counts differ by at most one, and whoever has most already is
among those with one more, so that the number of partitions that leave a member is the least possible. What a member
gives up, it gives from the topics of which it has most; what is free is dealt like cards, so that the partitions of a
topic are spread.

With different subscriptions, `balance` says how many partitions of a topic each class of equal members is to have;
whoever is loaded most gives first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from logcluster.core.coordinators.groups.assignors.balance import ReaderClass, balance
from logcluster.core.coordinators.groups.assignors.reader import Reader, Target, kept
from logcluster.model.ids import TopicId, TopicIdPartition


def uniform(readers: Mapping[str, Reader], sizes: Mapping[TopicId, int]) -> Target:
    """Assign every partition of a topic with subscribers to one of them."""
    mine = kept(readers, sizes)
    classes = _classes(readers, sizes)
    for readers_class in classes:
        for member_id in readers_class.members:
            for partition in mine[member_id]:
                readers_class.move(partition.topic_id, 1)
    balance(classes, sizes)
    free = _even_out_classes(classes, mine, sizes)
    target: Target = {}
    for readers_class, partitions in zip(classes, free, strict=True):
        target.update(_share({member_id: mine[member_id] for member_id in readers_class.members}, partitions))
    return {member_id: target[member_id] for member_id in sorted(target)}


def _classes(readers: Mapping[str, Reader], sizes: Mapping[TopicId, int]) -> list[ReaderClass]:
    """Members with equal subscriptions, the classes in the order of their first member."""
    existing = frozenset(sizes)
    by_topics: dict[frozenset[TopicId], ReaderClass] = {}
    for member_id in sorted(readers):
        topics = readers[member_id].topics & existing
        if topics not in by_topics:
            by_topics[topics] = ReaderClass(members=[], topics=sorted(topics))
        by_topics[topics].members.append(member_id)
    return list(by_topics.values())


def _even_out_classes(
    classes: list[ReaderClass], mine: dict[str, list[TopicIdPartition]], sizes: Mapping[TopicId, int]
) -> list[list[TopicIdPartition]]:
    """Take from members what their class has too much of, out of `mine`; return what each class gets beside."""
    free: dict[TopicId, list[TopicIdPartition]] = {}
    wants: dict[TopicId, list[tuple[int, int]]] = {}
    held: set[TopicIdPartition] = set()
    for index, readers_class in enumerate(classes):
        by_topic: dict[TopicId, int] = dict.fromkeys(readers_class.topics, 0)
        for member_id in readers_class.members:
            for partition in mine[member_id]:
                by_topic[partition.topic_id] += 1
        surplus: dict[TopicId, int] = {}
        for topic_id, count in by_topic.items():
            difference = readers_class.counts.get(topic_id, 0) - count
            if difference > 0:
                wants.setdefault(topic_id, []).append((index, difference))
            elif difference < 0:
                surplus[topic_id] = -difference
        _take(readers_class.members, mine, surplus)
        held.update(partition for member_id in readers_class.members for partition in mine[member_id])
    for topic_id in wants:
        every = (TopicIdPartition(topic_id, number) for number in range(sizes[topic_id]))
        free[topic_id] = [partition for partition in every if partition not in held]
    result: list[list[TopicIdPartition]] = [[] for _ in classes]
    for topic_id in sorted(wants):
        start = 0
        for index, count in wants[topic_id]:
            result[index].extend(free[topic_id][start : start + count])
            start += count
    return result


def _take(members: list[str], mine: dict[str, list[TopicIdPartition]], surplus: Mapping[TopicId, int]) -> None:
    """Take so many partitions of each topic away, each from the member that has most at that time."""
    loads = {member_id: len(mine[member_id]) for member_id in members}
    taken: set[TopicIdPartition] = set()
    for topic_id in sorted(surplus):
        having = {
            member_id: [partition for partition in mine[member_id] if partition.topic_id == topic_id]
            for member_id in members
        }
        heap = [(-loads[member_id], member_id) for member_id in members if having[member_id]]
        heapify(heap)
        for _ in range(surplus[topic_id]):
            member_id = heappop(heap)[1]
            taken.add(having[member_id].pop())
            loads[member_id] -= 1
            if having[member_id]:
                heappush(heap, (-loads[member_id], member_id))
    if taken:
        for member_id in members:
            mine[member_id] = [partition for partition in mine[member_id] if partition not in taken]


def _share(mine: Mapping[str, list[TopicIdPartition]], more: list[TopicIdPartition]) -> Target:
    """Share out among equals what they have and `more`."""
    share, rest = divmod(sum(map(len, mine.values())) + len(more), len(mine))
    by_load = sorted(mine, key=lambda member_id: (-len(mine[member_id]), member_id))
    quotas = {member_id: share + (1 if place < rest else 0) for place, member_id in enumerate(by_load)}
    free = list(more)
    shares: dict[str, list[TopicIdPartition]] = {}
    for member_id, quota in quotas.items():
        has = mine[member_id]
        if len(has) > quota:
            has = _by_turns(has)
            free.extend(has[quota:])
        shares[member_id] = has[:quota]
    free.sort()
    hands = deque(member_id for member_id in mine if len(shares[member_id]) < quotas[member_id])
    for partition in free:
        member_id = hands.popleft()
        shares[member_id].append(partition)
        if len(shares[member_id]) < quotas[member_id]:
            hands.append(member_id)
    return {member_id: frozenset(partitions) for member_id, partitions in shares.items()}


def _by_turns(partitions: list[TopicIdPartition]) -> list[TopicIdPartition]:
    """One partition of every topic, then a second one of every topic, and so on; `partitions` are sorted."""
    seen: dict[TopicId, int] = {}
    ranked: list[tuple[int, TopicIdPartition]] = []
    for partition in partitions:
        rank = seen.get(partition.topic_id, 0)
        seen[partition.topic_id] = rank + 1
        ranked.append((rank, partition))
    ranked.sort()
    return [partition for _, partition in ranked]
