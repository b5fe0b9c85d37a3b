"""A decision in the making: the records so far, and the group as it will be once they are replayed.

A handler changes nothing. So it works on a copy, which is made with the first record and replays each record as the
real group will. What follows from all records together is worked out at the end: events, and who is to be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from logcluster.core.coordinators.groups.events import log_events
from logcluster.core.coordinators.groups.group import Group
from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    EventKind,
    EventRecord,
    EventValue,
    GroupRecord,
    GroupStateRecord,
    GroupValue,
    MemberRecord,
    OffsetRecord,
    TargetRecord,
)
from logcluster.model.ids import TopicIdPartition

RecordKey = tuple[type[GroupStateRecord], str | int | TopicIdPartition]


def key_of(record: GroupStateRecord) -> RecordKey:
    """What the record is a value of, within its group: a later record with the same key replaces it."""
    match record:
        case GroupRecord():
            return (GroupRecord, "")
        case MemberRecord() | TargetRecord() | CurrentRecord():
            return (type(record), record.member_id)
        case OffsetRecord():
            return (OffsetRecord, record.partition)
        case EventRecord():
            return (EventRecord, record.sequence)


class Draft:
    """Collects records for one group.

    Attributes:
        before: the group as it is; the handler must not change it.
        group: the group as it will be.
    """

    def __init__(self, group: Group, *, wall_ms: int, events_max: int) -> None:
        self.before = group
        self.group = group
        self.wall_ms = wall_ms
        self._events_max = events_max
        self._records: dict[RecordKey, GroupStateRecord] = {}
        self._events: list[EventValue] = []

    @property
    def value(self) -> GroupValue:
        """The group's value as it will be; of a new group, what it starts with."""
        return GroupValue() if self.group.value is None else self.group.value

    def put(self, record: GroupStateRecord) -> None:
        """Add a record; one with the same key that was added before is dropped."""
        if self.group is self.before:
            self.group = self.before.copy()
        key = key_of(record)
        self._records.pop(key, None)
        self._records[key] = record
        self.group.replay(record)

    def set_value(self, value: GroupValue) -> None:
        """Change the group's own value."""
        if value != self.group.value:
            self.put(GroupRecord(group=self.group.name, value=value))

    def event(
        self,
        kind: EventKind,
        reason: str,
        *,
        member_id: str = "",
        partition_counts: Mapping[str, int] | None = None,
        moved: int = 0,
    ) -> None:
        """Note that something happened; who the member is must be known before or after."""
        member = self.group.members.get(member_id) or self.before.members.get(member_id)
        self._events.append(
            EventValue(
                time_ms=self.wall_ms,
                kind=kind,
                group_epoch=0,
                reason=reason,
                member_id=member_id,
                instance_id="" if member is None or member.instance_id is None else member.instance_id,
                client_host="" if member is None else member.client_host,
                partition_counts={} if partition_counts is None else partition_counts,
                moved=moved,
            )
        )

    def finish(self) -> tuple[GroupStateRecord, ...]:
        """The records in the order in which they were added, events last; all events carry the final group epoch."""
        has_news = self.before.state != "stable" or self.before.epoch != self.group.epoch
        if self._records and has_news and self.group.state == "stable":
            self.event("settled", "every member has what it is to have")
        if self._events:
            epoch = self.value.group_epoch
            events = [replace(event, group_epoch=epoch) for event in self._events]
            value, records = log_events(self.group, self.value, events, events_max=self._events_max)
            self.set_value(value)
            for record in records:
                self.put(record)
            self._events = []
        return tuple(self._records.values())

    def to_wake(self, *, besides: str = "") -> tuple[str, ...]:
        """Members to be told to send a heartbeat: they have another target, or wait for something that is free now.

        Args:
            besides: the member that is being answered anyway.
        """
        freed = self.before.holders.keys() - self.group.holders.keys() if self.group is not self.before else set()
        return tuple(
            member_id
            for member_id in sorted(self.group.members)
            if member_id != besides and not self.group.currents[member_id].is_away and self._concerns(member_id, freed)
        )

    def _concerns(self, member_id: str, freed: set[TopicIdPartition]) -> bool:
        target = self.group.targets[member_id]
        before = self.before.targets.get(member_id)
        if before is None or before.partitions != target.partitions:
            return True
        return self.group.currents[member_id].state == "waiting" and not freed.isdisjoint(target.partitions)
