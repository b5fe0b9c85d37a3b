"""What a group's state is made of: values without behaviour, one per key. `value=None` removes the key.

Partitions are named by topic id, so that a topic that is created again under its name is another one; names travel
along for people, and for answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from logcluster.model.ids import TopicId, TopicIdPartition

MemberState = Literal["stable", "revoking", "waiting"]
"""stable: has its target. revoking: must give partitions up. waiting: others have not given up its new ones yet."""
EventKind = Literal[
    "joined",
    "left",
    "evicted",
    "replaced",
    "subscribed",
    "topics-changed",
    "rebalanced",
    "settled",
    "reset",
    "expired",
]
MEMBER_STATES: Final[tuple[MemberState, ...]] = ("stable", "revoking", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSize:
    """A topic as an assignment was made for it."""

    topic: str
    topic_id: TopicId
    partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValue:
    """The group as a whole.

    Args:
        group_epoch: grows whenever members, subscriptions or topics change.
        assignor: of the group; members may ask for another one.
        assignment_epoch: the group epoch for which the target assignment was made.
        empty_since_ms: wall clock; None while there are members.
        topics: what the target assignment was made for, by topic id.
    """

    group_epoch: int = 0
    type: str = "consumer"
    assignor: str = "uniform"
    assignment_epoch: int = 0
    empty_since_ms: int | None = None
    next_event_sequence: int = 1
    topics: Mapping[TopicId, TopicSize] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberValue:
    """What a member said when it joined, or changed its mind. Times in milliseconds."""

    instance_id: str | None
    rack_id: str
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    topic_regex: str | None
    assignor: str
    """Empty: the group's."""
    session_timeout_ms: int
    rebalance_timeout_ms: int
    joined_ms: int
    """Wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetValue:
    """What a member is to have in the end; topic names by id."""

    partitions: frozenset[TopicIdPartition]
    topic_names: Mapping[TopicId, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentValue:
    """What a member has, as far as it and the coordinator agree.

    Args:
        member_epoch: of the last answer to the member.
        previous_member_epoch: the one before; a member whose answer was lost still has it.
        assigned: partitions it may read, each with the member epoch in which it was given.
        revoking: partitions it was told to give up and has not; still its own.
        is_away: a static member that left and said it would be back.
        version: grows with every change, so that a heartbeat can say which one its sender has heard of.
    """

    member_epoch: int
    previous_member_epoch: int
    state: MemberState
    assigned: Mapping[TopicIdPartition, int]
    revoking: Mapping[TopicIdPartition, int]
    topic_names: Mapping[TopicId, str]
    is_away: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetValue:
    """A committed offset: the next one to read. `commit_time_ms` is of the wall clock."""

    offset: int
    leader_epoch: int | None
    metadata: str
    commit_time_ms: int
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventValue:
    """Something that happened, for people; see GroupEvent in groups.proto."""

    time_ms: int
    kind: EventKind
    group_epoch: int
    reason: str
    member_id: str = ""
    instance_id: str = ""
    client_host: str = ""
    partition_counts: Mapping[str, int] = field(default_factory=dict)
    moved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    group: str
    value: GroupValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    group: str
    member_id: str
    value: MemberValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRecord:
    group: str
    member_id: str
    value: TargetValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentRecord:
    group: str
    member_id: str
    value: CurrentValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRecord:
    group: str
    partition: TopicIdPartition
    value: OffsetValue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    group: str
    sequence: int
    value: EventValue | None


GroupStateRecord = GroupRecord | MemberRecord | TargetRecord | CurrentRecord | OffsetRecord | EventRecord
