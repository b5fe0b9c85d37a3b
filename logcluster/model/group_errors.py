"""Errors of coordinators and consumer groups; part of the tree in `errors`, where everybody imports them from."""

from __future__ import annotations

from logcluster.model.error_families import (
    FencedError,
    OverloadedError,
    RequestError,
    StaleEpochError,
    UnavailableError,
)


class InvalidGroupId(RequestError):
    """The group name is not allowed."""

    code = 24
    retriable = False
    definite = True
    default_hint = "use 1 to 255 bytes of printable characters"


class GroupIdNotFound(RequestError):
    """No group of this name has members or committed offsets."""

    code = 69
    retriable = False
    definite = True
    default_hint = "see `logcluster group ls`"


class NonEmptyGroup(RequestError):
    """The group has members, and what was asked for needs one without."""

    code = 68
    retriable = False
    definite = True
    default_hint = "stop its members first; `logcluster group describe NAME` names them"


class GroupSubscribedToTopic(RequestError):
    """Members of the group read the topic."""

    code = 86
    retriable = False
    definite = True
    default_hint = "stop its members first"


class UnsupportedAssignor(RequestError):
    """There is no assignor of this name."""

    code = 112
    retriable = False
    definite = True
    default_hint = "use uniform or range"


class InvalidRegularExpression(RequestError):
    """The regular expression of a subscription cannot be used."""

    code = 128
    retriable = False
    definite = True
    default_hint = "RE2 syntax: no look-around and no back references; see docs/protocol/groups.md"


class OffsetMetadataTooLarge(RequestError):
    """The text committed with an offset is too long."""

    code = 12
    retriable = False
    definite = True
    default_hint = "keep it below `groups.offset_metadata_bytes_max`"


class PartitionNotAssigned(RequestError):
    """A member committed an offset of a partition that it does not have."""

    code = 1007
    retriable = False
    definite = True
    default_hint = "commit only partitions of the consumer's assignment; after a rebalance they may be another member's"


class NotCoordinator(StaleEpochError):
    """The broker asked does not coordinate the group (any more)."""

    code = 16
    retriable = True
    definite = True
    refresh_metadata = True


class UnknownMemberId(FencedError):
    """The group has no such member: it was evicted, or left."""

    code = 25
    retriable = False
    definite = True
    default_hint = "join again with member epoch 0"


class FencedMemberEpoch(FencedError):
    """The member epoch is not the one the coordinator knows; the member must drop its partitions and join again."""

    code = 110
    retriable = False
    definite = True
    default_hint = "give up all partitions and join again with member epoch 0"


class StaleMemberEpoch(FencedError):
    """The member epoch of a commit is older than the assignment of the partition."""

    code = 113
    retriable = False
    definite = True
    default_hint = "send a heartbeat first, and commit with the epoch it returns"


class UnreleasedInstanceId(FencedError):
    """Another live member has this instance id."""

    code = 111
    retriable = False
    definite = True
    default_hint = "give each instance its own id, or wait until the other one's session is over"


class CoordinatorNotAvailable(UnavailableError):
    """No broker coordinates the group at the moment."""

    code = 15
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "wait; `logcluster partition ls` shows whether `__consumer_offsets` is online"


class CoordinatorLoadInProgress(UnavailableError):
    """The coordinator has just taken over and does not know yet what was committed last."""

    code = 14
    retriable = True
    definite = True


class GroupMaxSizeReached(OverloadedError):
    """The group has as many members as it may have."""

    code = 81
    retriable = False
    definite = True
    default_hint = "raise `groups.members_max`, or use fewer consumers"
