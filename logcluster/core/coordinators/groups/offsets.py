"""Committed offsets: keep, read, forget. How they grow old is in `retention`.

Who may commit. A member, what it has or is giving up, with an epoch between the one in which it was given the
partition and its own (KIP-1251): so an epoch that grew while a commit was on its way refuses nothing, and a member
that lost a partition, even if it got it back since, can commit nothing that it read before. Somebody without a member
id, only while the group has no members. An error belongs to one partition; the others of the request are committed.
"""

from __future__ import annotations

from functools import partial

from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.identity import check_group_id
from logcluster.core.coordinators.groups.records import (
    CurrentValue,
    GroupStateRecord,
    GroupValue,
    OffsetRecord,
    OffsetValue,
)
from logcluster.core.coordinators.groups.requests import (
    NO_MEMBER_EPOCH,
    CommitItem,
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    Topics,
)
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import (
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupSubscribedToTopic,
    InvalidRequest,
    LogClusterError,
    NonEmptyGroup,
    OffsetMetadataTooLarge,
    OffsetOutOfRange,
    PartitionNotAssigned,
    StaleMemberEpoch,
    UnknownMemberId,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicId, TopicIdPartition


def commit(group: Group, request: CommitOffsets, context: Context) -> Result[GroupStateRecord, CommitResult]:
    """Keep offsets; makes the group if there is none and anything is committed.

    Raises:
        UnknownMemberId: the group has no such member.
        StaleMemberEpoch: the member has committed something later already.
        NonEmptyGroup: somebody without a member id, and the group has members.
        InvalidRequest: a member epoch without a member id.
        InvalidGroupId: the group would be a new one and cannot be called so.
    """
    current = _committer(group, request)
    _check_order(group, request)
    records: list[OffsetRecord] = []
    errors: list[LogClusterError | None] = []
    for item in request.items:
        try:
            records.append(_commit_one(group, request, item, current, context))
        except LogClusterError as error:
            errors.append(error)
        else:
            errors.append(None)
    response = CommitResult(errors=tuple(errors))
    if not records or (group.value is not None and not request.reason):
        return Result(records=tuple(records), response=response, on_appended=partial(_note_order, group, request))
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    if group.value is None:
        check_group_id(group.name)
        draft.set_value(GroupValue(empty_since_ms=context.wall_ms))
    for record in records:
        draft.put(record)
    if request.reason:
        draft.event("reset", f"{request.reason} ({len(records)} partitions)", member_id=request.member_id or "")
    return Result(records=draft.finish(), response=response)


def _committer(group: Group, request: CommitOffsets) -> CurrentValue | None:
    """What the member that commits has; None: it is no member, and may commit all the same."""
    if request.member_id is None:
        if request.member_epoch != NO_MEMBER_EPOCH:
            raise InvalidRequest(f"member epoch {request.member_epoch} without a member id")
        if group.members:
            raise NonEmptyGroup(
                f"group {group.name!r} has {len(group.members)} members, which commit by themselves",
                member_count=len(group.members),
            )
        return None
    current = group.currents.get(request.member_id)
    if current is None:
        raise UnknownMemberId(f"group {group.name!r} has no member {request.member_id}", member_id=request.member_id)
    return current


def _check_order(group: Group, request: CommitOffsets) -> None:
    """A request that was held up on its way must not undo what the same member has committed since."""
    session = None if request.member_id is None else group.sessions.get(request.member_id)
    if session is not None and 0 < request.sequence < session.commit_sequence:
        raise StaleMemberEpoch(
            f"commit {request.sequence} of member {request.member_id} came after its commit {session.commit_sequence}"
        )


def _note_order(group: Group, request: CommitOffsets) -> None:
    session = None if request.member_id is None else group.sessions.get(request.member_id)
    if session is not None:
        session.commit_sequence = max(session.commit_sequence, request.sequence)


def _commit_one(
    group: Group, request: CommitOffsets, item: CommitItem, current: CurrentValue | None, context: Context
) -> OffsetRecord:
    partition, topic = locate(item.topic, item.topic_id, item.partition, context.topics)
    if current is not None:
        _check_fence(partition, topic, current, request.member_epoch)
    size_bytes, size_bytes_max = len(item.metadata.encode()), context.settings.offset_metadata_bytes_max
    if size_bytes > size_bytes_max:
        raise OffsetMetadataTooLarge(
            f"the text with the offset has {size_bytes} bytes, at most {size_bytes_max} are allowed"
        )
    if item.offset < 0 or (item.leader_epoch is not None and item.leader_epoch < 0):
        raise InvalidRequest(f"offset {item.offset} of leader epoch {item.leader_epoch}: neither can be negative")
    if item.end_offset is not None and item.offset > item.end_offset and not request.allow_out_of_range:
        raise OffsetOutOfRange(
            f"offset {item.offset} is beyond the end of {topic}-{item.partition}, which is {item.end_offset}",
            hint="commit the offset of the next record to read",
            end_offset=item.end_offset,
        )
    value = OffsetValue(
        offset=item.offset,
        leader_epoch=item.leader_epoch,
        metadata=item.metadata,
        commit_time_ms=context.wall_ms,
        topic=topic,
    )
    return OffsetRecord(group=group.name, partition=partition, value=value)


def locate(topic: str, topic_id: TopicId | None, partition: int, topics: Topics) -> tuple[TopicIdPartition, str]:
    """The partition that a caller means, and its topic's name; an empty name is looked up by the id.

    Raises:
        UnknownTopicId: the id is no topic's, or not that of the topic with this name.
        UnknownTopicOrPartition: there is no topic of the name, or not this partition.
    """
    name = topic
    if not name and topic_id is not None:
        name = topics.name(topic_id) or ""
        if not name:
            raise UnknownTopicId(f"no topic has the id {topic_id.hex()}")
    size = topics.size(name)
    if size is None:
        raise UnknownTopicOrPartition(f"there is no topic {name!r}", topic=name)
    known_id, partitions = size
    if topic_id is not None and topic_id != known_id:
        raise UnknownTopicId(f"topic {name} has the id {known_id.hex()}, not {topic_id.hex()}", topic=name)
    if not 0 <= partition < partitions:
        raise UnknownTopicOrPartition(f"topic {name} has {partitions} partitions, not {partition}", topic=name)
    return TopicIdPartition(known_id, partition), name


def _check_fence(partition: TopicIdPartition, topic: str, current: CurrentValue, member_epoch: int) -> None:
    label = f"{topic}-{partition.partition}"
    if member_epoch > current.member_epoch:
        raise FencedMemberEpoch(
            f"member epoch {member_epoch} is above {current.member_epoch}, the last one that was given",
            member_epoch=current.member_epoch,
        )
    given_epoch = current.assigned.get(partition, current.revoking.get(partition))
    if given_epoch is None:
        raise PartitionNotAssigned(f"{label} is not assigned to the member")
    if member_epoch < given_epoch:
        raise StaleMemberEpoch(
            f"{label} was given in member epoch {given_epoch}, the commit is of {member_epoch}",
            member_epoch=current.member_epoch,
        )


def fetch(group: Group, request: FetchOffsets, topics: Topics) -> Result[GroupStateRecord, tuple[FetchedOffset, ...]]:
    """Read offsets, in the order of the request; all of them, by topic name and partition, when it names none.

    Offsets of deleted topics are left out of "all": whoever goes by names would take them for those of a new topic.
    A member may be some epochs behind (its answer is on its way), never ahead.

    Raises:
        UnknownMemberId: the group has no such member.
        FencedMemberEpoch: the member epoch is above the known one.
    """
    if request.member_id is not None:
        current = group.currents.get(request.member_id)
        if current is None:
            raise UnknownMemberId(
                f"group {group.name!r} has no member {request.member_id}", member_id=request.member_id
            )
        if request.member_epoch > current.member_epoch:
            raise FencedMemberEpoch(
                f"member epoch {request.member_epoch} is above {current.member_epoch}, the last one that was given"
            )
    if request.partitions is None:
        found = (item for item in all_offsets(group) if _is_known(item, topics))
        return Result(response=tuple(found))
    return Result(response=tuple(_fetch_one(group, *wanted, topics) for wanted in request.partitions))


def all_offsets(group: Group) -> tuple[FetchedOffset, ...]:
    """Every committed offset, those of deleted topics included, by topic name, id and partition."""
    ordered = sorted(group.offsets, key=lambda partition: (group.offsets[partition].topic, partition))
    return tuple(
        FetchedOffset(
            topic=group.offsets[partition].topic,
            topic_id=partition.topic_id,
            partition=partition.partition,
            value=group.offsets[partition],
        )
        for partition in ordered
    )


def _is_known(item: FetchedOffset, topics: Topics) -> bool:
    return item.topic_id is not None and topics.name(item.topic_id) is not None


def _fetch_one(group: Group, topic: str, topic_id: TopicId | None, partition: int, topics: Topics) -> FetchedOffset:
    if topic_id is None:
        size = topics.size(topic)
        topic_id = None if size is None else size[0]
    value = None if topic_id is None else group.offsets.get(TopicIdPartition(topic_id, partition))
    return FetchedOffset(topic=topic, topic_id=topic_id, partition=partition, value=value)


def delete_offsets(group: Group, request: DeleteOffsets, context: Context) -> Result[GroupStateRecord, CommitResult]:
    """Forget offsets of partitions that nobody reads; by name alone, of every topic that ever had the name.

    An offset that is not there is no error, if there is such a partition.

    Raises:
        GroupIdNotFound: there is no such group.
    """
    if group.value is None:
        raise GroupIdNotFound(f"there is no group {group.name!r}", group=group.name)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    errors: list[LogClusterError | None] = []
    count = 0
    for topic, topic_id, partition in request.partitions:
        try:
            found = _deletable(draft.group, topic, topic_id, partition, context.topics)
        except LogClusterError as error:
            errors.append(error)
            continue
        errors.append(None)
        count += len(found)
        for item in found:
            draft.put(OffsetRecord(group=group.name, partition=item, value=None))
    if count:
        draft.event("reset", f"committed offsets of {count} partitions were deleted")
    return Result(records=draft.finish(), response=CommitResult(errors=tuple(errors)))


def _deletable(
    group: Group, topic: str, topic_id: TopicId | None, partition: int, topics: Topics
) -> list[TopicIdPartition]:
    if topic_id is not None:
        found = [item for item in [TopicIdPartition(topic_id, partition)] if item in group.offsets]
    else:
        found = sorted(
            item for item, value in group.offsets.items() if (value.topic, item.partition) == (topic, partition)
        )
    if not found:
        found_by_name, _ = locate(topic, topic_id, partition, topics)
        _check_not_read(group, found_by_name, topic)
    for item in found:
        _check_not_read(group, item, topic)
    return found


def _check_not_read(group: Group, partition: TopicIdPartition, topic: str) -> None:
    subscribed = {} if group.value is None else group.value.topics
    if partition.topic_id in subscribed or partition in group.holders:
        raise GroupSubscribedToTopic(f"members of group {group.name!r} read {topic}", topic=topic)
