"""What a group coordinator can be asked, and what it answers; values without behaviour.

An error of one partition travels in that partition's result; an error of the whole request is raised by its handler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from logcluster.core.coordinators.groups.records import EventValue, MemberState, MemberValue, OffsetValue
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicId, TopicIdPartition

JOIN_EPOCH: Final = 0
LEAVE_EPOCH: Final = -1
LEAVE_FOR_A_WHILE_EPOCH: Final = -2
NO_MEMBER_EPOCH: Final = -1
"""Of a commit by somebody who is no member."""

GroupState = Literal["empty", "assigning", "reconciling", "stable"]


class Topics(Protocol):
    """What a group coordinator knows of the cluster's topics, at one time."""

    def size(self, name: str) -> tuple[TopicId, int] | None:
        """Topic id and number of partitions; None: there is no such topic."""
        ...

    def name(self, topic_id: TopicId) -> str | None:
        """The topic's name; None: there is no such topic (any more)."""
        ...

    def matching(self, regex: str) -> Sequence[str]:
        """Names that the expression matches whole, sorted; internal topics never match.

        Raises:
            InvalidRegularExpression: it cannot be used; says why.
        """
        ...

    def partition_racks(self, topic_id: TopicId, partition: int) -> frozenset[str]:
        """Racks in which the partition has a replica; empty when unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a member wants to read: topics by name, those that an expression matches, or both."""

    topics: tuple[str, ...] = ()
    topic_regex: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """See HeartbeatRequest in groups.proto; absent is None, 0 is "the default" for both timeouts."""

    group: str
    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str = ""
    client_id: str = ""
    client_host: str = ""
    subscription: Subscription | None = None
    owned: frozenset[TopicIdPartition] | None = None
    assignor: str = ""
    session_timeout_ms: int = 0
    rebalance_timeout_ms: int = 0
    processing_since_ms: int = 0
    assignment_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatResult:
    """See HeartbeatResponse; `assignment` None is "unchanged"."""

    member_epoch: int
    heartbeat_interval_ms: int
    session_timeout_ms: int
    group_epoch: int
    is_settled: bool
    assignment_version: int = 0
    assignment: frozenset[TopicIdPartition] | None = None
    topic_names: Mapping[TopicId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitItem:
    """One offset to commit; `end_offset` is where its log is known to end, None when that was not to be found out."""

    topic: str
    topic_id: TopicId | None
    partition: int
    offset: int
    leader_epoch: int | None = None
    metadata: str = ""
    end_offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOffsets:
    """`member_id` None: a tool, or a consumer outside of the group."""

    group: str
    member_id: str | None
    member_epoch: int
    items: tuple[CommitItem, ...]
    allow_out_of_range: bool = False
    reason: str = ""
    """For the event log, when this is a reset by an operator; empty for an ordinary commit."""
    sequence: int = 0
    """Of a member's commit: the same for a repetition, more for every later one; 0 is not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    """What became of the items, in their order: None is committed."""

    errors: tuple[LogClusterError | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOffsets:
    """`partitions` None: all. `member_id` None: nobody is checked."""

    group: str
    partitions: tuple[tuple[str, TopicId | None, int], ...] | None
    member_id: str | None = None
    member_epoch: int = NO_MEMBER_EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedOffset:
    """One partition's committed offset, if there is one."""

    topic: str
    topic_id: TopicId | None
    partition: int
    value: OffsetValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOffsets:
    """Forget offsets; an error of each partition that a member reads."""

    group: str
    partitions: tuple[tuple[str, TopicId | None, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberDescription:
    """A member as it is shown."""

    member_id: str
    value: MemberValue
    member_epoch: int
    state: MemberState
    assigned: frozenset[TopicIdPartition]
    target: frozenset[TopicIdPartition]
    silent_ms: int
    is_connected: bool
    processing_since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDescription:
    """A group as it is shown."""

    group: str
    state: GroupState
    group_epoch: int
    assignment_epoch: int
    assignor: str
    members: tuple[MemberDescription, ...]
    offsets: tuple[FetchedOffset, ...]
    topic_names: Mapping[TopicId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupListing:
    """A group in a list."""

    group: str
    state: GroupState
    member_count: int
    group_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEvents:
    """Events with their sequence numbers, oldest first."""

    events: tuple[tuple[int, EventValue], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How groups are run; times in milliseconds."""

    session_timeout_ms: int = 10_000
    session_timeout_ms_min: int = 1_000
    session_timeout_ms_max: int = 300_000
    heartbeat_interval_ms: int = 2_000
    rebalance_timeout_ms: int = 60_000
    disconnect_grace_ms: int = 500
    """A member whose connection was lost, and that says nothing for so long, is evicted; static members are not."""
    members_max: int = 1_000
    offset_metadata_bytes_max: int = 4_096
    offsets_retention_ms: int = 7 * 24 * 60 * 60 * 1000
    """Of offsets in a group without members."""
    events_max: int = 200
