"""The history of a run: what clients asked, what they were told, in one order of time.

Owns the format that the simulator and the chaos suite write and the checker reads: one JSON object a line, `{i, t_ns,
proc, client, type, f, value, err, meta}`, docs/checking.md. Invariants: indexes ascend; one clock stamps every event;
`fail` means that nothing was or ever will be applied (promise P9), every doubt is `info`; a logical process that
completed with `info` is dead and its client goes on under a new one. Source: the history of the Jepsen Kafka
workload.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

EventType = Literal["invoke", "ok", "fail", "info"]
EVENT_TYPES: frozenset[str] = frozenset(get_args(EventType))
COMPLETIONS: frozenset[str] = EVENT_TYPES - {"invoke"}
_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class HistoryFormatError(ValueError):
    """A line is not an event; says which line and why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line: a client began something (`invoke`) or learned how it ended.

    `process` is the logical process (one position, one producer identity), `client` the worker behind it. Values:
    send `[key, offset | None, value]`, poll `{key: [[offset, value], ...]}`, assign `{key: position}`,
    list_offsets `{key: offset}`; a key is `"topic-partition"`.
    """

    index: int
    t_ns: int
    process: str
    client: str
    type: EventType
    f: str
    value: Any
    error: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Collects events as they happen; appends each to `sink` at once, so that a killed run leaves what it saw."""

    def __init__(self, clock_ns: Callable[[], int], sink: TextIO | None = None) -> None:
        self.events: list[Event] = []
        self._clock_ns = clock_ns
        self._sink = sink
        self._open: set[int] = set()
        self._dead: set[str] = set()
        self._processes_of: dict[str, int] = {}

    def new_process(self, client: str) -> str:
        """A fresh logical process of this client; needed at its start and after every `info`."""
        number = self._processes_of.get(client, 0)
        self._processes_of[client] = number + 1
        return f"{client}/{number}"

    def invoke(self, process: str, client: str, f: str, value: Any, **meta: Any) -> int:
        """Notes that an operation begins; returns its index, to be handed to `complete`.

        Several operations of one process may be under way at once (a producer that pipelines). Raises ValueError when
        the process is dead: its client must go on under `new_process`.
        """
        if process in self._dead:
            raise ValueError(f"process {process} ended with an unknown outcome; continue under new_process({client!r})")
        index = self._append(process, client, "invoke", f, value, None, meta)
        self._open.add(index)
        return index

    def complete(self, invoked: int, type: EventType, value: Any, error: str | None = None, **meta: Any) -> None:  # noqa: A002
        """Notes how the operation `invoked` ended; its meta is inherited. Raises ValueError if it ended before."""
        if invoked not in self._open:
            raise ValueError(f"operation {invoked} was never invoked or is complete")
        if type not in COMPLETIONS:
            raise ValueError(f"{type!r} completes nothing")
        self._open.discard(invoked)
        begun = self.events[invoked]
        if type == "info":
            self._dead.add(begun.process)
        merged = {**begun.meta, **meta, "invoked": invoked}
        self._append(begun.process, begun.client, type, begun.f, value, error, merged)

    def _append(
        self,
        process: str,
        client: str,
        event_type: EventType,
        f: str,
        value: Any,
        error: str | None,
        meta: dict[str, Any],
    ) -> int:
        event = Event(len(self.events), self._clock_ns(), process, client, event_type, f, value, error, meta)
        self.events.append(event)
        if self._sink is not None:
            self._sink.write(encode_event(event) + "\n")
        return event.index


def encode_event(event: Event) -> str:
    """One line without its newline; absent error and empty meta are left out."""
    line: dict[str, Any] = {
        "i": event.index,
        "t_ns": event.t_ns,
        "proc": event.process,
        "client": event.client,
        "type": event.type,
        "f": event.f,
        "value": event.value,
    }
    if event.error is not None:
        line["err"] = event.error
    if event.meta:
        line["meta"] = event.meta
    return _encode_json(line)


def decode_event(line: str) -> Event:
    """The event of one line. Raises HistoryFormatError."""
    try:
        raw = json.loads(line)
        if raw["type"] not in EVENT_TYPES:
            raise HistoryFormatError(f"unknown type {raw['type']!r}")
        return Event(
            index=raw["i"],
            t_ns=raw["t_ns"],
            process=raw["proc"],
            client=raw["client"],
            type=raw["type"],
            f=raw["f"],
            value=raw["value"],
            error=raw.get("err"),
            meta=raw.get("meta") or {},
        )
    except HistoryFormatError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryFormatError(f"not an event: {type(error).__name__}: {error}") from error


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic garbage collection inside: histories make millions of objects that all live, and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_history(events: Iterable[Event], file: TextIO) -> None:
    """Writes one line per event."""
    for event in events:
        file.write(encode_event(event) + "\n")


def read_history(source: str | Path | Iterable[str]) -> list[Event]:
    """The events of a file (a path) or of lines. Empty lines are skipped.

    A last line without newline that is no event is what a killed writer leaves and is dropped; any other bad line
    raises HistoryFormatError with its number.
    """
    with collector_paused():
        if isinstance(source, str | Path):
            with Path(source).open(encoding="utf-8") as file:
                return list(_decode_lines(file))
        return list(_decode_lines(source))


def iterate_history(path: str | Path) -> Iterator[Event]:
    """As `read_history` of a file, one event after the other: for histories that are larger than what they are for."""
    # A torn line may end inside of a character.
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        yield from _decode_lines(file)


def _decode_lines(lines: Iterable[str]) -> Iterator[Event]:
    torn: HistoryFormatError | None = None
    for number, line in enumerate(lines, start=1):
        if torn is not None:
            raise torn
        if not line.strip():
            continue
        try:
            event = decode_event(line)
        except HistoryFormatError as error:
            described = HistoryFormatError(f"line {number}: {error}")
            if line.endswith("\n"):
                raise described from error
            torn = described
            continue
        yield event
