"""A group in one line, for logs and golden transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from logcluster.model.ids import TopicId, TopicIdPartition

if TYPE_CHECKING:
    from logcluster.core.coordinators.groups.group import Group


def describe_group(group: Group) -> str:
    """Epochs, members with what they have, give up and miss, and committed offsets; members in the order of ids."""
    if group.value is None:
        return f"group {group.name}: does not exist"
    names = topic_names(group)
    head = f"group {group.name}: epoch {group.value.group_epoch}, {group.state}"
    members = [_member(group, member_id, names) for member_id in sorted(group.members)]
    offsets = [
        f"{label}={offset}"
        for label, offset in sorted(
            (_label(partition, names), value.offset) for partition, value in group.offsets.items()
        )
    ]
    return "; ".join([head, *members, *(["offsets " + " ".join(offsets)] if offsets else [])])


def topic_names(group: Group) -> dict[TopicId, str]:
    """Names of all topics that a group's records speak of."""
    names: dict[TopicId, str] = {partition.topic_id: value.topic for partition, value in group.offsets.items()}
    for current in group.currents.values():
        names.update(current.topic_names)
    for target in group.targets.values():
        names.update(target.topic_names)
    if group.value is not None:
        names.update((topic_id, size.topic) for topic_id, size in group.value.topics.items())
    return dict(sorted(names.items()))


def _member(group: Group, member_id: str, names: Mapping[TopicId, str]) -> str:
    current, target = group.currents.get(member_id), group.targets.get(member_id)
    if current is None or target is None:
        return f"{member_id} half loaded"
    text = f"{member_id}@{current.member_epoch} {'away' if current.is_away else current.state}"
    text += " [" + _labels(current.assigned, names) + "]"
    if current.revoking:
        text += " gives up [" + _labels(current.revoking, names) + "]"
    missing = target.partitions - current.assigned.keys()
    if missing:
        text += " misses [" + _labels(missing, names) + "]"
    return text


def _labels(partitions: Iterable[TopicIdPartition], names: Mapping[TopicId, str]) -> str:
    ordered = sorted((names.get(partition.topic_id, ""), partition) for partition in partitions)
    return " ".join(_label(partition, names) for _, partition in ordered)


def _label(partition: TopicIdPartition, names: Mapping[TopicId, str]) -> str:
    name = names.get(partition.topic_id)
    return str(partition) if name is None else f"{name}-{partition.partition}"
