"""A member that is in touch: lead it one step towards its target, and say what it may have."""

from __future__ import annotations

from logcluster.core.coordinators.groups.context import Context
from logcluster.core.coordinators.groups.draft import Draft
from logcluster.core.coordinators.groups.reconcile import reconcile
from logcluster.core.coordinators.groups.records import CurrentRecord, GroupStateRecord, MemberValue
from logcluster.core.coordinators.groups.requests import GroupSettings, Heartbeat, HeartbeatResult
from logcluster.core.coordinators.machine import Result
from logcluster.model.ids import TopicIdPartition

HEARTBEATS_PER_SESSION = 3
"""At least so many fit into a session, however short it is."""


def lead(
    draft: Draft, member_id: str, *, owned: frozenset[TopicIdPartition] | None, version: int | None = None
) -> None:
    """Reconcile the member with its target; see `reconcile`.

    Args:
        version: of its assignment that the member has heard of; `owned` from before the newest one says nothing. None:
            the member does not say, and is taken at its word.
    """
    current = draft.group.currents[member_id]
    if version is not None and version != current.version:
        owned = None
    holders = draft.group.holders
    value = reconcile(
        current,
        draft.group.targets[member_id],
        target_epoch=draft.value.assignment_epoch,
        owned=owned,
        is_free=lambda partition: holders.get(partition, member_id) == member_id,
    )
    if value is not current:
        draft.put(CurrentRecord(group=draft.group.name, member_id=member_id, value=value))


def heartbeat_interval_ms(member: MemberValue, settings: GroupSettings) -> int:
    """How often the member is to send heartbeats: as configured, or oftener when its session is short."""
    return max(1, min(settings.heartbeat_interval_ms, member.session_timeout_ms // HEARTBEATS_PER_SESSION))


def in_touch(
    draft: Draft, request: Heartbeat, context: Context, *, is_repeat: bool
) -> Result[GroupStateRecord, HeartbeatResult]:
    """Finish a decision about the member that is asking: answer it, and have its session go on once it is appended.

    The assignment is in the answer when it has changed, when the member says that it has something else, and while
    the member has something to give up: its answer may have been lost.

    Args:
        is_repeat: an answer was lost and is given again, with the assignment. The member was not led on, so it is
            woken if there is more for it to do.
    """
    records = draft.finish()
    group = draft.group
    member_id = request.member_id
    member, current, before = group.members[member_id], group.currents[member_id], draft.before.currents.get(member_id)
    has_assignment = (
        is_repeat
        or before is None
        or request.assignment_version not in (None, before.version)
        or before.assigned != current.assigned
        or bool(current.revoking)
        or (request.owned is not None and request.owned != current.assigned.keys())
    )
    must_give_up = current.revoking.keys() - (before.revoking.keys() if before is not None else set())

    def on_appended() -> None:
        sessions = draft.before.sessions
        sessions.heard(
            member_id,
            now_ms=context.now_ms,
            timeout_ms=member.session_timeout_ms,
            processing_since_ms=request.processing_since_ms,
        )
        if must_give_up:
            sessions.revoke_until(member_id, context.now_ms + member.rebalance_timeout_ms)
        elif not current.revoking:
            sessions.revoke_until(member_id, None)

    wake = draft.to_wake(besides=member_id)
    if is_repeat and member_id in group.unsettled:
        wake = (*wake, member_id)
    response = HeartbeatResult(
        member_epoch=current.member_epoch,
        heartbeat_interval_ms=heartbeat_interval_ms(member, context.settings),
        session_timeout_ms=member.session_timeout_ms,
        group_epoch=group.epoch,
        is_settled=member_id not in group.unsettled,
        assignment_version=current.version,
        assignment=frozenset(current.assigned) if has_assignment else None,
        topic_names=current.topic_names if has_assignment else {},
    )
    return Result(records=records, response=response, wake=wake, on_appended=on_appended)
