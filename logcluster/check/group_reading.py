"""What members of a group read: where they began, what they were told is committed, which records they were handed.

All of it counts from its end. A record counts as handed to the group once any member was given it.
"""

from __future__ import annotations

from typing import Any, Final

from logcluster.check.entries import Index, Operation, full_key, poll_parts
from logcluster.check.group_entries import NEVER, Breach, GroupIndex, GroupKey, OffsetRead, Position, Span
from logcluster.check.group_owners import judge_owner
from logcluster.check.history import Event

STARTS: Final = frozenset({"committed", "policy", "out_of_range"})


class Reading:
    """Handles fetches of committed offsets, starts of members and their polls."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def fetched(self, group: GroupIndex, operation: Operation) -> None:
        """Somebody was told what is committed."""
        event = operation.completion or operation.invoke
        for raw_key, offset in self._offsets(event).items():
            group_key = group.key(full_key(raw_key, event.meta))
            read = OffsetRead(offset, operation.invoke, event)
            group_key.reads.append(read)
            member = event.meta.get("member")
            if member is not None:
                group_key.told[member] = read

    def resumed(self, group: GroupIndex, operation: Operation) -> None:
        """A member begins to read partitions."""
        event = operation.completion
        if event is None or event.type != "ok":
            return
        why, member = event.meta.get("why"), event.meta["member"]
        if why not in STARTS:
            self._index.malformed.append((f"a member resumes for one of {sorted(STARTS)}, not {why!r}", event))
            return
        for raw_key, offset in self._offsets(event).items():
            if offset is None:
                self._index.malformed.append((f"it does not say where {raw_key} goes on", event))
                continue
            group_key = group.key(full_key(raw_key, event.meta))
            group_key.is_started = True
            if why == "out_of_range":
                self._judge_range(group_key, operation, (event.meta.get("from") or {}).get(raw_key))
            else:
                _judge_start(group_key, offset, operation, is_by_policy=why == "policy")
            if why == "committed":
                group_key.cover(offset, event, event.index, (event.index,))
            else:
                group_key.accounted = max(group_key.accounted, offset)
            group_key.moved(event.index, offset)
            group_key.positions[member] = Position(offset, event, is_start=True)

    def _judge_range(self, group_key: GroupKey, operation: Operation, position: Any) -> None:
        """A position is not out of range if the record before it was read and has not been deleted since."""
        event = operation.completion or operation.invoke
        key_index = self._index.keys.get(group_key.key)
        if not isinstance(position, int) or key_index is None or key_index.topic in self._index.deleted_topics:
            return
        seen = group_key.handed.get(position - 1, NEVER)
        if seen < operation.invoke.index and position >= key_index.deleted_below(event.index):
            member = event.meta["member"]
            detail = f"{member} began anew: {position} was out of range, but {position - 1} had been read"
            group_key.breaches.append(Breach("spurious-reset", detail, [seen, event.index], [position]))

    def polled(self, group: GroupIndex, operation: Operation) -> None:
        """Records were handed to a member. The hot loop."""
        event = operation.completion or operation.invoke
        member, number = event.meta["member"], event.index
        for raw_key, records in poll_parts(event):
            if not records:
                continue
            group_key = group.key(full_key(raw_key, event.meta))
            handed = group_key.handed
            known = len(handed)
            for offset, _ in records:
                if offset not in handed:
                    handed[offset] = number
            group.record_count += len(records)
            group.redelivered_count += len(records) - (len(handed) - known)
            first, end = records[0][0], records[-1][0] + 1
            if group_key.first_handed is None or first < group_key.first_handed:
                group_key.first_handed = first
            if end > group_key.handed_end:
                group_key.handed_end, group_key.handed_by = end, event
            interval = group_key.intervals.get(member)
            if interval is not None and interval.ended is not None and interval.ended.index < operation.invoke.index:
                judge_owner(group_key, interval, interval.ended, operation, first)
            position = group_key.positions.pop(member, None)
            if position is None:
                continue
            is_settled = interval.before < operation.invoke.index if interval else raw_key not in _keys_moved(event)
            if is_settled:
                _judge_step(group_key, member, position, first, event)
                if event.type == "ok":
                    group_key.positions[member] = Position(end, event, is_start=False)

    def _offsets(self, event: Event) -> dict[str, Any]:
        """The answer `{key: offset or null}` of an operation that succeeded."""
        if event.type != "ok":
            return {}
        value = event.value
        if isinstance(value, dict) and all(offset is None or isinstance(offset, int) for offset in value.values()):
            return value
        self._index.malformed.append(("it does not say which offsets", event))
        return {}


def _judge_start(group_key: GroupKey, offset: int, operation: Operation, *, is_by_policy: bool) -> None:
    """A member that was told what is committed goes on from there; if nobody saw it being told, its start says it."""
    event = operation.completion or operation.invoke
    member = event.meta["member"]
    told = group_key.told.get(member)
    if told is None or told.invoke.index < operation.invoke.index:
        read = None if is_by_policy else offset
        group_key.reads.append(OffsetRead(read, operation.invoke, event, is_by_policy))
    elif is_by_policy:
        if told.offset is None:
            group_key.reads.append(OffsetRead(None, operation.invoke, event, is_by_policy))
        else:
            detail = f"{member} began by its policy at {offset} although it was told that {told.offset} is committed"
            events = [*told.events, event.index]
            group_key.breaches.append(Breach("spurious-reset", detail, events, [told.offset, offset]))
    elif told.offset != offset:
        detail = f"{member} went on at {offset} although it was told that {told.offset} is committed"
        events = [*told.events, event.index]
        group_key.breaches.append(Breach("resumed-elsewhere", detail, events, [told.offset, offset]))


def _judge_step(group_key: GroupKey, member: str, position: Position, first: int, event: Event) -> None:
    """The first record of a poll is the first one at or above the member's position."""
    offset, since = position.offset, position.event
    if first < offset and position.is_start:
        detail = f"{member} began at {offset} and was handed {first}"
        breach = Breach("resumed-elsewhere", detail, [since.index, event.index], [first, offset])
        group_key.breaches.append(breach)
    elif first > offset:
        spans = group_key.start_spans if position.is_start else group_key.step_spans
        spans.append(Span(offset, first, event, event.index, (since.index, event.index)))


def _keys_moved(event: Event) -> frozenset[str]:
    """The keys of `meta.rebalance`: a list, or lists under `assigned` and `revoked`."""
    moved = event.meta.get("rebalance") or ()
    return frozenset(key for part in (moved.values() if isinstance(moved, dict) else (moved,)) for key in part)
