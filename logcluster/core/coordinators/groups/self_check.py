"""What must hold in a group at any time, between records of one decision apart.

First of all: a partition has at most one holder, over what is assigned and what is being given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logcluster.core.coordinators.groups.records import CurrentValue, GroupValue, TargetValue
from logcluster.model.ids import TopicIdPartition
from logcluster.model.invariants import InvariantViolation, invariant

if TYPE_CHECKING:
    from logcluster.core.coordinators.groups.group import Group


def is_at_target(current: CurrentValue | None, target: TargetValue | None) -> bool:
    """Whether a member has all it is to have, and no more; one that is away is not waited for."""
    if current is None or target is None:
        return False
    return current.is_away or (current.state == "stable" and current.assigned.keys() == target.partitions)


def check_group(group: Group) -> None:
    """Check a group.

    Raises:
        InvariantViolation: something does not hold.
    """
    value = group.value
    if value is None:
        invariant(group.key_count == 0, "a group that does not exist has no records", group=group.name)
        return
    invariant(
        0 <= value.assignment_epoch <= value.group_epoch,
        "a target is made for an epoch that has come",
        group=group.name,
        assignment_epoch=value.assignment_epoch,
        group_epoch=value.group_epoch,
    )
    invariant(
        (value.empty_since_ms is None) == bool(group.members),
        "a group knows since when it is empty just while it is",
        group=group.name,
        empty_since_ms=value.empty_since_ms,
    )
    for what, keys in (("target", group.targets.keys()), ("current assignment", group.currents.keys())):
        invariant(keys == group.members.keys(), f"every member has a {what}, and nobody else", group=group.name)
    for member_id in sorted(group.members):
        _check_member(group, value, member_id)
    _check_holders(group)
    _check_targets(group)
    _check_members(group)
    _check_events(group, value)


def _check_member(group: Group, value: GroupValue, member_id: str) -> None:
    current, target = group.currents[member_id], group.targets[member_id]
    facts = {"group": group.name, "member_id": member_id, "current": current}
    invariant(
        0 <= current.previous_member_epoch <= current.member_epoch <= value.assignment_epoch,
        "member epochs grow up to the target's",
        **facts,
    )
    epochs = (*current.assigned.values(), *current.revoking.values())
    invariant(
        all(0 < epoch <= current.member_epoch for epoch in epochs),
        "a partition was given in an epoch of its holder",
        **facts,
    )
    invariant(not current.assigned.keys() & current.revoking.keys(), "what is given up is not assigned", **facts)
    invariant((current.state == "revoking") == bool(current.revoking), "who revokes has something to revoke", **facts)
    invariant(not (current.is_away and current.revoking), "who is away has let go", **facts)
    if current.state != "revoking" and current.member_epoch == value.assignment_epoch:
        have, want = current.assigned.keys(), target.partitions
        invariant(have <= want, "who is led to the target has nothing beside it", target=want, **facts)
        invariant((current.state == "stable") == (have == want), "who is stable has its target", target=want, **facts)


def _check_holders(group: Group) -> None:
    holders: dict[TopicIdPartition, str] = {}
    for member_id in sorted(group.currents):
        current = group.currents[member_id]
        for partition in (*current.assigned, *current.revoking):
            other = holders.setdefault(partition, member_id)
            if other != member_id:
                raise InvariantViolation(
                    "a partition has one holder", group=group.name, partition=partition, holders=(other, member_id)
                )
    invariant(holders == group.holders, "the index of holders is right", group=group.name)


def _check_targets(group: Group) -> None:
    owners: dict[TopicIdPartition, str] = {}
    for member_id in sorted(group.targets):
        for partition in sorted(group.targets[member_id].partitions):
            other = owners.setdefault(partition, member_id)
            if other != member_id:
                raise InvariantViolation(
                    "a partition is meant for one member",
                    group=group.name,
                    partition=partition,
                    members=(other, member_id),
                )
    unsettled = {
        member_id
        for member_id in group.members
        if not is_at_target(group.currents[member_id], group.targets[member_id])
    }
    invariant(unsettled == group.unsettled, "the index of unsettled members is right", group=group.name)


def _check_members(group: Group) -> None:
    instances: dict[str, str] = {}
    for member_id in sorted(group.members):
        instance_id = group.members[member_id].instance_id
        if instance_id is not None:
            other = instances.setdefault(instance_id, member_id)
            invariant(
                other == member_id,
                "an instance id has one member",
                group=group.name,
                instance_id=instance_id,
                members=(other, member_id),
            )
    invariant(instances == group.instances, "the index of instances is right", group=group.name)


def _check_events(group: Group, value: GroupValue) -> None:
    sequences = sorted(group.events)
    invariant(
        sequences == list(range(value.next_event_sequence - len(sequences), value.next_event_sequence)),
        "the newest events are kept, without a gap",
        group=group.name,
        sequences=sequences,
        next_event_sequence=value.next_event_sequence,
    )
