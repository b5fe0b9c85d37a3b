"""Messages of the group API <-> values of the group coordinator.

What no coordinator could mean is refused here: topic ids of a wrong size, negative partitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from logcluster.core.coordinators.groups.requests import (
    NO_MEMBER_EPOCH,
    CommitItem,
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    GroupDescription,
    GroupEvents,
    GroupListing,
    Heartbeat,
    HeartbeatResult,
    MemberDescription,
    Subscription,
)
from logcluster.model.errors import InvalidRequest
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_detail

TOPIC_ID_SIZE_BYTES: Final = 16
OUTSIDE_REASON: Final = "offsets were set from outside of the group"
"""In the event log: nobody but a member or a tool commits."""

# -- membership --------------------------------------------------------------------------------------------------------


def heartbeat_from_message(message: pb.HeartbeatRequest, *, client_host: str) -> Heartbeat:
    """Read a heartbeat; an absent subscription or `owned` is None.

    Raises:
        InvalidRequest: it names impossible partitions.
    """
    return Heartbeat(
        group=message.group,
        member_id=message.member_id,
        member_epoch=message.member_epoch,
        instance_id=message.instance_id or None,
        rack_id=message.rack_id,
        client_id=message.client_id,
        client_host=client_host,
        subscription=_subscription(message.subscription) if message.HasField("subscription") else None,
        owned=assignment_from_message(message.owned) if message.HasField("owned") else None,
        assignor=message.assignor,
        session_timeout_ms=message.session_timeout_ms,
        rebalance_timeout_ms=message.rebalance_timeout_ms,
        processing_since_ms=message.processing_since_ms,
        assignment_version=message.assignment_version if message.HasField("assignment_version") else None,
    )


def _subscription(message: pb.Subscription) -> Subscription:
    return Subscription(topics=tuple(message.topics), topic_regex=message.topic_regex or None)


def heartbeat_to_message(result: HeartbeatResult) -> pb.HeartbeatResponse:
    """Write the answer to a heartbeat; an unchanged assignment is absent."""
    return pb.HeartbeatResponse(
        member_epoch=result.member_epoch,
        heartbeat_interval_ms=result.heartbeat_interval_ms,
        session_timeout_ms=result.session_timeout_ms,
        assignment=(
            None if result.assignment is None else assignment_to_message(result.assignment, result.topic_names)
        ),
        group_epoch=result.group_epoch,
        is_settled=result.is_settled,
        assignment_version=result.assignment_version,
    )


def assignment_from_message(message: pb.Assignment) -> frozenset[TopicIdPartition]:
    """Read partitions.

    Raises:
        InvalidRequest: a topic id is none, or a partition is negative.
    """
    found: set[TopicIdPartition] = set()
    for topic in message.topics:
        topic_id = _topic_id(topic.topic_id)
        if topic_id is None:
            raise InvalidRequest("a partition of an assignment is named by topic id")
        found.update(TopicIdPartition(topic_id, _partition(partition)) for partition in topic.partitions)
    return frozenset(found)


def assignment_to_message(partitions: Iterable[TopicIdPartition], names: Mapping[TopicId, str]) -> pb.Assignment:
    """Write partitions by topic, in order."""
    topics: dict[TopicId, pb.TopicPartitions] = {}
    for topic_id, partition in sorted(partitions):
        if topic_id not in topics:
            topics[topic_id] = pb.TopicPartitions(topic=names.get(topic_id, ""), topic_id=topic_id)
        topics[topic_id].partitions.append(partition)
    return pb.Assignment(topics=list(topics.values()))


def _topic_id(data: bytes) -> TopicId | None:
    """None for an empty one: whichever topic has the name."""
    if not data:
        return None
    if len(data) != TOPIC_ID_SIZE_BYTES:
        raise InvalidRequest(f"a topic id has {TOPIC_ID_SIZE_BYTES} bytes, not {len(data)}")
    return TopicId(data)


def _partition(number: int) -> int:
    if number < 0:
        raise InvalidRequest(f"there is no partition {number}")
    return number


# -- offsets -----------------------------------------------------------------------------------------------------------


def commit_from_message(message: pb.CommitOffsetsRequest) -> CommitOffsets:
    """Read a commit; an empty member id is None, and then the epoch may be left out.

    Raises:
        InvalidRequest: it names impossible partitions.
    """
    return CommitOffsets(
        group=message.group,
        member_id=message.member_id or None,
        member_epoch=_member_epoch(message.member_id, message.member_epoch),
        items=tuple(
            CommitItem(
                topic=item.topic,
                topic_id=_topic_id(item.topic_id),
                partition=_partition(item.partition),
                offset=item.offset,
                leader_epoch=item.leader_epoch if item.HasField("leader_epoch") else None,
                metadata=item.metadata,
            )
            for item in message.offsets
        ),
        allow_out_of_range=message.allow_out_of_range,
        reason="" if message.member_id else OUTSIDE_REASON,
        sequence=message.sequence,
    )


def _member_epoch(member_id: str, member_epoch: int) -> int:
    return NO_MEMBER_EPOCH if not member_id and not member_epoch else member_epoch


def commit_to_message(items: Sequence[CommitItem], result: CommitResult) -> pb.CommitOffsetsResponse:
    """Write what became of a commit's items, in their order."""
    return pb.CommitOffsetsResponse(
        results=[
            pb.OffsetCommitResult(
                topic=item.topic, partition=item.partition, error=None if error is None else error_detail(error)
            )
            for item, error in zip(items, result.errors, strict=True)
        ]
    )


