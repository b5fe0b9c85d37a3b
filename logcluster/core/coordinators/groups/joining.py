"""Joining: a new member, one whose answer was lost, and static members that come back.

A static member that comes back is a new member with the instance id of another one. If that one is away or its
connection is lost, the newcomer takes its place: the target is handed over as it is, and nobody else is moved. As long
as that one may live, the newcomer is refused.

A member that joins although it is known (the answer to its join was lost, or it was fenced) gets its assignment again.
Nothing of what it has is freed by that: the request may be one that was held up on its way.
"""

from __future__ import annotations

from dataclasses import replace

from logcluster.core.coordinators.groups.assignors.registry import check_assignor
from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.identity import (
    check_group_id,
    check_instance_id,
    rebalance_timeout_ms,
    session_timeout_ms,
)
from logcluster.core.coordinators.groups.leading import in_touch, lead
from logcluster.core.coordinators.groups.leaving import remove_member
from logcluster.core.coordinators.groups.rebalance import rebalance
from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    CurrentValue,
    GroupStateRecord,
    MemberRecord,
    MemberValue,
    TargetRecord,
)
from logcluster.core.coordinators.groups.requests import Heartbeat, HeartbeatResult
from logcluster.core.coordinators.groups.subscriptions import checked_subscription
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import GroupMaxSizeReached, InvalidRequest, UnreleasedInstanceId


def join(group: Group, request: Heartbeat, context: Context) -> Result[GroupStateRecord, HeartbeatResult]:
    """Take a member in, and give it what is free of its target.

    Raises:
        InvalidRequest: no subscription or an empty one, partitions that a newcomer cannot have, impossible timeouts.
        InvalidRegularExpression: the subscription's expression cannot be used.
        UnsupportedAssignor: there is no such assignor.
        UnreleasedInstanceId: another member has the instance id and may live.
        GroupMaxSizeReached: the group is full.
        InvalidGroupId: the group would be a new one and cannot be called so.
    """
    member = _member(request, context)
    known = group.members.get(request.member_id)
    if known is not None:
        return _join_again(group, request, context, known, replace(member, joined_ms=known.joined_ms))
    predecessor_id = _predecessor(group, request.instance_id)
    if predecessor_id is None and len(group.members) >= context.settings.members_max:
        raise GroupMaxSizeReached(
            f"group {group.name!r} has {len(group.members)} members, which is as many as it may have",
            members_max=context.settings.members_max,
        )
    if group.value is None:
        check_group_id(group.name)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    reason = f"member {request.member_id} joined"
    is_due = True
    if predecessor_id is not None:
        reason = f"member {request.member_id} took the place of {predecessor_id}"
        is_due = _reads_otherwise(group.members[predecessor_id], member)
        remove_member(draft, predecessor_id)
    draft.put(MemberRecord(group=group.name, member_id=request.member_id, value=member))
    if predecessor_id is not None:
        target = group.targets[predecessor_id]
        draft.put(TargetRecord(group=group.name, member_id=request.member_id, value=target))
    draft.put(CurrentRecord(group=group.name, member_id=request.member_id, value=_NOTHING))
    draft.event("joined" if predecessor_id is None else "replaced", reason, member_id=request.member_id)
    rebalance(draft, context.topics, reason=reason, is_due=is_due)
    lead(draft, request.member_id, owned=frozenset())
    return in_touch(draft, request, context, is_repeat=False)


_NOTHING = CurrentValue(
    member_epoch=0, previous_member_epoch=0, state="stable", assigned={}, revoking={}, topic_names={}
)


def _member(request: Heartbeat, context: Context) -> MemberValue:
    """Check what the request says of the member, and make a value of it."""
    if request.subscription is None:
        raise InvalidRequest("a member that joins says what it subscribes to")
    if request.owned:
        raise InvalidRequest(
            f"a member that joins has no partitions, this one says {len(request.owned)}",
            hint="give up all partitions before joining",
        )
    check_instance_id(request.instance_id)
    check_assignor(request.assignor)
    subscription = checked_subscription(request.subscription, context.topics)
    settings = context.settings
    return MemberValue(
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        client_id=request.client_id,
        client_host=request.client_host,
        topics=subscription.topics,
        topic_regex=subscription.topic_regex,
        assignor=request.assignor,
        session_timeout_ms=session_timeout_ms(request, settings, default_ms=settings.session_timeout_ms),
        rebalance_timeout_ms=rebalance_timeout_ms(request, default_ms=settings.rebalance_timeout_ms),
        joined_ms=context.wall_ms,
    )


def _predecessor(group: Group, instance_id: str | None) -> str | None:
    """The member whose place a newcomer takes; None: nobody has its instance id."""
    member_id = None if instance_id is None else group.instances.get(instance_id)
    if member_id is None:
        return None
    session = group.sessions.get(member_id)
    if group.currents[member_id].is_away or (session is not None and session.is_lost):
        return member_id
    raise UnreleasedInstanceId(
        f"member {member_id} has the instance id {instance_id!r}", instance_id=instance_id, member_id=member_id
    )


def _reads_otherwise(before: MemberValue, after: MemberValue) -> bool:
    return (before.topics, before.topic_regex, before.assignor) != (after.topics, after.topic_regex, after.assignor)


def _join_again(
    group: Group, request: Heartbeat, context: Context, known: MemberValue, member: MemberValue
) -> Result[GroupStateRecord, HeartbeatResult]:
    if known.instance_id != member.instance_id:
        raise InvalidRequest(f"member {request.member_id} cannot change its instance id", instance_id=known.instance_id)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    is_back = group.currents[request.member_id].is_away
    if is_back:
        current = replace(group.currents[request.member_id], is_away=False)
        draft.put(CurrentRecord(group=group.name, member_id=request.member_id, value=current))
        draft.event("joined", f"member {request.member_id} came back", member_id=request.member_id)
    revise_member(draft, request.member_id, member, context)
    if is_back:
        lead(draft, request.member_id, owned=None)
    return in_touch(draft, request, context, is_repeat=True)


def revise_member(draft: Draft, member_id: str, member: MemberValue, context: Context) -> None:
    """Record what a member says of itself now; a new group epoch begins if it wants to read something else."""
    before = draft.group.members[member_id]
    if before == member:
        return
    draft.put(MemberRecord(group=draft.group.name, member_id=member_id, value=member))
    if _reads_otherwise(before, member):
        reason = f"member {member_id} changed its subscription"
        draft.event("subscribed", reason, member_id=member_id)
        rebalance(draft, context.topics, reason=reason, is_due=True)
