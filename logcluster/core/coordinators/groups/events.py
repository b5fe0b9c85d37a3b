"""The event log of a group: why it did what it did. Bounded; the newest events stay.

Sequence numbers are in the group's value, so they go on after the oldest events are gone, and after a failover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.records import EventRecord, EventValue, GroupStateRecord, GroupValue
from logcluster.core.coordinators.groups.requests import GroupEvents
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import GroupIdNotFound, InvalidRequest


def log_events(
    group: Group, value: GroupValue, new: Sequence[EventValue], *, events_max: int
) -> tuple[GroupValue, list[EventRecord]]:
    """Make records of new events, and of the removal of those that are too old for `events_max`.

    Returns:
        `value` with the next sequence number, and the records; of more events than are kept only the newest.
    """
    first, end = value.next_event_sequence, value.next_event_sequence + len(new)
    oldest = max(1, end - events_max)
    records = [
        EventRecord(group=group.name, sequence=sequence, value=None)
        for sequence in sorted(group.events)
        if sequence < oldest
    ]
    records += [
        EventRecord(group=group.name, sequence=sequence, value=event)
        for sequence, event in enumerate(new, start=first)
        if sequence >= oldest
    ]
    return replace(value, next_event_sequence=end), records


def read_events(group: Group, *, after_sequence: int, count_max: int) -> Result[GroupStateRecord, GroupEvents]:
    """Events after a sequence number, oldest first; of more than `count_max` the newest; 0 is "all".

    Raises:
        GroupIdNotFound: there is no such group.
        InvalidRequest: the count is negative.
    """
    if group.value is None:
        raise GroupIdNotFound(f"there is no group {group.name!r}", group=group.name)
    if count_max < 0:
        raise InvalidRequest(f"{count_max} events: ask for at least 1, or for all with 0")
    sequences = [sequence for sequence in sorted(group.events) if sequence > after_sequence]
    newest = sequences[-count_max:] if count_max else sequences
    return Result(response=GroupEvents(events=tuple((sequence, group.events[sequence]) for sequence in newest)))
