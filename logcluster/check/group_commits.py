"""What sets the committed offsets of a group: commits of members, resets by the application, deletions.

Owns what a commit must be judged by: what was known when it began (the highest commit then acknowledged, and whether
its member's part was over), so that operations that overlap excuse each other. What lets records be left out or offsets
go back (a reset, a seek, an offset that the application chose) counts from its beginning; all else from its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from logcluster.check.entries import Operation, full_key
from logcluster.check.group_entries import BEFORE_THE_RUN, NEVER, Breach, GroupIndex, GroupKey, OffsetWrite
from logcluster.check.history import COMPLETIONS, Event, EventType


@dataclass(slots=True)
class _Claim:
    """What was known of one partition when a commit of a member began. `over`: why its part was, and what shows it."""

    highest: OffsetWrite | None
    over: tuple[str, Event] | None


class Commits:
    """Handles operations that write committed offsets; notes in `malformed` what breaks the format."""

    def __init__(self, malformed: list[tuple[str, Event]]) -> None:
        self._malformed = malformed
        self._claims: dict[int, dict[str, _Claim]] = {}

    def commit_begins(self, group: GroupIndex, operation: Operation) -> None:
        """The moment that says what the commit must not fall behind."""
        event = operation.invoke
        if not isinstance(event.value, dict) or not all(isinstance(offset, int) for offset in event.value.values()):
            self._malformed.append(("it does not say which offsets are to be committed", event))
            return
        claims = self._claims[event.index] = {}
        member = event.meta.get("member")
        for raw_key, offset in event.value.items():
            key = full_key(raw_key, event.meta)
            group_key = group.key(key)
            if _is_chosen(event):
                _moved(group_key, event.index, offset)
            over = _what_was_over(group, group_key, member, event.meta.get("member_epoch")) if member else None
            claims[key] = _Claim(group_key.highest, over)

    def commit_ends(self, group: GroupIndex, operation: Operation) -> None:
        """Per partition: it is a write of the register, and if it was acknowledged it makes claims."""
        claims = self._claims.pop(operation.invoke.index, None)
        if claims is None:
            return
        event = operation.completion or operation.invoke
        for raw_key, offset, outcome in self._outcomes(operation):
            key = full_key(raw_key, event.meta)
            if key not in claims or not isinstance(offset, int):
                self._malformed.append((f"it does not answer what was asked of {raw_key}", event))
                continue
            group_key = group.key(key)
            group.commits[outcome] += 1
            if outcome == "fail":
                group_key.refused.setdefault(offset, event)
                continue
            write = _write(operation, offset, outcome)
            group_key.writes.append(write)
            if outcome == "ok":
                _acknowledged(group_key, write, event, claims[key])

    def reset_begins(self, group: GroupIndex, operation: Operation) -> None:
        """The application, or retention, moves the group."""
        event = operation.completion or operation.invoke
        if event.type == "fail":
            return
        if operation.invoke.value is None:
            wipe = _write(operation, None, "ok" if event.type == "ok" else "info", is_removal=True)
            group.wipes.append(wipe)
            group.epochs_from = max(group.epochs_from, wipe.last)
            for group_key in group.keys.values():
                group_key.moved(operation.invoke.index, None)
                group_key.strongest.clear()
            return
        for raw_key, offset, outcome in self._outcomes(operation):
            if outcome != "fail":
                group_key = group.key(full_key(raw_key, event.meta))
                group_key.writes.append(_write(operation, offset, outcome, is_removal=offset is None))
                _moved(group_key, operation.invoke.index, offset)

    def reset_ends(self, group: GroupIndex, operation: Operation) -> None:
        """It may have taken effect only now."""
        event = operation.completion
        if event is None or event.type == "fail":
            return
        named = operation.invoke.value
        keys = [full_key(raw_key, event.meta) for raw_key in named] if isinstance(named, dict) else list(group.keys)
        for key in keys:
            group.key(key).moved(event.index, None)

    def seek_begins(self, group: GroupIndex, operation: Operation) -> None:
        """The application moves a member."""
        event = operation.completion or operation.invoke
        for raw_key, offset, outcome in self._outcomes(operation):
            if outcome != "fail":
                group_key = group.key(full_key(raw_key, event.meta))
                _moved(group_key, operation.invoke.index, offset)
                group_key.positions.pop(event.meta.get("member", ""), None)

    def _outcomes(self, operation: Operation) -> Iterator[tuple[str, Any, EventType]]:
        """Each key of an operation with its offset (the answer's where it gives one) and how it ended."""
        event, asked = operation.completion, operation.invoke.value
        if not isinstance(asked, dict):
            self._malformed.append(("it does not say which offsets", operation.invoke))
            return
        answered = event.value if event is not None and isinstance(event.value, dict) else {}
        outcome: EventType = "info" if event is None else event.type
        apart = event.meta.get("outcomes") or {} if event is not None else {}
        for raw_key, offset in {**asked, **answered}.items():
            own = apart.get(raw_key, outcome)
            if own in COMPLETIONS:
                yield raw_key, offset, own
            else:
                self._malformed.append((f"{own!r} is no outcome", event or operation.invoke))


def _is_chosen(event: Event) -> bool:
    """The offsets are not simply what a member has done: the application, or somebody outside of the group, chose."""
    return bool(event.meta.get("deliberate")) or event.meta.get("member") is None


def _moved(group_key: GroupKey, moment: int, offset: Any) -> None:
    """Records below this offset may be left out on purpose; below an unknown one: all."""
    known = 0 if offset in ("beginning", "earliest") else offset if isinstance(offset, int) else None
    group_key.moved(moment, known)
    if offset is not None:
        group_key.accounted = max(group_key.accounted, NEVER if known is None else known)


def _write(operation: Operation, offset: Any, outcome: EventType, *, is_removal: bool = False) -> OffsetWrite:
    event = operation.completion or operation.invoke
    return OffsetWrite(
        offset if isinstance(offset, int) else None,
        outcome,
        BEFORE_THE_RUN if operation.invoke.meta.get("expired") else operation.invoke.index,
        event.index if outcome == "ok" else NEVER,
        (operation.invoke.index,) if operation.completion is None else (operation.invoke.index, event.index),
        member=event.meta.get("member"),
        is_unknown=not is_removal and not isinstance(offset, int),
    )


def _what_was_over(group: GroupIndex, group_key: GroupKey, member: str, epoch: Any) -> tuple[str, Event] | None:
    """Proof that a commit of this member that begins now must be refused.

    A partition is given away only after its owner let go or is gone, in a later epoch; had it come back to the member,
    a still later interval of its own would be on record.
    """
    left = group.left.get(member)
    if left is not None:
        return f"{member} had left the group", left
    own, rival = group_key.intervals.get(member), group_key.rival_of(member)
    since = own.epoch if own is not None else epoch
    if rival is None or not isinstance(since, int) or rival.epoch <= since:
        return None
    return f"{member} had the partition in epoch {since} and {rival.member} since epoch {rival.epoch}", rival.assigned


def _acknowledged(group_key: GroupKey, write: OffsetWrite, event: Event, claim: _Claim) -> None:
    offset, highest, began = write.offset or 0, claim.highest, write.events[0]
    if claim.over is not None:
        why, proof = claim.over
        detail = f"{why}; a commit of {offset} that it began later was accepted"
        group_key.breaches.append(Breach("zombie-commit", detail, [proof.index, *write.events], [offset]))
    if _is_chosen(event):
        is_latest = group_key.moved_at == began  # Nobody moved the group since.
        group_key.moved(event.index, offset)
        if is_latest:
            group_key.highest = write
        return
    if claim.over is None and highest is not None and offset < (highest.offset or 0) and group_key.moved_at < began:
        detail = (
            f"{write.member} committed {offset} after {highest.member or 'somebody'} had committed {highest.offset}"
        )
        events = [*highest.events, *write.events]
        group_key.breaches.append(Breach("offset-regression", detail, events, [offset, highest.offset]))
    group_key.cover(offset, event, began, write.events)
    if began > group_key.moved_at and (group_key.highest is None or offset >= (group_key.highest.offset or 0)):
        group_key.highest = write
