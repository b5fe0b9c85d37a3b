"""What becomes of groups that nobody uses: their offsets grow old, and the group goes with the last of them.

An offset of a group without members goes when, for the retention time, the group is empty and the offset itself is
unchanged: tools commit to groups that never had members. One of a deleted topic goes with the next sweep. A topic that
the leader of a shard does not know is deleted, not too new: offsets are committed only for topics that the leader of
then knew, and a later leader learned of its leadership from the same metadata, after that.
"""

from __future__ import annotations

from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    EventRecord,
    GroupRecord,
    GroupStateRecord,
    MemberRecord,
    OffsetRecord,
    OffsetValue,
    TargetRecord,
)
from logcluster.core.coordinators.groups.requests import GroupSettings
from logcluster.core.coordinators.machine import Result
from logcluster.model.ids import TopicIdPartition


def removal(group: Group) -> tuple[GroupStateRecord, ...]:
    """Records that remove every key of the group."""
    name = group.name
    records: list[GroupStateRecord] = []
    records += [CurrentRecord(group=name, member_id=member_id, value=None) for member_id in sorted(group.currents)]
    records += [TargetRecord(group=name, member_id=member_id, value=None) for member_id in sorted(group.targets)]
    records += [MemberRecord(group=name, member_id=member_id, value=None) for member_id in sorted(group.members)]
    records += [OffsetRecord(group=name, partition=partition, value=None) for partition in sorted(group.offsets)]
    records += [EventRecord(group=name, sequence=sequence, value=None) for sequence in sorted(group.events)]
    return (*records, GroupRecord(group=name, value=None))


def expired_offsets(group: Group, context: Context) -> list[TopicIdPartition]:
    """Offsets whose time is over, sorted; see the top of this file."""
    return [
        partition
        for partition in sorted(group.offsets)
        if context.topics.name(partition.topic_id) is None
        or _is_old(group, group.offsets[partition], context.settings, context.wall_ms)
    ]


def _is_old(group: Group, offset: OffsetValue, settings: GroupSettings, wall_ms: int) -> bool:
    if group.value is None or group.value.empty_since_ms is None:
        return False
    since_ms = max(group.value.empty_since_ms, offset.commit_time_ms)
    return wall_ms - since_ms >= settings.offsets_retention_ms


def sweep(group: Group, context: Context) -> Result[GroupStateRecord, int]:
    """Forget offsets whose time is over, and the group with its last one; says how many go.

    A group without members that never committed anything goes after the retention time, too.
    """
    expired = expired_offsets(group, context)
    if group.value is None:
        return Result(response=0)
    if len(expired) == len(group.offsets) and group.value.empty_since_ms is not None:
        is_old = context.wall_ms - group.value.empty_since_ms >= context.settings.offsets_retention_ms
        if expired or is_old:
            return Result(records=removal(group), response=len(expired))
    if not expired:
        return Result(response=0)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    for partition in expired:
        draft.put(OffsetRecord(group=group.name, partition=partition, value=None))
    draft.event("expired", f"committed offsets of {len(expired)} partitions grew old, or their topics were deleted")
    return Result(records=draft.finish(), response=len(expired))
