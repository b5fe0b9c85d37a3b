"""Who owned which partition of a group: what was given to members, what they gave up, who left.

Owns the marks. A member owns a partition from `assigned` on; overlaps with another owner are those of a member that was
thought dead, and legal as long as it was not told. Epochs of a group only grow, and a partition changes hands only
after its owner let go of it or is gone, so the interval with the highest epoch is the latest.
"""

from __future__ import annotations

from logcluster.check.entries import Operation, full_key
from logcluster.check.group_entries import BEFORE_THE_RUN, Breach, GroupIndex, GroupKey, Interval
from logcluster.check.history import Event


class Owners:
    """Handles marks; notes in `malformed` what breaks the format."""

    def __init__(self, malformed: list[tuple[str, Event]]) -> None:
        self._malformed = malformed

    def assigned(self, group: GroupIndex, operation: Operation) -> None:
        """Partitions were added to those of a member."""
        event = operation.invoke
        member, epoch = event.meta["member"], event.meta.get("member_epoch")
        if not isinstance(epoch, int) or not isinstance(event.value, list | tuple):
            self._malformed.append(("it does not say what was given, in which epoch of the member", event))
            return
        if member in group.left:
            self._malformed.append((f"member {member} had left: names are of one life", event))
            return
        for key in group.held.get(member, ()):
            _judge_holder(group.key(key), member, epoch, event)
        for raw_key in event.value:
            group_key = group.key(full_key(raw_key, event.meta))
            known = group_key.intervals.get(member)
            before = known.ended.index if known is not None and known.ended is not None else BEFORE_THE_RUN
            interval = group_key.intervals[member] = Interval(member, epoch, event, before=before)
            group.held.setdefault(member, {})[group_key.key] = None
            if event.index > group.epochs_from:
                others = [other for other in group_key.strongest if other.member != member]
                group_key.strongest = sorted([interval, *others], key=lambda known: -known.epoch)[:2]

    def given_up(self, group: GroupIndex, operation: Operation) -> None:
        """A member gave up partitions, or learned that they are not its own: those named, or all."""
        event = operation.invoke
        member = event.meta["member"]
        if event.value is not None and not isinstance(event.value, list | tuple):
            self._malformed.append(("it does not say what was given up", event))
            return
        held = group.held.get(member, {})
        for key in list(held) if event.value is None else [full_key(raw_key, event.meta) for raw_key in event.value]:
            group_key = group.key(key)
            group_key.positions.pop(member, None)
            if key in held:
                del held[key]
                group_key.intervals[member].ended = event

    def left(self, group: GroupIndex, operation: Operation) -> None:
        """The coordinator took a member's goodbye."""
        group.left.setdefault(operation.invoke.meta["member"], operation.invoke)
        self.given_up(group, operation)


def judge_owner(group_key: GroupKey, interval: Interval, ended: Event, poll: Operation, offset: int) -> None:
    """A member was handed records that it asked for after it had given up the partition: was it another one's?"""
    event, rival = poll.completion or poll.invoke, group_key.rival_of(interval.member)
    if rival is None or rival.epoch < interval.epoch or not ended.index < rival.assigned.index < event.index:
        return
    detail = (
        f"{interval.member} had given the partition up, asked again and was handed {offset}; {rival.member} owned it"
    )
    events = [ended.index, rival.assigned.index, poll.invoke.index, event.index]
    group_key.breaches.append(Breach("double-ownership", detail, events, [offset]))


def _judge_holder(group_key: GroupKey, member: str, epoch: int, event: Event) -> None:
    """A member comes to an epoch only without what somebody else was given by then, or it was never to let go of it."""
    interval, rival = group_key.intervals[member], group_key.rival_of(member)
    if rival is None or not interval.epoch < rival.epoch <= epoch:
        return
    detail = (
        f"{member} holds the partition since epoch {interval.epoch} and came to epoch {epoch} with it, "
        f"but {rival.member} was given it in epoch {rival.epoch}"
    )
    events = [interval.assigned.index, rival.assigned.index, event.index]
    group_key.breaches.append(Breach("double-ownership", detail, events, []))
