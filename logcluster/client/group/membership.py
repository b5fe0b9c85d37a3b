"""What a member of a group knows of its membership, and what it says next. Pure: no time, no calls.

    joining --answered--> member --UnknownMemberId, FencedMemberEpoch--> joining (everything is lost)

The coordinator's answer says what the member may have; what it has (`owned`) changes only when the consumer has given
partitions up, or taken them on. Until it has, heartbeats go on and say nothing new, so that a slow application loses
nothing. An answer to what an earlier life of the member said is ignored.
Source: KIP-848, docs/protocol/groups.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from logcluster.model.errors import FencedMemberEpoch, LogClusterError, UnknownMemberId
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_FOR_A_WHILE_EPOCH: Final = -2


class AssignedPartition(NamedTuple):
    """A partition of one topic, and not of another one that may have its name."""

    topic: str
    topic_id: bytes
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOptions:
    """How a member takes part; see `Client.consumer`. Times in milliseconds, 0 is the coordinator's default."""

    group: str
    topics: tuple[str, ...]
    pattern: str | None = None
    instance_id: str | None = None
    assignor: str = ""
    session_timeout_ms: int = 0
    rebalance_timeout_ms: int = 0
    client_id: str = ""
    rack_id: str = ""


class Membership:
    """One member's state.

    Args:
        new_id: gives a member id that nobody else has.

    Attributes:
        member_epoch: 0 while it is no member.
        may_have: what the coordinator assigned last.
        owned: what the consumer reads, is about to read, or has not given up yet.
    """

    def __init__(self, options: MemberOptions, new_id: Callable[[], str]) -> None:
        self.options = options
        self.member_id = new_id()
        self.member_epoch = JOIN_EPOCH
        self.may_have: frozenset[AssignedPartition] = frozenset()
        self.owned: frozenset[AssignedPartition] = frozenset()
        self.is_settled = False
        self.heartbeat_interval_ms = 1_000
        self._new_id = new_id
        self._said: frozenset[AssignedPartition] | None = None
        self._assignment_version = 0

    @property
    def is_member(self) -> bool:
        """Has the coordinator answered, and not taken it back?"""
        return self.member_epoch > JOIN_EPOCH

    @property
    def has_news(self) -> bool:
        """Does the member have something to say that need not wait for the next heartbeat's time?"""
        return not self.is_member or self._said != self.owned

    # -- what to say ---------------------------------------------------------------------------------------------

    def next_heartbeat(self, *, processing_since_ms: int = 0) -> pb.HeartbeatRequest:
        """The heartbeat to send now; its answer goes to `answered`, its failure to `refused` or `unanswered`."""
        options = self.options
        request = pb.HeartbeatRequest(
            group=options.group,
            member_id=self.member_id,
            member_epoch=self.member_epoch,
            instance_id=options.instance_id or "",
            rack_id=options.rack_id,
            client_id=options.client_id,
            processing_since_ms=processing_since_ms,
        )
        if not self.is_member:
            request.subscription.topics.extend(options.topics)
            request.subscription.topic_regex = options.pattern or ""
            request.owned.SetInParent()
            request.assignor = options.assignor
            request.session_timeout_ms = options.session_timeout_ms
            request.rebalance_timeout_ms = options.rebalance_timeout_ms
            return request
        request.assignment_version = self._assignment_version
        if self._said != self.owned:
            request.owned.CopyFrom(to_assignment(self.owned))
        return request

    def leaving(self) -> pb.HeartbeatRequest:
        """The last heartbeat; a static member keeps its partitions for its session."""
        epoch = LEAVE_EPOCH if self.options.instance_id is None else LEAVE_FOR_A_WHILE_EPOCH
        return pb.HeartbeatRequest(
            group=self.options.group,
            member_id=self.member_id,
            member_epoch=epoch,
            instance_id=self.options.instance_id or "",
        )

    # -- what is heard -------------------------------------------------------------------------------------------

    def answered(self, request: pb.HeartbeatRequest, response: pb.HeartbeatResponse) -> bool:
        """The coordinator has answered; returns whether what the member may have is another set than before.

        An answer to what an earlier life of this member said is ignored.
        """
        if request.member_id != self.member_id or request.member_epoch != self.member_epoch:
            return False
        self.member_epoch = response.member_epoch
        self.heartbeat_interval_ms = max(1, response.heartbeat_interval_ms)
        self.is_settled = response.is_settled
        self._assignment_version = response.assignment_version
        if request.HasField("owned"):
            self._said = from_assignment(request.owned)
        if not response.HasField("assignment"):
            return False
        may_have = from_assignment(response.assignment)
        has_changed = may_have != self.may_have
        self.may_have = may_have
        return has_changed

    def refused(self, request: pb.HeartbeatRequest, error: LogClusterError) -> frozenset[AssignedPartition] | None:
        """The coordinator has refused; returns what is lost by that, None when the membership goes on."""
        if request.member_id != self.member_id or not isinstance(error, UnknownMemberId | FencedMemberEpoch):
            return None
        return self.lose(is_forgotten=isinstance(error, UnknownMemberId))

    def lose(self, *, is_forgotten: bool) -> frozenset[AssignedPartition]:
        """The membership is over: everything is lost, and the member has to join again.

        Args:
            is_forgotten: the coordinator does not know the member, which joins as another one.
        """
        lost = self.owned
        if is_forgotten:
            self.member_id = self._new_id()
        self.member_epoch = JOIN_EPOCH
        self.may_have = self.owned = frozenset()
        self._said = None
        self.is_settled = False
        return lost

    # -- what the consumer has done --------------------------------------------------------------------------------

    @property
    def to_give_up(self) -> list[AssignedPartition]:
        """What the consumer reads and may not any more, in order."""
        return sorted(self.owned - self.may_have)

    @property
    def to_take_on(self) -> list[AssignedPartition]:
        """What the consumer may read and does not yet, in order."""
        return sorted(self.may_have - self.owned)

    def gave_up(self, partitions: Iterable[AssignedPartition]) -> None:
        """The consumer reads these no more, and has committed what it did."""
        self.owned -= frozenset(partitions)

    def took_on(self, partitions: Iterable[AssignedPartition]) -> None:
        """The consumer reads these from now on, or as soon as it knows where to begin."""
        self.owned |= frozenset(partitions)


def to_assignment(partitions: Iterable[AssignedPartition]) -> pb.Assignment:
    """Write partitions by topic, in order."""
    topics: dict[bytes, pb.TopicPartitions] = {}
    for item in sorted(partitions):
        if item.topic_id not in topics:
            topics[item.topic_id] = pb.TopicPartitions(topic=item.topic, topic_id=item.topic_id)
        topics[item.topic_id].partitions.append(item.partition)
    return pb.Assignment(topics=list(topics.values()))


def from_assignment(message: pb.Assignment) -> frozenset[AssignedPartition]:
    """Read partitions."""
    return frozenset(
        AssignedPartition(topic.topic, topic.topic_id, partition)
        for topic in message.topics
        for partition in topic.partitions
    )
