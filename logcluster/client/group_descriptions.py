"""What the administration of groups returns, and how it is read off the wire; see `group_admin`.

Plain values. Times are milliseconds: points in time since 1970 by the coordinator's clock, except where a name says
how long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from logcluster.client.records import Timestamp
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicPartition
from logcluster.wire.gen.logcluster.v1 import groups_pb2
from logcluster.wire.status import error_from_detail


class Shift(int):
    """So many records forward, or (negative) back, where a plain number would mean an offset: `to=Shift(-10)`."""


ResetPoint = Literal["beginning", "end", "earliest", "latest"] | int | Timestamp | datetime | Shift
"""Where a reset leads: an end of the log, an offset, the first record at or after a time, or some records further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupListing:
    """One group of a list."""

    group: str
    state: str
    """"empty" (no members), "assigning", "reconciling" (some member is not at its target) or "stable"."""
    member_count: int
    group_epoch: int
    coordinator_id: int
    """The broker that said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedOffset:
    """How far a group is in one partition."""

    topic: str
    partition: int
    topic_id: bytes
    """Of the topic the offset was committed for; another one may have the name by now."""
    offset: int
    """The next one to read."""
    leader_epoch: int | None
    metadata: str
    commit_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """One member of a group."""

    member_id: str
    instance_id: str | None
    """Of a static member."""
    client_id: str
    client_host: str
    rack_id: str
    member_epoch: int
    state: str
    """"stable", "revoking" (has to give partitions up) or "waiting" (for partitions that others still have)."""
    topics: tuple[str, ...]
    topic_regex: str | None
    assignment: tuple[TopicPartition, ...]
    """What it may read, and what it has not given up yet; in order."""
    target: tuple[TopicPartition, ...]
    """What it is to have in the end; in order."""
    joined_ms: int
    silent_ms: int
    """How long ago its last heartbeat was."""
    is_connected: bool
    processing_since_ms: int | None
    """Since when its application has not come back for records; None: it comes back in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A group as its coordinator sees it."""

    group: str
    state: str
    """As in `GroupListing`."""
    group_epoch: int
    """Grows with every change of members, subscriptions or topics."""
    assignment_epoch: int
    """The group epoch that the target assignment was made for."""
    assignor: str
    coordinator_id: int
    members: tuple[MemberFacts, ...]
    offsets: tuple[CommittedOffset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEvent:
    """Something that happened in a group, and why."""

    sequence: int
    """Grows by one per group; goes on after the coordinator has changed."""
    time_ms: int
    kind: str
    """"joined", "left", "evicted", "replaced", "subscribed", "topics-changed", "rebalanced", "settled", "reset" or
    "expired"."""
    group_epoch: int
    reason: str
    member_id: str | None
    instance_id: str | None
    client_host: str | None
    partition_counts: Mapping[str, int]
    """Of a rebalance: how many partitions each member is to have."""
    moved: int
    """Of a rebalance: how many partitions change hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetChange:
    """What a reset does, or would do, to one partition."""

    topic: str
    partition: int
    before: int | None
    """None: nothing was committed."""
    after: int
    is_clamped: bool = False
    """The offset that was asked for lies outside of the log; `after` is the nearest one in it."""


Item = (
    groups_pb2.GroupDescription
    | groups_pb2.DeleteGroupResult
    | groups_pb2.OffsetCommitResult
    | groups_pb2.CommittedOffset
)
"""An item of an answer, which may carry an error of its own."""


def detail_error(result: Item) -> LogClusterError | None:
    """The error that an item of an answer carries, if any."""
    return error_from_detail(result.error) if result.HasField("error") and result.error.code else None


def group_listing(broker_id: int, listing: groups_pb2.GroupListing) -> GroupListing:
    """Read one group of a list off the wire."""
    return GroupListing(
        group=listing.group,
        state=listing.state,
        member_count=listing.member_count,
        group_epoch=listing.group_epoch,
        coordinator_id=broker_id,
    )


def group_facts(description: groups_pb2.GroupDescription) -> GroupFacts:
    """Read a group off the wire."""
    return GroupFacts(
        group=description.group,
        state=description.state,
        group_epoch=description.group_epoch,
        assignment_epoch=description.assignment_epoch,
        assignor=description.assignor,
        coordinator_id=description.coordinator_id,
        members=tuple(_member_facts(member) for member in description.members),
        offsets=committed_offsets(description.offsets),
    )


def _member_facts(member: groups_pb2.MemberDescription) -> MemberFacts:
    return MemberFacts(
        member_id=member.member_id,
        instance_id=member.instance_id or None,
        client_id=member.client_id,
        client_host=member.client_host,
        rack_id=member.rack_id,
        member_epoch=member.member_epoch,
        state=member.state,
        topics=tuple(member.subscription.topics),
        topic_regex=member.subscription.topic_regex or None,
        assignment=_partitions(member.assignment),
        target=_partitions(member.target),
        joined_ms=member.joined_ms,
        silent_ms=member.silent_ms,
        is_connected=member.is_connected,
        processing_since_ms=member.processing_since_ms or None,
    )


def _partitions(assignment: groups_pb2.Assignment) -> tuple[TopicPartition, ...]:
    return tuple(
        sorted(TopicPartition(topic.topic, partition) for topic in assignment.topics for partition in topic.partitions)
    )


def committed_offsets(offsets: Iterable[groups_pb2.CommittedOffset]) -> tuple[CommittedOffset, ...]:
    """Read committed offsets off the wire, by topic and partition; partitions without one are left out.

    Raises:
        LogClusterError: the first error of a partition.
    """
    found = []
    for item in offsets:
        error = detail_error(item)
        if error is not None:
            raise error
        if not item.HasField("offset"):
            continue
        found.append(
            CommittedOffset(
                topic=item.topic,
                partition=item.partition,
                topic_id=item.topic_id,
                offset=item.offset,
                leader_epoch=item.leader_epoch if item.HasField("leader_epoch") else None,
                metadata=item.metadata,
                commit_time_ms=item.commit_time_ms,
            )
        )
    return tuple(sorted(found, key=lambda offset: (offset.topic, offset.partition)))


def group_event(event: groups_pb2.GroupEvent) -> GroupEvent:
    """Read an event off the wire."""
    return GroupEvent(
        sequence=event.sequence,
        time_ms=event.time_ms,
        kind=event.kind,
        group_epoch=event.group_epoch,
        reason=event.reason,
        member_id=event.member_id or None,
        instance_id=event.instance_id or None,
        client_host=event.client_host or None,
        partition_counts=dict(event.partition_counts),
        moved=event.moved,
    )
