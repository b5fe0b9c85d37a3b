"""The one call of members: join, stay, leave, leave for a while. Here: who may say what, and staying.

Fencing keeps a member that missed something from acting on what it believes:

- not known: `UnknownMemberId`; it was evicted, left, or was replaced.
- an epoch that is not the member's, a member that left for a while, or `owned` with a partition that is not the
  member's: `FencedMemberEpoch`.
- the epoch before, with nothing in `owned` that is not the member's: its last answer was lost, and is given again.
  Nothing else happens then: a member that goes on losing answers is not led away from the epoch it knows, and an
  `owned` from before the answer frees no partition that the answer gave.

A request that is refused has changed nothing. Sessions change only when the records were appended.
"""

from __future__ import annotations

from dataclasses import replace

from logcluster.core.coordinators.groups.assignors.registry import check_assignor
from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.identity import check_member_id, rebalance_timeout_ms, session_timeout_ms
from logcluster.core.coordinators.groups.joining import join, revise_member
from logcluster.core.coordinators.groups.leading import in_touch, lead
from logcluster.core.coordinators.groups.leaving import leave, leave_for_a_while
from logcluster.core.coordinators.groups.records import CurrentValue, GroupStateRecord, MemberValue
from logcluster.core.coordinators.groups.requests import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_FOR_A_WHILE_EPOCH,
    Heartbeat,
    HeartbeatResult,
)
from logcluster.core.coordinators.groups.subscriptions import checked_subscription
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import FencedMemberEpoch, InvalidRequest, UnknownMemberId, UnreleasedInstanceId


def heartbeat(group: Group, request: Heartbeat, context: Context) -> Result[GroupStateRecord, HeartbeatResult]:
    """Do what the member epoch says: 0 joins, -1 leaves, -2 leaves for a while, any other stays.

    Raises:
        LogClusterError: as `join`, `leave`, `leave_for_a_while` and `stay` do.
        InvalidRequest: the member id or the epoch is impossible.
    """
    check_member_id(request.member_id)
    if request.member_epoch < LEAVE_FOR_A_WHILE_EPOCH:
        raise InvalidRequest(f"there is no member epoch {request.member_epoch}")
    match request.member_epoch:
        case _ if request.member_epoch == JOIN_EPOCH:
            return join(group, request, context)
        case _ if request.member_epoch == LEAVE_EPOCH:
            return leave(group, request, context)
        case _ if request.member_epoch == LEAVE_FOR_A_WHILE_EPOCH:
            return leave_for_a_while(group, request, context)
        case _:
            return stay(group, request, context)


def stay(group: Group, request: Heartbeat, context: Context) -> Result[GroupStateRecord, HeartbeatResult]:
    """Hear a member, and lead it one step towards its target.

    Raises:
        UnknownMemberId: it is none.
        FencedMemberEpoch: it must give up everything and join again.
        UnreleasedInstanceId: it names an instance id that another member has.
        InvalidRequest: an empty subscription, another instance id than before, impossible timeouts.
        InvalidRegularExpression: the subscription's expression cannot be used.
        UnsupportedAssignor: there is no such assignor.
    """
    current = group.currents.get(request.member_id)
    if current is None:
        raise UnknownMemberId(
            f"group {group.name!r} has no member {request.member_id}: it left, was evicted or was replaced",
            member_id=request.member_id,
        )
    is_repeat = _check_epoch(request, current)
    _check_instance(group, request)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    revise_member(draft, request.member_id, _revised(group.members[request.member_id], request, context), context)
    if not is_repeat:
        lead(draft, request.member_id, owned=request.owned, version=request.assignment_version)
    return in_touch(draft, request, context, is_repeat=is_repeat)


def _check_epoch(request: Heartbeat, current: CurrentValue) -> bool:
    """Whether the member knows its last answer (False) or lost it (True)."""
    epoch, known = request.member_epoch, current.member_epoch
    if current.is_away:
        raise FencedMemberEpoch(
            f"member {request.member_id} left for a while: it has to join again", member_epoch=known
        )
    if epoch > known:
        raise FencedMemberEpoch(
            f"member epoch {epoch} is above {known}, the last one that was given", member_epoch=known
        )
    if epoch < known and epoch != current.previous_member_epoch:
        raise FencedMemberEpoch(
            f"member epoch {epoch} is over: the last one that was given is {known}", member_epoch=known
        )
    if request.owned is not None:
        others = sum(1 for item in request.owned if item not in current.assigned and item not in current.revoking)
        if others:
            raise FencedMemberEpoch(
                f"member {request.member_id} says that it has {others} partitions that are not its",
                member_epoch=known,
            )
    return epoch < known


def _check_instance(group: Group, request: Heartbeat) -> None:
    known = group.members[request.member_id].instance_id
    if request.instance_id is None or request.instance_id == known:
        return
    other = group.instances.get(request.instance_id)
    if other is not None:
        raise UnreleasedInstanceId(
            f"member {other} has the instance id {request.instance_id!r}",
            instance_id=request.instance_id,
            member_id=other,
        )
    raise InvalidRequest(f"member {request.member_id} cannot change its instance id", instance_id=known)


def _revised(member: MemberValue, request: Heartbeat, context: Context) -> MemberValue:
    """The member with what the request says anew; what is absent, empty or 0 stays."""
    topics, topic_regex = member.topics, member.topic_regex
    if request.subscription is not None:
        subscription = checked_subscription(request.subscription, context.topics)
        topics, topic_regex = subscription.topics, subscription.topic_regex
    check_assignor(request.assignor)
    return replace(
        member,
        rack_id=request.rack_id or member.rack_id,
        client_id=request.client_id or member.client_id,
        client_host=request.client_host or member.client_host,
        topics=topics,
        topic_regex=topic_regex,
        assignor=request.assignor or member.assignor,
        session_timeout_ms=session_timeout_ms(request, context.settings, default_ms=member.session_timeout_ms),
        rebalance_timeout_ms=rebalance_timeout_ms(request, default_ms=member.rebalance_timeout_ms),
    )
