"""What the checks look at: the index of a history, as plain data.

Owns the five indexes of the Jepsen Kafka workload in our shape: who wrote a value (`Index.writes`), who read it first
(`KeyIndex.first_reader`), what was seen at an offset (`read_at`, `acked_at`, `conflicts`), in which order
(`read_offsets`; holes are legal, so order is order of offsets), and where a value was seen (`offset_of`, `duplicates`).
Beside them lie the steps of readers that were not simply "the next offset": gaps and steps backwards.
Invariants: filled by build.py only, read by every check; sizes are linear in sends plus polled records.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from logcluster.check.group_entries import GroupIndex
from logcluster.check.history import Event, EventType

StepKind = Literal["inside", "between", "head"]


@dataclass(slots=True)
class Write:
    """One attempt to append one value. Without a completion its outcome is `info`.

    `floor` is the acknowledged write (acks=all) with the highest offset among those complete when this one began.
    """

    key: str
    value: str
    invoke: Event
    is_acks_all: bool
    is_idempotent: bool
    floor: Write | None
    completion: Event | None = None
    outcome: EventType = "info"
    offset: int | None = None
    is_transactional: bool = False

    @property
    def is_promised(self) -> bool:
        """Acknowledged with acks=all: it may never be lost, moved or repeated."""
        return self.outcome == "ok" and self.is_acks_all

    @property
    def events(self) -> tuple[int, ...]:
        """Indexes of its events."""
        return (self.invoke.index,) if self.completion is None else (self.invoke.index, self.completion.index)


@dataclass(slots=True)
class Gap:
    """A reader went from `low` to `high` and saw nothing between (both exclusive bounds of what it passed over).

    `kind`: inside one poll, between two polls of a process, or at the head, after an assignment to `low + 1`.
    `node` is the broker that served both ends, when known.
    """

    kind: StepKind
    low: int
    high: int
    event: Event
    before: Event
    node: Any = None


@dataclass(slots=True)
class Backward:
    """A reader that had come to `expected` was given `offset < expected`."""

    kind: StepKind
    expected: int
    offset: int
    value: str
    event: Event
    before: Event


@dataclass(slots=True)
class StaleEnd:
    """An answer to list_offsets(latest) below an end that was known before the question."""

    offset: int
    floor: int
    event: Event
    evidence: Event


@dataclass(slots=True)
class Operation:
    """An invocation and how it ended, of any kind that is neither a send nor a poll (None: never completed)."""

    invoke: Event
    completion: Event | None


@dataclass(slots=True)
class Transaction:
    """An operation of several sends and polls. `reads` are (key, offset, value), in order."""

    invoke: Event
    completion: Event | None = None
    outcome: EventType = "info"
    writes: list[Write] = field(default_factory=list)
    reads: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def last(self) -> Event:
        """Its completion, or its invocation when it has none."""
        return self.completion or self.invoke


@dataclass(slots=True)
class Frontier:
    """What is known of a partition at the present moment of the pass: its end, and who waits to write."""

    highest_acked: Write | None = None
    end: int = 0
    end_evidence: Event | None = None
    offsets: list[int] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    pending: int = 0
    waiting_since_ns: int | None = None

    def saw(self, offset: int, event: Event) -> None:
        """A record at `offset` exists and is committed."""
        if offset >= self.end:
            self.end = offset + 1
            self.end_evidence = event
            self.offsets.append(offset)
            self.times_ns.append(event.t_ns)

    def stopped_being_newest_ns(self, offset: int) -> int | None:
        """When something above `offset` was first known; None if it still is the newest."""
        place = bisect_right(self.offsets, offset)
        return self.times_ns[place] if place < len(self.times_ns) else None


@dataclass
class KeyIndex:
    """Everything known of one partition. Offsets in `acked_at` are those acknowledged with acks=all."""

    key: str
    read_at: dict[int, str] = field(default_factory=dict)
    acked_at: dict[int, Write] = field(default_factory=dict)
    first_reader: dict[str, Event] = field(default_factory=dict)
    offset_of: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, set[int]] = field(default_factory=dict)
    conflicts: dict[int, list[str]] = field(default_factory=dict)
    acked_twice: list[tuple[Write, Write]] = field(default_factory=list)
    corrupt: list[tuple[int, str, Event]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    backward: list[Backward] = field(default_factory=list)
    overtaken: list[Write] = field(default_factory=list)
    stale_ends: list[StaleEnd] = field(default_factory=list)
    deletions: list[tuple[int, int]] = field(default_factory=list)
    drained_by: Event | None = None
    drained_to: int = -1
    read_on_node: dict[Any, set[int]] = field(default_factory=dict)
    unavailable_ns: int = 0
    unavailable_until: Event | None = None
    lag_ns: int = 0
    lag_event: Event | None = None
    frontier: Frontier = field(default_factory=Frontier)

    def took_a_write(self, event: Event) -> None:
        """A send succeeded (or the history ended, which closes the last wait)."""
        frontier = self.frontier
        if frontier.waiting_since_ns is not None:
            gap_ns = event.t_ns - frontier.waiting_since_ns
            if gap_ns > self.unavailable_ns:
                self.unavailable_ns, self.unavailable_until = gap_ns, event
        frontier.waiting_since_ns = event.t_ns if frontier.pending else None

    @property
    def topic(self) -> str:
        """The topic (and topic id, when the history gives one) the key belongs to."""
        return topic_of(self.key)

    @cached_property
    def read_offsets(self) -> list[int]:
        """Offsets at which any poll returned a record, ascending: the log as readers know it."""
        return sorted(self.read_at)

    @cached_property
    def acked_offsets(self) -> list[int]:
        """Offsets acknowledged with acks=all, ascending."""
        return sorted(self.acked_at)

    def deleted_below(self, at_index: int | None = None) -> int:
        """Records below this offset may be gone at event `at_index` (None: at the end): delete_records or retention."""
        indexes, lows = self._deleted
        place = len(lows) if at_index is None else bisect_right(indexes, at_index)
        return lows[place - 1] if place else 0

    @cached_property
    def _deleted(self) -> tuple[list[int], list[int]]:
        """Deletions in order of time, each with the highest bound so far."""
        ordered = sorted(self.deletions)
        return [index for index, _ in ordered], list(accumulate((low for _, low in ordered), max))

    def first_owed(self, gap: Gap) -> int:
        """The lowest offset inside a gap whose record cannot have been deleted by then."""
        return max(gap.low + 1, self.deleted_below(gap.event.index)) if self.deletions else gap.low + 1

    def read_between(self, gap: Gap) -> range:
        """Places in `read_offsets` of what lies inside a gap, without what may have been deleted by then."""
        offsets = self.read_offsets
        return range(bisect_left(offsets, self.first_owed(gap)), bisect_left(offsets, gap.high))

    def readers_end(self) -> int | None:
        """The bound of the lost-write check: the highest offset of a value that was read; None when nothing was.

        A value in several places counts as its lowest: one misplaced copy does not declare all before it lost.
        """
        return max(self.offset_of.values(), default=None)


@dataclass
class Index:
    """The whole history, indexed in one pass."""

    events: list[Event]
    keys: dict[str, KeyIndex] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    operations: dict[str, list[Operation]] = field(default_factory=dict)
    group_polls: list[Operation] = field(default_factory=list)
    groups: dict[str, GroupIndex] = field(default_factory=dict)
    deleted_topics: dict[str, Event] = field(default_factory=dict)
    malformed: list[tuple[str, Event]] = field(default_factory=list)
    is_drained: bool = False
    poll_count: int = 0
    record_count: int = 0

    def key(self, key: str) -> KeyIndex:
        """The entry of a key, made when it is first named."""
        known = self.keys.get(key)
        if known is None:
            known = self.keys[key] = KeyIndex(key)
        return known

    def sightings(self, wanted: dict[str, set[int]]) -> dict[tuple[str, int, str], Event]:
        """The first poll that returned each (key, offset, value) at the offsets wanted; one more pass, for reports."""
        found: dict[tuple[str, int, str], Event] = {}
        for event in self.events:
            if event.type == "invoke" or event.f not in {"poll", "txn"}:
                continue
            for raw_key, records in poll_parts(event):
                key = full_key(raw_key, event.meta)
                offsets = wanted.get(key)
                if not offsets:
                    continue
                for offset, value in records:
                    if offset in offsets:
                        found.setdefault((key, offset, value), event)
        return found


def poll_parts(event: Event) -> list[tuple[str, list[tuple[int, str]]]]:
    """What a poll, or the polls of a transaction, returned: (raw key, records) in order."""
    if event.f == "poll":
        return list(event.value.items()) if isinstance(event.value, dict) else []
    parts: list[tuple[str, list[tuple[int, str]]]] = []
    for kind, argument in event.value or ():
        if kind == "poll" and isinstance(argument, dict):
            parts.extend(argument.items())
    return parts


def full_key(key: str, meta: dict[str, Any]) -> str:
    """The key within the run: with `meta.topic_id` (a string, or one per topic) incarnations of a name stay apart."""
    topic_id = meta.get("topic_id")
    if topic_id is None:
        return key
    if isinstance(topic_id, dict):
        topic_id = topic_id.get(topic_of(key))
        if topic_id is None:
            return key
    return f"{key}@{topic_id}"


def topic_of(key: str) -> str:
    """`"orders-3"` gives `"orders"`, `"orders-3@id"` gives `"orders@id"`."""
    base, _, topic_id = key.partition("@")
    topic = base.rpartition("-")[0] or base
    return f"{topic}@{topic_id}" if topic_id else topic
