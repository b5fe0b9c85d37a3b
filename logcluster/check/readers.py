"""The reading side of the index: where each process stands in each partition, and what its polls returned.

Owns positions (an assigned process expects the next offset after what it was given, or the one it was assigned to),
the steps that were something else, what was seen where, and how far behind a reader was when it asked. Polls are
believed whatever the outcome of their operation, but only an `ok` one moves the position of its process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from logcluster.check.entries import Backward, Gap, Index, KeyIndex, StepKind, full_key
from logcluster.check.history import Event
from logcluster.check.payload import CORRUPT_PREFIX


@dataclass(slots=True)
class _Position:
    """Where a process stands in a key: it expects `expected` next, because of event `since`."""

    expected: int
    since: Event
    kind: StepKind
    node: Any = None


@dataclass(slots=True)
class _Reader:
    """A process that polls. Under `subscribe` partitions move between processes, so no position is kept."""

    is_subscribed: bool = False
    positions: dict[str, _Position] = field(default_factory=dict)
    last_poll: Event | None = None


class Readers:
    """All processes that poll; writes what they see into the index."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._readers: dict[str, _Reader] = {}

    def poll(self, invoke: Event, event: Event) -> None:
        """A poll ended."""
        self._index.poll_count += 1
        is_drain = bool(event.meta.get("drain"))
        if is_drain:
            self._index.is_drained = True
        self._reader(event.process).last_poll = invoke
        if isinstance(event.value, dict):
            self.records(invoke, event, event.value, is_drain=is_drain)

    def records(
        self, invoke: Event, event: Event, polled: dict[str, list[tuple[int, str]]], *, is_drain: bool = False
    ) -> None:
        """Records were returned, by a poll or inside a transaction."""
        reader = self._reader(event.process)
        rebalanced = event.meta.get("rebalance")
        moved = _keys_named(rebalanced) if rebalanced else ()
        served_by = event.meta.get("node")
        for raw_key, records in polled.items():
            key = full_key(raw_key, event.meta)
            key_index = self._index.key(key)
            if is_drain:
                key_index.drained_by = event
            if not records:
                continue
            node = served_by.get(raw_key) if isinstance(served_by, dict) else served_by
            is_settled = raw_key not in moved
            if is_settled and not reader.is_subscribed:
                self._step(reader, key_index, records[0], invoke, event, node, is_drain=is_drain)
            expected = self._walk(key_index, records, event, node, is_settled=is_settled)
            key_index.frontier.saw(expected - 1, event)
            if is_drain:
                key_index.drained_to = max(key_index.drained_to, expected - 1)
            if node is not None:
                key_index.read_on_node.setdefault(node, set()).update(offset for offset, _ in records)
            if reader.is_subscribed or event.type != "ok":
                reader.positions.pop(key, None)
            else:
                reader.positions[key] = _Position(expected, event, "between", node)

    def _step(
        self,
        reader: _Reader,
        key_index: KeyIndex,
        record: tuple[int, str],
        invoke: Event,
        event: Event,
        node: Any,
        *,
        is_drain: bool,
    ) -> None:
        """From where the process stood to the first record of this poll."""
        position = reader.positions.get(key_index.key)
        if position is None:
            return
        offset, value = record
        if offset > position.expected:
            same_node = node if position.kind == "head" or position.node == node else None
            key_index.gaps.append(Gap(position.kind, position.expected - 1, offset, event, position.since, same_node))
        elif offset < position.expected:
            key_index.backward.append(Backward(position.kind, position.expected, offset, value, event, position.since))
        if not is_drain:
            _lag(key_index, position, invoke)

    def _walk(
        self, key_index: KeyIndex, records: list[tuple[int, str]], event: Event, node: Any, *, is_settled: bool
    ) -> int:
        """Through the records of one poll; returns the offset expected next. The hot loop: one look-up per record."""
        self._index.record_count += len(records)
        read_at = key_index.read_at
        expected = records[0][0]
        for offset, value in records:
            if offset == expected:
                expected += 1
            elif offset > expected:
                if is_settled:
                    key_index.gaps.append(Gap("inside", expected - 1, offset, event, event, node))
                expected = offset + 1
            elif is_settled:
                key_index.backward.append(Backward("inside", expected, offset, value, event, event))
            if read_at.get(offset) != value:
                _first_sight(key_index, offset, value, event)
        return expected

    def assign(self, event: Event) -> None:
        """An assign replaces all positions (None keeps the one held), a seek some; "end" gives no position."""
        reader = self._reader(event.process)
        held = {} if event.f == "assign" else reader.positions
        if event.f == "assign":
            reader.is_subscribed = False
        if event.type == "ok" and isinstance(event.value, dict):
            for raw_key, wanted in event.value.items():
                key = full_key(raw_key, event.meta)
                self._index.key(key)
                offset = 0 if wanted in {"beginning", "earliest"} else wanted
                if isinstance(offset, int) and offset >= 0:
                    held[key] = _Position(offset, event, "head")
                elif wanted is None and key in reader.positions:
                    held[key] = reader.positions[key]
                else:
                    held.pop(key, None)
        reader.positions = held

    def subscribe(self, process: str) -> None:
        """From here on partitions come and go by rebalancing."""
        reader = self._reader(process)
        reader.is_subscribed = True
        reader.positions.clear()

    def close(self) -> None:
        """The history ended: a reader that is behind and was given nothing more has lagged until its last poll."""
        for reader in self._readers.values():
            if reader.last_poll is None or reader.last_poll.meta.get("drain"):
                continue
            for key, position in reader.positions.items():
                _lag(self._index.keys[key], position, reader.last_poll)

    def _reader(self, process: str) -> _Reader:
        known = self._readers.get(process)
        if known is None:
            known = self._readers[process] = _Reader()
        return known


def _first_sight(key_index: KeyIndex, offset: int, value: str, event: Event) -> None:
    """A value at an offset where it was not seen before, or a corrupt one."""
    if value.startswith(CORRUPT_PREFIX):
        key_index.corrupt.append((offset, value, event))
        return
    known = key_index.read_at.setdefault(offset, value)
    if known != value:
        others = key_index.conflicts.setdefault(offset, [known])
        if value not in others:
            others.append(value)
    seen_at = key_index.offset_of.get(value)
    if seen_at is None:
        key_index.offset_of[value] = offset
        key_index.first_reader[value] = event
    elif seen_at != offset:
        key_index.duplicates.setdefault(value, {seen_at}).add(offset)
        key_index.offset_of[value] = min(seen_at, offset)


def _keys_named(rebalanced: Any) -> frozenset[str]:
    """The keys of `meta.rebalance`: a list, or lists under `assigned` and `revoked`."""
    parts: Iterable[Any] = rebalanced.values() if isinstance(rebalanced, dict) else (rebalanced,)
    return frozenset(key for part in parts for key in part)


def _lag(key_index: KeyIndex, position: _Position, invoke: Event) -> None:
    """The reader asked at `invoke` from a position that had long stopped to be the newest."""
    stopped_ns = key_index.frontier.stopped_being_newest_ns(position.expected - 1)
    if stopped_ns is None:
        return
    since_ns = max(stopped_ns, position.since.t_ns) if position.kind == "head" else stopped_ns
    if invoke.t_ns - since_ns > key_index.lag_ns:
        key_index.lag_ns = invoke.t_ns - since_ns
        key_index.lag_event = invoke
