"""How one member is led to its target by itself; there is no barrier. The table is in docs/protocol/groups.md.

    keep   = assigned that the target has
    revoke = assigned that the target has not, and what it was told to give up and still has
    add    = target that it does not keep and nobody else holds

A partition leaves its holder in two steps. First the member is told: the partition goes from assigned to revoking.
Then a heartbeat whose `owned` is without it frees it. An `owned` without a partition that the member was not told to
give up frees nothing: it may be a heartbeat from before the partition was given, held up on its way, and its sender
may read the partition by now. For the same reason `owned` counts only when its sender has heard of the newest version
of what it has (`leading.lead`): between two answers with the same member epoch a partition may come and be called back.

Source: KIP-848, Kafka's CurrentAssignmentBuilder; there a member must have given up everything before anything is
free, here each partition is free as soon as it is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logcluster.core.coordinators.groups.records import CurrentValue, MemberState, TargetValue
from logcluster.model.ids import TopicId, TopicIdPartition


def reconcile(
    current: CurrentValue,
    target: TargetValue,
    *,
    target_epoch: int,
    owned: frozenset[TopicIdPartition] | None,
    is_free: Callable[[TopicIdPartition], bool],
) -> CurrentValue:
    """Decide what a member that is in touch has from now on; `current` itself when nothing changes.

    Args:
        owned: what the member says it has; None: it does not say, so nothing that it was told to give up is free.
        is_free: whether nobody else holds a partition.
    """
    if current.state == "stable" and current.member_epoch == target_epoch:
        return current
    keep = {partition: epoch for partition, epoch in current.assigned.items() if partition in target.partitions}
    revoking = {
        partition: epoch for partition, epoch in current.revoking.items() if owned is None or partition in owned
    }
    revoking.update(
        (partition, epoch) for partition, epoch in current.assigned.items() if partition not in target.partitions
    )
    if revoking:
        return _revised(current, target, "revoking", current.member_epoch, keep, revoking)
    missing = sorted(target.partitions - keep.keys())
    add = [partition for partition in missing if is_free(partition)]
    state: MemberState = "stable" if len(add) == len(missing) else "waiting"
    return _revised(current, target, state, target_epoch, keep | dict.fromkeys(add, target_epoch), {})


def stand_in(current: CurrentValue, target: TargetValue) -> CurrentValue:
    """Act for a member that is away: it reads nothing, so what the target does not keep for it is free at once."""
    keep = {partition: epoch for partition, epoch in current.assigned.items() if partition in target.partitions}
    state: MemberState = "stable" if len(keep) == len(target.partitions) else "waiting"
    return _revised(current, target, state, current.member_epoch, keep, {})


def _revised(
    current: CurrentValue,
    target: TargetValue,
    state: MemberState,
    member_epoch: int,
    assigned: Mapping[TopicIdPartition, int],
    revoking: Mapping[TopicIdPartition, int],
) -> CurrentValue:
    if (current.state, current.member_epoch, current.assigned, current.revoking) == (
        state,
        member_epoch,
        assigned,
        revoking,
    ):
        return current
    topic_ids = sorted({partition.topic_id for partition in (*assigned, *revoking)})
    names: Mapping[TopicId, str] = {**current.topic_names, **target.topic_names}
    return CurrentValue(
        member_epoch=member_epoch,
        previous_member_epoch=current.member_epoch,
        state=state,
        assigned=dict(sorted(assigned.items())),
        revoking=dict(sorted(revoking.items())),
        topic_names={topic_id: names[topic_id] for topic_id in topic_ids},
        is_away=current.is_away,
        version=current.version + 1,
    )
