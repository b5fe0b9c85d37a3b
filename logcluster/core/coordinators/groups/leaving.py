"""The end of a membership: a member leaves, leaves for a while, or is evicted because its time is over.

What it had is free at once: it gave it up, or counts as gone, and can commit nothing more. A static member that leaves
for a while keeps what it is to have, up to its session timeout; what it was giving up is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.rebalance import rebalance
from logcluster.core.coordinators.groups.reconcile import stand_in
from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    GroupStateRecord,
    MemberRecord,
    TargetRecord,
)
from logcluster.core.coordinators.groups.requests import (
    LEAVE_EPOCH,
    LEAVE_FOR_A_WHILE_EPOCH,
    Heartbeat,
    HeartbeatResult,
)
from logcluster.core.coordinators.groups.sessions import Lapse
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import InvalidRequest, UnknownMemberId


def remove_member(draft: Draft, member_id: str) -> None:
    """Remove everything of a member; its session ends when the records are replayed."""
    name = draft.group.name
    draft.put(CurrentRecord(group=name, member_id=member_id, value=None))
    draft.put(TargetRecord(group=name, member_id=member_id, value=None))
    draft.put(MemberRecord(group=name, member_id=member_id, value=None))


def leave(group: Group, request: Heartbeat, context: Context) -> Result[GroupStateRecord, HeartbeatResult]:
    """Let a member go.

    Raises:
        UnknownMemberId: it is none, perhaps because it left already.
    """
    _check_known(group, request.member_id)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    reason = f"member {request.member_id} left"
    draft.event("left", reason, member_id=request.member_id)
    remove_member(draft, request.member_id)
    rebalance(draft, context.topics, reason=reason, is_due=True)
    return Result(records=draft.finish(), response=_farewell(draft.group, LEAVE_EPOCH), wake=draft.to_wake())


def leave_for_a_while(group: Group, request: Heartbeat, context: Context) -> Result[GroupStateRecord, HeartbeatResult]:
    """Let a static member go, and keep its place for a session timeout from now.

    Raises:
        UnknownMemberId: it is no member.
        InvalidRequest: it has no instance id by which it could come back.
    """
    _check_known(group, request.member_id)
    member = group.members[request.member_id]
    if member.instance_id is None:
        raise InvalidRequest(
            f"member {request.member_id} has no instance id, and so no place to come back to",
            hint="leave with member epoch -1",
        )
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    current = group.currents[request.member_id]
    if not current.is_away:
        kept = replace(stand_in(current, group.targets[request.member_id]), is_away=True)
        draft.put(CurrentRecord(group=group.name, member_id=request.member_id, value=kept))
        reason = f"member {request.member_id} left and may come back within {member.session_timeout_ms} ms"
        draft.event("left", reason, member_id=request.member_id)

    def on_appended() -> None:
        if not current.is_away:
            group.sessions.heard(request.member_id, now_ms=context.now_ms, timeout_ms=member.session_timeout_ms)
            group.sessions.revoke_until(request.member_id, None)

    return Result(
        records=draft.finish(),
        response=_farewell(draft.group, LEAVE_FOR_A_WHILE_EPOCH),
        wake=draft.to_wake(besides=request.member_id),
        on_appended=on_appended,
    )


def _check_known(group: Group, member_id: str) -> None:
    if member_id not in group.members:
        raise UnknownMemberId(f"group {group.name!r} has no member {member_id}", member_id=member_id)


def _farewell(group: Group, member_epoch: int) -> HeartbeatResult:
    return HeartbeatResult(
        member_epoch=member_epoch,
        heartbeat_interval_ms=0,
        session_timeout_ms=0,
        group_epoch=group.epoch,
        is_settled=False,
    )


def _topics_seen(group: Group) -> Callable[[], None]:
    def on_appended() -> None:
        group.must_look_at_topics = False

    return on_appended


def _why(group: Group, member_id: str, lapse: Lapse, context: Context) -> str:
    member = group.members[member_id]
    match lapse:
        case "silent" if group.currents[member_id].is_away:
            return f"member {member_id} left and did not come back within {member.session_timeout_ms} ms"
        case "silent":
            return f"member {member_id} said nothing for {member.session_timeout_ms} ms, its session timeout"
        case "disconnected":
            grace_ms = context.settings.disconnect_grace_ms
            return f"member {member_id} lost its connection and said nothing for {grace_ms} ms"
        case "revoking":
            count = len(group.currents[member_id].revoking)
            return (
                f"member {member_id} did not give up {count} partitions within {member.rebalance_timeout_ms} ms, "
                "its rebalance timeout"
            )


def expire(group: Group, context: Context) -> Result[GroupStateRecord, None]:
    """Evict all members whose time is over, and after a load look at topics once."""
    due = group.sessions.due(context.now_ms)
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    reasons: list[str] = []
    for member_id, lapse in due:
        reason = _why(group, member_id, lapse, context)
        reasons.append(reason)
        draft.event("evicted", reason, member_id=member_id)
        remove_member(draft, member_id)
    reason = reasons[0] if len(reasons) == 1 else f"{len(reasons)} members were evicted"
    if due or group.must_look_at_topics:
        rebalance(draft, context.topics, reason=reason, is_due=bool(due))
    return Result(records=draft.finish(), response=None, wake=draft.to_wake(), on_appended=_topics_seen(group))


def look_at_topics(group: Group, context: Context) -> Result[GroupStateRecord, None]:
    """Make a new target if topics that the group reads were created, deleted, or have more partitions."""
    draft = Draft(group, wall_ms=context.wall_ms, events_max=context.settings.events_max)
    rebalance(draft, context.topics, reason="", is_due=False)
    return Result(records=draft.finish(), response=None, wake=draft.to_wake(), on_appended=_topics_seen(group))
