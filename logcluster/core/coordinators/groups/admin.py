"""What people and tools ask of a group: describe it, list it, delete it. Its events are in `events`."""

from __future__ import annotations

from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.offsets import all_offsets
from logcluster.core.coordinators.groups.records import GroupStateRecord
from logcluster.core.coordinators.groups.requests import GroupDescription, GroupListing, MemberDescription
from logcluster.core.coordinators.groups.retention import removal
from logcluster.core.coordinators.groups.transcript import topic_names
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import GroupIdNotFound, NonEmptyGroup


def describe(group: Group, *, now_ms: int) -> Result[GroupStateRecord, GroupDescription]:
    """Show everything of a group but its events; members in the order of their ids.

    Raises:
        GroupIdNotFound: there is no such group.
    """
    value = group.value
    if value is None:
        raise GroupIdNotFound(f"there is no group {group.name!r}", group=group.name)
    return Result(
        response=GroupDescription(
            group=group.name,
            state=group.state,
            group_epoch=value.group_epoch,
            assignment_epoch=value.assignment_epoch,
            assignor=value.assignor,
            members=tuple(_describe_member(group, member_id, now_ms) for member_id in sorted(group.members)),
            offsets=all_offsets(group),
            topic_names=topic_names(group),
        )
    )


def _describe_member(group: Group, member_id: str, now_ms: int) -> MemberDescription:
    current, session = group.currents[member_id], group.sessions.get(member_id)
    return MemberDescription(
        member_id=member_id,
        value=group.members[member_id],
        member_epoch=current.member_epoch,
        state=current.state,
        # What it is giving up is still its own.
        assigned=frozenset((*current.assigned, *current.revoking)),
        target=group.targets[member_id].partitions,
        silent_ms=0 if session is None else max(0, now_ms - session.heard_ms),
        is_connected=session is not None and session.stream_count > 0,
        processing_since_ms=0 if session is None else session.processing_since_ms,
    )


def listing(group: Group) -> GroupListing | None:
    """The group in a list; None: it does not exist."""
    if group.value is None:
        return None
    return GroupListing(
        group=group.name, state=group.state, member_count=len(group.members), group_epoch=group.value.group_epoch
    )


def delete(group: Group) -> Result[GroupStateRecord, None]:
    """Forget a group, its offsets and its events.

    Raises:
        GroupIdNotFound: there is no such group.
        NonEmptyGroup: it has members; one that is away counts.
    """
    if group.value is None:
        raise GroupIdNotFound(f"there is no group {group.name!r}", group=group.name)
    if group.members:
        raise NonEmptyGroup(f"group {group.name!r} has {len(group.members)} members", member_count=len(group.members))
    return Result(records=removal(group), response=None)
