"""One consumer group: what its records make of it, and the sessions of its members.

Recorded state changes in `replay` only. Beside it stand indexes that follow from it (who holds a partition, who is
not at its target), kept up by the same `replay`, whatever the order of the records; `check` makes them anew and
compares. What records mean is in `records`, what may follow in the handlers: `heartbeat`, `offsets`, `admin`.
"""

from __future__ import annotations

from typing import TypeVar, assert_never

from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    CurrentValue,
    EventRecord,
    EventValue,
    GroupRecord,
    GroupStateRecord,
    GroupValue,
    MemberRecord,
    MemberValue,
    OffsetRecord,
    OffsetValue,
    TargetRecord,
    TargetValue,
)
from logcluster.core.coordinators.groups.requests import GroupState
from logcluster.core.coordinators.groups.self_check import check_group, is_at_target
from logcluster.core.coordinators.groups.sessions import Sessions
from logcluster.core.coordinators.groups.transcript import describe_group
from logcluster.model.ids import TopicIdPartition

Key = TypeVar("Key")
Value = TypeVar("Value")


class Group:
    """The entity of the group coordinator.

    Attributes:
        value: None: the group does not exist.
        holders: who has a partition, assigned or not given up yet.
        instances: member ids by instance id.
        unsettled: members that are not at their target.
        sessions: not recorded; they begin anew with every leadership.
        must_look_at_topics: topics may have changed since the last leadership; not recorded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: GroupValue | None = None
        self.members: dict[str, MemberValue] = {}
        self.targets: dict[str, TargetValue] = {}
        self.currents: dict[str, CurrentValue] = {}
        self.offsets: dict[TopicIdPartition, OffsetValue] = {}
        self.events: dict[int, EventValue] = {}
        self.holders: dict[TopicIdPartition, str] = {}
        self.instances: dict[str, str] = {}
        self.unsettled: set[str] = set()
        self.sessions = Sessions()
        self.must_look_at_topics = False

    @property
    def key_count(self) -> int:
        """How many records it has in storage; 0: it does not exist."""
        count = len(self.members) + len(self.targets) + len(self.currents) + len(self.offsets) + len(self.events)
        return count + (0 if self.value is None else 1)

    @property
    def epoch(self) -> int:
        """The group epoch; 0 when it does not exist."""
        return 0 if self.value is None else self.value.group_epoch

    @property
    def state(self) -> GroupState:
        """What people are shown; see docs/protocol/groups.md."""
        if self.value is None or not self.members:
            return "empty"
        if self.value.assignment_epoch < self.value.group_epoch:
            return "assigning"
        return "reconciling" if self.unsettled else "stable"

    def replay(self, record: GroupStateRecord) -> None:
        """Take over what a record says."""
        match record:
            case GroupRecord():
                self.value = record.value
            case MemberRecord():
                self._replay_member(record.member_id, record.value)
            case TargetRecord():
                _put(self.targets, record.member_id, record.value)
                self._note_settled(record.member_id)
            case CurrentRecord():
                self._replay_current(record.member_id, record.value)
            case OffsetRecord():
                _put(self.offsets, record.partition, record.value)
            case EventRecord():
                _put(self.events, record.sequence, record.value)
            case _:
                assert_never(record)

    def _replay_member(self, member_id: str, value: MemberValue | None) -> None:
        before = self.members.get(member_id)
        if before is not None and before.instance_id is not None and self.instances[before.instance_id] == member_id:
            del self.instances[before.instance_id]
        _put(self.members, member_id, value)
        if value is None:
            self.sessions.drop(member_id)
        elif value.instance_id is not None:
            self.instances[value.instance_id] = member_id

    def _replay_current(self, member_id: str, value: CurrentValue | None) -> None:
        before = self.currents.get(member_id)
        if before is not None:
            for partition in (*before.assigned, *before.revoking):
                if self.holders.get(partition) == member_id:
                    del self.holders[partition]
        _put(self.currents, member_id, value)
        if value is not None:
            self.holders.update(dict.fromkeys((*value.assigned, *value.revoking), member_id))
        self._note_settled(member_id)

    def _note_settled(self, member_id: str) -> None:
        current, target = self.currents.get(member_id), self.targets.get(member_id)
        if (current is None and target is None) or is_at_target(current, target):
            self.unsettled.discard(member_id)
        else:
            self.unsettled.add(member_id)

    def on_loaded(self, now_ms: int) -> None:
        """Give every member a whole session, and a whole time for giving up what it was told to."""
        self.sessions = Sessions()
        self.must_look_at_topics = bool(self.members)
        for member_id in sorted(self.members):
            member = self.members[member_id]
            self.sessions.heard(member_id, now_ms=now_ms, timeout_ms=member.session_timeout_ms)
            if self.currents[member_id].revoking:
                self.sessions.revoke_until(member_id, now_ms + member.rebalance_timeout_ms)

    def next_deadline_ms(self) -> int | None:
        """When `expire` has something to do; in the past (0) while topics have to be looked at after a load."""
        if self.must_look_at_topics:
            return 0
        return self.sessions.next_deadline_ms()

    def is_at_rest(self) -> bool:
        """Without members nothing happens by itself, but for offsets that grow old: those have a sweep."""
        return not self.members

    def copy(self) -> Group:
        """A group with the same records and no sessions, to be replayed ahead of this one."""
        twin = Group(self.name)
        twin.value = self.value
        twin.members = dict(self.members)
        twin.targets = dict(self.targets)
        twin.currents = dict(self.currents)
        twin.offsets = dict(self.offsets)
        twin.events = dict(self.events)
        twin.holders = dict(self.holders)
        twin.instances = dict(self.instances)
        twin.unsettled = set(self.unsettled)
        return twin

    def check(self) -> None:
        """Check everything that must hold; linear in the number of partitions.

        Raises:
            InvariantViolation: something does not.
        """
        check_group(self)

    def describe(self) -> str:
        """One line for logs and transcripts."""
        return describe_group(self)


def _put(values: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value