def _wanted(topics: Iterable[pb.TopicPartitions]) -> tuple[tuple[str, TopicId | None, int], ...]:
    return tuple(
        (topic.topic, _topic_id(topic.topic_id), _partition(partition))
        for topic in topics
        for partition in topic.partitions
    )


def fetch_from_message(message: pb.FetchOffsetsRequest) -> FetchOffsets:
    """Read a question for offsets; no topics are all.

    Raises:
        InvalidRequest: it names impossible partitions.
    """
    return FetchOffsets(
        group=message.group,
        partitions=_wanted(message.topics) if message.topics else None,
        member_id=message.member_id or None,
        member_epoch=_member_epoch(message.member_id, message.member_epoch),
    )


def offset_to_message(item: FetchedOffset) -> pb.CommittedOffset:
    """Write one committed offset, or that there is none."""
    message = pb.CommittedOffset(topic=item.topic, topic_id=item.topic_id or b"", partition=item.partition)
    if item.value is not None:
        message.offset = item.value.offset
        if item.value.leader_epoch is not None:
            message.leader_epoch = item.value.leader_epoch
        message.metadata = item.value.metadata
        message.commit_time_ms = item.value.commit_time_ms
    return message


def delete_offsets_from_message(message: pb.DeleteOffsetsRequest) -> DeleteOffsets:
    """Read which offsets are to be forgotten.

    Raises:
        InvalidRequest: it names impossible partitions.
    """
    return DeleteOffsets(group=message.group, partitions=_wanted(message.topics))


def delete_offsets_to_message(request: DeleteOffsets, result: CommitResult) -> pb.DeleteOffsetsResponse:
    """Write what became of each, in the order of the request."""
    return pb.DeleteOffsetsResponse(
        results=[
            pb.OffsetCommitResult(
                topic=topic, partition=partition, error=None if error is None else error_detail(error)
            )
            for (topic, _, partition), error in zip(request.partitions, result.errors, strict=True)
        ]
    )


# -- people ------------------------------------------------------------------------------------------------------------


def listing_to_message(listing: GroupListing) -> pb.GroupListing:
    """Write a group in a list."""
    return pb.GroupListing(
        group=listing.group,
        state=listing.state,
        member_count=listing.member_count,
        group_epoch=listing.group_epoch,
    )


def description_to_message(group: GroupDescription, *, coordinator_id: int) -> pb.GroupDescription:
    """Write a group as it is shown."""
    return pb.GroupDescription(
        group=group.group,
        state=group.state,
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        assignor=group.assignor,
        members=[_member(member, group.topic_names) for member in group.members],
        coordinator_id=coordinator_id,
        offsets=[offset_to_message(item) for item in group.offsets],
    )


def _member(member: MemberDescription, names: Mapping[TopicId, str]) -> pb.MemberDescription:
    value = member.value
    return pb.MemberDescription(
        member_id=member.member_id,
        instance_id=value.instance_id or "",
        client_id=value.client_id,
        client_host=value.client_host,
        rack_id=value.rack_id,
        member_epoch=member.member_epoch,
        state=member.state,
        subscription=pb.Subscription(topics=value.topics, topic_regex=value.topic_regex or ""),
        assignment=assignment_to_message(member.assigned, names),
        target=assignment_to_message(member.target, names),
        joined_ms=value.joined_ms,
        silent_ms=member.silent_ms,
        is_connected=member.is_connected,
        processing_since_ms=member.processing_since_ms,
    )


def events_to_message(events: GroupEvents) -> pb.ListGroupEventsResponse:
    """Write events, oldest first."""
    return pb.ListGroupEventsResponse(
        events=[
            pb.GroupEvent(
                sequence=sequence,
                time_ms=event.time_ms,
                kind=event.kind,
                group_epoch=event.group_epoch,
                reason=event.reason,
                member_id=event.member_id,
                instance_id=event.instance_id,
                client_host=event.client_host,
                partition_counts=dict(event.partition_counts),
                moved=event.moved,
            )
            for sequence, event in events.events
        ]
    )
