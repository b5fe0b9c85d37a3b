"""Builds the index of a history in one pass over its events.

Owns pairing (a completion names its invocation in `meta.invoked`, else it ends its process's latest open operation),
the writes, and what was known when an operation began (for real-time checks); readers.py owns the reading side,
group_build.py what concerns groups. A send without a completion counts as `info`. Only acks=all puts an acknowledged
offset into the index: weaker acknowledgements promise nothing about where, or whether, a record stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logcluster.check.entries import Index, KeyIndex, Operation, StaleEnd, Transaction, Write, full_key, topic_of
from logcluster.check.group_build import GROUP_OPERATIONS, build_groups
from logcluster.check.group_entries import MARKS
from logcluster.check.history import Event
from logcluster.check.readers import Readers

DATA_OPERATIONS = frozenset({"send", "poll", "txn"})
PAIRED_OPERATIONS = DATA_OPERATIONS | {"list_offsets"} | (GROUP_OPERATIONS - MARKS)
_ACKS_ALL = frozenset({"all", "-1", -1})
_DELETED_BEFORE_THE_RUN = -1


@dataclass(slots=True)
class _Open:
    """An operation under way, with what was known when it began."""

    invoke: Event
    writes: list[Write]
    transaction: Transaction | None = None
    ends: dict[str, tuple[int, Event]] | None = None


class _Builder:
    def __init__(self, events: Sequence[Event]) -> None:
        self.index = Index(list(events))
        self._readers = Readers(self.index)
        self._open: dict[int, _Open | Write] = {}
        self._latest_open: dict[str, int] = {}
        self._dead: set[str] = set()

    def build(self) -> Index:
        last_index, last_ns = -1, 0
        for event in self.index.events:
            if event.index <= last_index or event.t_ns < last_ns:
                self.index.malformed.append(("its index or time is not above the one before", event))
            last_index, last_ns = event.index, event.t_ns
            if event.type == "invoke":
                self._invoke(event)
            else:
                self._complete(event)
        for left in self._open.values():
            if isinstance(left, _Open):
                self._never_completed(left)
        if self.index.events:
            self._close(self.index.events[-1])
        build_groups(self.index)
        return self.index

    # -- pairing

    def _invoke(self, event: Event) -> None:
        if event.f in DATA_OPERATIONS and event.process in self._dead:
            self.index.malformed.append(("its process had ended with an unknown outcome", event))
        self._latest_open[event.process] = event.index
        if event.f == "send":
            sends = sends_of(event.value)
            if len(sends) == 1:  # The common case, kept light.
                self._open[event.index] = self._begin_write(event, *sends[0])
                return
            begun = _Open(event, [self._begin_write(event, *send) for send in sends])
        elif event.f == "txn":
            transaction = Transaction(event)
            transaction.writes = [self._begin_write(event, *send, transactional=True) for send in txn_sends(event)]
            self.index.transactions.append(transaction)
            begun = _Open(event, transaction.writes, transaction)
        else:
            begun = _Open(event, [])
            if event.f == "list_offsets":
                begun.ends = self._known_ends(event)
        self._open[event.index] = begun

    def _complete(self, event: Event) -> None:
        invoked = event.meta.get("invoked")
        if invoked is None:
            invoked = -1 if event.f in MARKS else self._latest_open.get(event.process, -1)
        begun = self._open.pop(invoked, None)
        if event.type == "info":
            self._dead.add(event.process)
        if isinstance(begun, Write):
            if event.f == "send":
                self._end_write(begun, event, next(iter(sends_of(event.value)), None))
                return
            begun = _Open(begun.invoke, [begun])
        if begun is not None and begun.invoke.f != event.f:
            self.index.malformed.append((f"it completes event {invoked}, which is another operation", event))
            return
        if begun is None:
            if event.f in PAIRED_OPERATIONS:
                self.index.malformed.append(("it completes nothing", event))
                return
            begun = _Open(event, [])
        if event.f == "send":
            self._end_writes(begun.writes, event, sends_of(event.value))
        elif event.f == "poll":
            self._note_member(begun.invoke, event)
            self._readers.poll(begun.invoke, event)
        elif event.f == "txn":
            self._end_transaction(begun, event)
        else:
            self._other(begun, event)

    def _never_completed(self, begun: _Open) -> None:
        if begun.invoke.f not in DATA_OPERATIONS:
            self.index.operations.setdefault(begun.invoke.f, []).append(Operation(begun.invoke, None))
            self._deletions(begun.invoke, begun.invoke)

    # -- writes

    def _begin_write(
        self, event: Event, raw_key: str, offset: int | None, value: str, *, transactional: bool = False
    ) -> Write:
        key = full_key(raw_key, event.meta)
        key_index = self.index.keys.get(key) or self.index.key(key)
        frontier = key_index.frontier
        meta = event.meta
        acks_all = meta.get("acks", "all") in _ACKS_ALL
        idempotent = acks_all and bool(meta.get("idempotent", True))
        write = Write(key, value, event, acks_all, idempotent, frontier.highest_acked)
        write.is_transactional = transactional
        known = self.index.writes.setdefault(value, write)
        if known is not write:
            self.index.malformed.append(
                (f"value {value!r} is sent a second time (first: #{known.invoke.index})", event)
            )
        key_index.writes.append(write)
        frontier.pending += 1
        if frontier.waiting_since_ns is None:
            frontier.waiting_since_ns = event.t_ns
        return write

    def _end_writes(self, writes: list[Write], event: Event, sends: list[tuple[str, int | None, str]]) -> None:
        answers = {send[2]: send for send in sends}
        for write in writes:
            self._end_write(write, event, answers.get(write.value))

    def _end_write(self, write: Write, event: Event, answer: tuple[str, int | None, str] | None) -> None:
        write.completion = event
        write.outcome = event.type
        key_index = self.index.keys[write.key]
        key_index.frontier.pending -= 1
        if event.type != "ok":
            return
        if answer is None or answer[2] != write.value or full_key(answer[0], event.meta) != write.key:
            self.index.malformed.append((f"it does not say where {write.value!r} went in {write.key}", event))
            return
        offset = write.offset = answer[1]
        key_index.took_a_write(event)
        if offset is not None and write.is_acks_all:
            self._acknowledged(key_index, write, offset, event)

    def _acknowledged(self, key_index: KeyIndex, write: Write, offset: int, event: Event) -> None:
        frontier = key_index.frontier
        known = key_index.acked_at.setdefault(offset, write)
        if known.value != write.value:
            key_index.acked_twice.append((known, write))
        floor = write.floor
        if floor is not None and floor.offset is not None and offset < floor.offset:
            key_index.overtaken.append(write)
        highest = frontier.highest_acked
        if highest is None or highest.offset is None or offset > highest.offset:
            frontier.highest_acked = write
        if not write.is_transactional:
            frontier.saw(offset, event)

    def _end_transaction(self, begun: _Open, event: Event) -> None:
        transaction = begun.transaction
        if transaction is None:
            return
        self._note_member(begun.invoke, event)
        transaction.completion, transaction.outcome = event, event.type
        sends = txn_sends(event)
        begun_values = {write.value for write in transaction.writes}
        for send in sends:
            if send[2] not in begun_values:
                transaction.writes.append(self._begin_write(begun.invoke, *send, transactional=True))
        self._end_writes(transaction.writes, event, sends)
        for kind, argument in event.value or ():
            if kind == "poll" and isinstance(argument, dict):
                self._readers.records(begun.invoke, event, argument)
                for raw_key, records in argument.items():
                    key = full_key(raw_key, event.meta)
                    transaction.reads.extend((key, offset, value) for offset, value in records)

    # -- everything else

    def _note_member(self, invoke: Event, event: Event) -> None:
        """When a member of a group polls, partitions come to it and go, so its positions are the group's business."""
        if "group" in event.meta:
            self.index.group_polls.append(Operation(invoke, event))
            self._readers.subscribe(event.process)

    def _other(self, begun: _Open, event: Event) -> None:
        self.index.operations.setdefault(event.f, []).append(Operation(begun.invoke, event))
        if event.f in {"assign", "seek"}:
            self._readers.assign(event)
        elif event.f == "subscribe":
            self._readers.subscribe(event.process)
        elif event.f == "list_offsets":
            self._list_offsets(begun, event)
        else:
            self._deletions(begun.invoke, event)

    def _known_ends(self, event: Event) -> dict[str, tuple[int, Event]]:
        """The ends that a list_offsets beginning now must not fall behind; of the keys it names, or of all."""
        asked = event.value
        names = [full_key(key, event.meta) for key in asked] if isinstance(asked, dict | list) else self.index.keys
        ends = {}
        for name in names:
            known = self.index.keys.get(name)
            if known is not None and known.frontier.end_evidence is not None:
                ends[name] = (known.frontier.end, known.frontier.end_evidence)
        return ends

    def _list_offsets(self, begun: _Open, event: Event) -> None:
        if event.type != "ok" or not isinstance(event.value, dict):
            return
        if event.meta.get("spec", "latest") != "latest" or event.meta.get("isolation") == "read_committed":
            return
        for raw_key, end in event.value.items():
            if not isinstance(end, int):
                continue
            key = full_key(raw_key, event.meta)
            key_index = self.index.key(key)
            known = (begun.ends or {}).get(key)
            if known is not None and end < known[0]:
                key_index.stale_ends.append(StaleEnd(end, known[0], event, known[1]))

    def _deletions(self, invoke: Event, event: Event) -> None:
        """Deleting counts from its invocation, unless it was certainly refused."""
        if event.type == "fail":
            return
        if event.f == "delete_records" and isinstance(event.value, dict):
            since = _DELETED_BEFORE_THE_RUN if event.meta.get("retention") else invoke.index
            for raw_key, low in event.value.items():
                if isinstance(low, int):
                    self.index.key(full_key(raw_key, event.meta)).deletions.append((since, low))
        elif event.f == "delete_topic":
            topics = [event.value] if isinstance(event.value, str) else event.value or ()
            for topic in topics:
                name = topic_of(full_key(f"{topic}-0", event.meta))
                self.index.deleted_topics.setdefault(name, invoke)

    def _close(self, last: Event) -> None:
        """What was still waited for when the history ended."""
        for key_index in self.index.keys.values():
            if key_index.frontier.waiting_since_ns is not None:
                key_index.took_a_write(last)
        self._readers.close()


def build_index(events: Sequence[Event]) -> Index:
    """The index of a whole history, whose events must be in order of time."""
    return _Builder(events).build()


def sends_of(value: Any) -> list[tuple[str, int | None, str]]:
    """The sends of a send operation: one `[key, offset, value]`, or a list of them."""
    if not value:
        return []
    if isinstance(value[0], str):
        return [value]
    return [(key, offset, sent) for key, offset, sent in value]


def txn_sends(event: Event) -> list[tuple[str, int | None, str]]:
    """The sends among the micro-operations `["send", [key, offset, value]]` of a transaction."""
    return [(send[0], send[1], send[2]) for kind, send in event.value or () if kind == "send"]
