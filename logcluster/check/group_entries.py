"""What the checks of consumer groups look at: the group side of the index, as plain data.

Owns the shapes that group_build.py fills and group_checks.py reads; docs/checking.md describes the events behind them.
A moment is the index of an event. An attempt to set a committed offset takes effect at some moment from `first` to
`last`, or, when its outcome is unknown, at any moment from `first` on or never (`last` is NEVER). A member's name is
of one life: who joins again is another member. Invariants: sizes are linear in the operations of groups and the records
handed to members; dictionaries keep the order of the history, so that reports do not depend on hashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from logcluster.check.history import Event, EventType

NEVER: Final = 1 << 62
"""A moment that does not come, and an offset beyond all others."""
BEFORE_THE_RUN: Final = -1
MARKS: Final = frozenset({"assigned", "revoked", "lost", "leave"})
"""Events that take no time: a pair, or one `ok` without an invocation."""


@dataclass(slots=True, eq=False)
class OffsetWrite:
    """One attempt to set the committed offset of a partition; offset None takes it away.

    `is_unknown`: the history does not say which offset it was. `member` None: somebody outside of the group.
    """

    offset: int | None
    outcome: EventType
    first: int
    last: int
    events: tuple[int, ...]
    member: str | None = None
    is_unknown: bool = False


@dataclass(slots=True, eq=False)
class OffsetRead:
    """Somebody was told the committed offset of a partition; None: that nothing is committed.

    `is_by_policy`: a member began by its start policy, as it may only when nothing is committed.
    """

    offset: int | None
    invoke: Event
    completion: Event
    is_by_policy: bool = False

    @property
    def events(self) -> tuple[int, ...]:
        """Indexes of its events."""
        return (self.invoke.index, self.completion.index)


@dataclass(slots=True, eq=False)
class Interval:
    """A member owns a partition, given to it in `epoch`, from `assigned` until it knows of the end.

    `before`: when its interval before this one ended.
    """

    member: str
    epoch: int
    assigned: Event
    ended: Event | None = None
    before: int = BEFORE_THE_RUN


@dataclass(slots=True)
class Position:
    """Where a member goes on in a partition, since `event`. `is_start`: it began there and was handed nothing yet."""

    offset: int
    event: Event
    is_start: bool


@dataclass(slots=True)
class Span:
    """Since `event` nobody comes back for the records in [low, end). What was handed out before `deadline` counts."""

    low: int
    end: int
    event: Event
    deadline: int
    events: tuple[int, ...]


@dataclass(slots=True)
class Breach:
    """What is wrong already by the order of events: the name of the anomaly, and what shows it."""

    name: str
    detail: str
    events: list[int]
    offsets: list[int | None]


@dataclass
class GroupKey:
    """Everything known of one partition in one group.

    `handed`: offset -> index of the first poll by which any member was given that record. `strongest`: the intervals
    with the highest epochs, at most one of each of two members. `positions`: of members whose start is on record.
    `spans`: what the group as a whole is past; `start_spans`, `step_spans`: what one member passed over, at its start
    and later. `accounted`: what lies below may be left out on purpose. `covered`: what lies below was looked at; None:
    nothing was. `highest`: the highest commit acknowledged since the group was last moved, at `moved_at`.
    """

    key: str
    writes: list[OffsetWrite] = field(default_factory=list)
    reads: list[OffsetRead] = field(default_factory=list)
    refused: dict[int, Event] = field(default_factory=dict)
    told: dict[str, OffsetRead] = field(default_factory=dict)
    handed: dict[int, int] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    strongest: list[Interval] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    start_spans: list[Span] = field(default_factory=list)
    step_spans: list[Span] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    is_started: bool = False
    first_handed: int | None = None
    handed_end: int = 0
    handed_by: Event | None = None
    accounted: int = 0
    covered: int | None = None
    highest: OffsetWrite | None = None
    moved_at: int = BEFORE_THE_RUN

    def rival_of(self, member: str) -> Interval | None:
        """The interval with the highest epoch among those of other members."""
        return next((interval for interval in self.strongest if interval.member != member), None)

    def moved(self, moment: int, offset: int | None) -> None:
        """The group may go on from this offset although more was committed (None: from anywhere)."""
        if self.highest is not None and (offset is None or offset < (self.highest.offset or 0)):
            self.highest = None
        self.moved_at = max(self.moved_at, moment)

    def cover(self, end: int, event: Event, deadline: int, events: tuple[int, ...]) -> None:
        """Nobody of the group will come back for what lies below `end`."""
        low = self.covered
        if low is None:  # Where the group began is known only if a start is on record.
            low = 0 if self.is_started else end if self.first_handed is None else min(self.first_handed, end)
        self.covered = max(low, end)
        low = max(low, self.accounted)
        if end > low:
            self.spans.append(Span(low, end, event, deadline, events))


@dataclass
class GroupIndex:
    """One consumer group. `held`: partitions whose interval is open, by member. `left`: when members went for good.

    `epochs_from`: with the group's deletion its epochs begin anew, so what was given up to this moment proves nothing.
    """

    name: str
    keys: dict[str, GroupKey] = field(default_factory=dict)
    client_of: dict[str, str] = field(default_factory=dict)
    held: dict[str, dict[str, None]] = field(default_factory=dict)
    left: dict[str, Event] = field(default_factory=dict)
    wipes: list[OffsetWrite] = field(default_factory=list)
    epochs_from: int = BEFORE_THE_RUN
    commits: dict[str, int] = field(default_factory=lambda: {"ok": 0, "fail": 0, "info": 0})
    record_count: int = 0
    redelivered_count: int = 0

    def key(self, key: str) -> GroupKey:
        """The entry of a partition, made when it is first named."""
        known = self.keys.get(key)
        if known is None:
            known = self.keys[key] = GroupKey(key, moved_at=self.epochs_from)
        return known
