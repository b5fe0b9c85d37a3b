"""Turns events into operations: who asked what of which partitions, from when to when, and how it ended.

One pass, so that a history of hours is streamed; only the events that anomalies name are kept whole. Marks and what a
client does by itself (`assign`, `revoked`, ...) take no time and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Set as AbstractSet
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Literal, NamedTuple

from logcluster.check.history import Event

PROBE_PREFIX = "probe"
"""Clients whose name begins so write once a second to every partition; availability is made of what they are told."""

DRAIN = "drain"
"""The operation of polls that read everything at the end; what they return is not part of the load."""
_TIMELESS = frozenset({"assign", "seek", "subscribe", "assigned", "revoked", "lost"})
Outcome = Literal["ok", "fail", "info", "open"]


class Operation(NamedTuple):
    """One question and its answer.

    `outcome`: ok, fail (certainly nothing was applied), info (unknown), open (never completed; `end_ns` is then the
    last sign of life of its process). `keys` are the partitions written to, empty unless it is a write. `records`:
    how many were written or returned.
    """

    begin_ns: int
    end_ns: int
    client: str
    process: str
    f: str
    keys: tuple[str, ...]
    outcome: Outcome
    records: int
    is_weak: bool
    """Asked for no acknowledgement (acks=0), so that its success says nothing about a partition."""

    @property
    def is_probe(self) -> bool:
        return self.client.startswith(PROBE_PREFIX)

    @property
    def is_unknown(self) -> bool:
        return self.outcome in {"info", "open"}


@dataclass
class Operations:
    """All operations of a history, in order of their end, those without one last."""

    items: list[Operation] = field(default_factory=list)
    events: dict[int, Event] = field(default_factory=dict)
    """Those that were wanted whole, by index."""
    count: int = 0
    """Of events."""
    first_ns: int | None = None
    last_ns: int | None = None
    is_drained: bool = False
    """Somebody read at the end, to see what is left."""


def collect_operations(events: Iterable[Event], wanted: AbstractSet[int] = frozenset()) -> Operations:
    """The operations of events in order of time; `wanted` are indexes of events to keep."""
    result = Operations()
    under_way: dict[int, tuple[Event, tuple[str, ...]]] = {}
    seen_ns: dict[str, int] = {}
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for event in events:
        result.count += 1
        if result.first_ns is None:
            result.first_ns = event.t_ns
        result.last_ns = event.t_ns
        process = intern(str(event.process))
        seen_ns[process] = event.t_ns
        if event.index in wanted:
            result.events[event.index] = event
        if event.f in _TIMELESS:
            continue
        if event.type == "invoke":
            keys = keys_written(event)
            under_way[event.index] = (event, known.setdefault(keys, keys))
            continue
        if event.f == "poll" and event.type == "ok" and event.meta.get("drain"):
            result.is_drained = True
        begun = under_way.pop(event.meta.get("invoked", -1), None)
        if begun is not None:
            result.items.append(_operation(begun, event.t_ns, event.type, records_of(event)))
    for begun in under_way.values():
        end_ns = seen_ns[intern(str(begun[0].process))]
        result.items.append(_operation(begun, end_ns, "open", 0))
    return result


def _operation(begun: tuple[Event, tuple[str, ...]], end_ns: int, outcome: Outcome, records: int) -> Operation:
    invoke, keys = begun
    return Operation(
        invoke.t_ns,
        end_ns,
        intern(str(invoke.client)),
        intern(str(invoke.process)),
        DRAIN if invoke.meta.get("drain") else intern(str(invoke.f)),
        keys,
        outcome,
        records,
        invoke.meta.get("acks") == 0,
    )


def keys_written(event: Event) -> tuple[str, ...]:
    """The partitions that a send or a transaction writes to, each once, in order."""
    found = dict.fromkeys(str(send[0]) for send in _sends(event) if isinstance(send, list | tuple) and send)
    return tuple(map(intern, found))


def records_of(event: Event) -> int:
    """How many records a completed send wrote, or a poll returned."""
    if event.f == "poll" and isinstance(event.value, dict):
        return sum(len(records) for records in event.value.values() if isinstance(records, list))
    return len(_sends(event))


def _sends(event: Event) -> list[Any]:
    value = event.value
    if not isinstance(value, list | tuple) or not value:
        return []
    if event.f == "send":
        return list(value) if isinstance(value[0], list | tuple) else [value]
    if event.f == "txn":
        return [part[1] for part in value if isinstance(part, list | tuple) and len(part) == 2 and part[0] == "send"]
    return []
