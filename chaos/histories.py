"""Histories of many client processes as one: merged by time, closed where a process was killed, judged by the checker.

All processes of a machine stamp their events by one clock, so an order by time is one in which everything that one
client saw before another one began stands before it. What a killed process left open becomes `info` at the moment of
its last event: it may have been applied, or may be later. Only the last line of a file may be torn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from logcluster.check.checker import check
from logcluster.check.history import (
    Event,
    HistoryFormatError,
    collector_paused,
    iterate_history,
    read_history,
    write_history,
)
from logcluster.check.registry import CheckOptions
from logcluster.check.report import Report

KILLED: Final = "the client process ended before the outcome was known"
INCIDENTS: Final = frozenset({"crash", "internal_error", "undrained"})
TOLERATED: Final = frozenset({"stale-list-offsets"})
"""A leader that wakes from a pause may name the end it knew before it hears that another leads; so does Kafka's."""
LOSSES: Final = frozenset({"lost-write", "unseen", "lost-on-node"})
"""What a run beyond the promised faults may find: data may be gone; what is served is never wrong."""


@dataclass(slots=True)
class _File:
    """One history while it is merged. `renamed`: its processes that have another name in the whole."""

    path: Path
    events: list[Event]
    renamed: dict[str, str]
    indexes: dict[int, int]


def merge(paths: Iterable[Path]) -> list[Event]:
    """All events in order of time, with indexes of their own; completions name their invocations.

    A process that another file has, too, gets the number of its file to its name ("append-0/3#2"). Files that do not
    exist or are empty are of clients that never came to write; they have no events.

    Raises:
        HistoryFormatError: a line, except a torn last one, is no event, or a completion has no invocation; says where.
    """
    with collector_paused():
        files = [_File(path, _read(path), {}, {}) for path in paths]
        _rename_processes(files)
        tagged = [(event, file) for file in files for event in [*file.events, *_closings(file)]]
        tagged.sort(key=lambda entry: entry[0].t_ns)  # Stable: each file keeps its order.
        return [_renumbered(event, file, index) for index, (event, file) in enumerate(tagged)]


def events_of(paths: Iterable[Path]) -> Iterator[Event]:
    """The events of one history after the other, never all at once; as `merge`, but for order, indexes and closings."""
    for path in paths:
        if path.exists():
            yield from iterate_history(path)


def _read(path: Path) -> list[Event]:
    if not path.exists():
        return []
    try:
        # A torn line may end inside of a character.
        with path.open(encoding="utf-8", errors="replace") as lines:
            return read_history(lines)
    except HistoryFormatError as error:
        raise HistoryFormatError(f"{path}: {error}") from error


def _rename_processes(files: Sequence[_File]) -> None:
    taken: set[str] = set()
    for number, file in enumerate(files):
        processes = {event.process for event in file.events}
        file.renamed = {process: f"{process}#{number}" for process in processes & taken}
        taken |= processes


def _closings(file: _File) -> list[Event]:
    """An `info` for each operation of the file that has no outcome."""
    if not file.events:
        return []
    open_operations: dict[int, Event] = {}
    for event in file.events:
        invoked = event.meta.get("invoked")
        if event.type == "invoke":
            open_operations[event.index] = event
        elif invoked is not None and open_operations.pop(invoked, None) is None:
            raise HistoryFormatError(f"{file.path}: event {event.index} completes {invoked}, which is not open")
    last = file.events[-1]
    return [
        replace(begun, index=-1, t_ns=last.t_ns, type="info", error=KILLED, meta=begun.meta | {"invoked": begun.index})
        for begun in open_operations.values()
    ]


def _renumbered(event: Event, file: _File, index: int) -> Event:
    meta = event.meta
    if event.type == "invoke":
        file.indexes[event.index] = index
    elif "invoked" in meta:
        meta = meta | {"invoked": file.indexes[meta["invoked"]]}
    process = file.renamed.get(event.process, event.process)
    return Event(index, event.t_ns, process, event.client, event.type, event.f, event.value, event.error, meta)


def promised_ends(events: Iterable[Event]) -> dict[str, int]:
    """By partition the offset behind the last record that was acknowledged with acks=all, or read.

    For the `ends` of `drain`. Topics whose deletion was tried are left out.
    """
    ends: dict[str, int] = {}
    deleted: set[str] = set()
    for event in events:
        if event.f == "delete_topic" and event.type != "fail":
            deleted.add(event.value)
        elif event.type == "ok" and event.f == "send" and event.meta.get("acks", "all") == "all":
            key, offset, _ = event.value
            if offset is not None:
                ends[key] = max(ends.get(key, 0), offset + 1)
        elif event.type == "ok" and event.f == "poll":
            for key, records in event.value.items():
                if records:
                    ends[key] = max(ends.get(key, 0), records[-1][0] + 1)
    return {key: end for key, end in ends.items() if key.rpartition("-")[0] not in deleted}


def incidents(events: Iterable[Event]) -> list[Event]:
    """What clients met that no check looks at: their own crashes, internal errors of brokers, drains that failed."""
    return [event for event in events if event.f in INCIDENTS]


def without_topics(events: Iterable[Event], topics: Collection[str]) -> list[Event]:
    """The history as if these topics had not been there: after some faults nothing is promised of some topics.

    Indexes stay, so that events still name one another.
    """
    if not topics:
        return list(events)
    kept: list[Event] = []
    for event in events:
        value = event.value
        if event.f == "send":
            if not _is_of(value[0], topics):
                kept.append(event)
        elif isinstance(value, dict) and any(_is_of(key, topics) for key in value):
            kept.append(replace(event, value={key: part for key, part in value.items() if not _is_of(key, topics)}))
        elif isinstance(value, list) and any(_is_of(key, topics) for key in value):
            kept.append(replace(event, value=[key for key in value if not _is_of(key, topics)]))
        else:
            kept.append(event)
    return kept


def _is_of(key: Any, topics: Collection[str]) -> bool:
    return isinstance(key, str) and key.rpartition("-")[0] in topics


def check_history(
    events: Sequence[Event],
    path: Path | None = None,
    *,
    is_promised: bool = True,
    excused_topics: Collection[str] = (),
    tolerated: Collection[str] = (),
    expected: Collection[str] = (),
    unavailability_max_ms: int | None = None,
    realtime_lag_max_ms: int | None = None,
) -> Report:
    """Judge a merged history, as the simulator judges its own.

    Args:
        path: where to write it, as it was judged.
        is_promised: the faults were within the promises: nothing may be lost, and everything must have been drained.
            Otherwise losses are tolerated, and what is served must still be right.
        excused_topics: nothing is promised of these after the faults there were.
        tolerated: more names that are reported apart.
        expected: names that are never tolerated: what a safeguard prevents that was switched off.
        unavailability_max_ms, realtime_lag_max_ms: None measures only.
    """
    names = TOLERATED | frozenset(tolerated) | (frozenset() if is_promised else LOSSES)
    options = CheckOptions(
        drain_required=is_promised,
        tolerated=names - frozenset(expected),
        unavailability_max_ms=unavailability_max_ms,
        realtime_lag_max_ms=realtime_lag_max_ms,
    )
    judged = without_topics(events, excused_topics)
    if path is not None:
        with path.open("w", encoding="utf-8") as file:
            write_history(judged, file)
    return check(judged, options)
