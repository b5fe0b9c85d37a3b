"""A new group epoch and its target assignment, when members, subscriptions or topics have changed.

The target is all that changes here; each member is led to it by its own heartbeats. Members that are away are the
exception: they read nothing, so what the new target takes from them is free at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from logcluster.core.coordinators.groups.assignors.reader import Reader, Target
from logcluster.core.coordinators.groups.assignors.registry import ASSIGNORS, wished_assignor
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.reconcile import stand_in
from logcluster.core.coordinators.groups.records import CurrentRecord, TargetRecord, TargetValue, TopicSize
from logcluster.core.coordinators.groups.requests import Topics
from logcluster.core.coordinators.groups.subscriptions import difference, read_subscriptions
from logcluster.model.ids import TopicId, TopicIdPartition


def rebalance(draft: Draft, topics: Topics, *, reason: str, is_due: bool) -> None:
    """Begin a new group epoch if there is a reason to, and make its target assignment.

    Args:
        reason: for people.
        is_due: members or subscriptions have changed; otherwise only topics can be the reason.
    """
    members = draft.group.members
    if not members:
        if is_due:
            _note_empty(draft)
        return
    subscriptions = read_subscriptions(members, topics)
    if not is_due:
        if subscriptions.topics == draft.value.topics:
            return
        reason = difference(draft.value.topics, subscriptions.topics)
        draft.event("topics-changed", reason)
    assignor = wished_assignor((members[member_id].assignor for member_id in sorted(members)), draft.value.assignor)
    readers = {
        member_id: Reader(topics=subscribed, has=_target_of(draft.group, member_id))
        for member_id, subscribed in subscriptions.by_member.items()
    }
    sizes = {topic_id: size.partitions for topic_id, size in subscriptions.topics.items()}
    target = ASSIGNORS[assignor](readers, sizes)
    moved = _moved_count(draft, target)
    epoch = draft.value.group_epoch + 1
    draft.set_value(
        replace(
            draft.value,
            group_epoch=epoch,
            assignment_epoch=epoch,
            assignor=assignor,
            empty_since_ms=None,
            topics=subscriptions.topics,
        )
    )
    _put_targets(draft, target, subscriptions.topics)
    _stand_in_for_the_away(draft)
    counts = {member_id: len(target[member_id]) for member_id in sorted(target)}
    draft.event("rebalanced", reason, partition_counts=counts, moved=moved)


def _note_empty(draft: Draft) -> None:
    epoch = draft.value.group_epoch + 1
    draft.set_value(
        replace(draft.value, group_epoch=epoch, assignment_epoch=epoch, empty_since_ms=draft.wall_ms, topics={})
    )


def _target_of(group: Group, member_id: str) -> frozenset[TopicIdPartition]:
    target = group.targets.get(member_id)
    return frozenset() if target is None else target.partitions


def _moved_count(draft: Draft, target: Target) -> int:
    """How many partitions were meant for another member until now, one that is gone included."""
    owners: dict[TopicIdPartition, str] = {}
    for group in (draft.before, draft.group):
        for member_id in sorted(group.targets):
            owners.update(dict.fromkeys(group.targets[member_id].partitions, member_id))
    return sum(
        1
        for member_id, partitions in target.items()
        for partition in partitions
        if owners.get(partition, member_id) != member_id
    )


def _put_targets(draft: Draft, target: Target, topics: Mapping[TopicId, TopicSize]) -> None:
    for member_id, partitions in target.items():
        before = draft.group.targets.get(member_id)
        names = {topic_id: topics[topic_id].topic for topic_id in sorted({item.topic_id for item in partitions})}
        value = TargetValue(partitions=partitions, topic_names=names)
        if value != before:
            draft.put(TargetRecord(group=draft.group.name, member_id=member_id, value=value))


def _stand_in_for_the_away(draft: Draft) -> None:
    for member_id in sorted(draft.group.members):
        current = draft.group.currents.get(member_id)
        if current is not None and current.is_away:
            value = stand_in(current, draft.group.targets[member_id])
            if value != current:
                draft.put(CurrentRecord(group=draft.group.name, member_id=member_id, value=value))
