"""What belongs to one anomaly: its events, the faults in force, and what brokers logged around it.

Log lines are placed on the run's clock by the pair of clocks in run.json: a broker's log tells wall time. They belong
to an anomaly when they lie within `AROUND_NS` of one of its events. Lines without a time (a traceback) belong to the
line before them.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chaos.report.cluster import Fault
from logcluster.check.history import Event
from logcluster.check.registry import Anomaly

AROUND_NS = 200_000_000
LINES_MAX = 80
EVENTS_MAX = 40
_CONTINUATION_LINES_MAX = 20
_LINE_CHARACTERS_MAX = 600
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a broker's log, at `t_ns` of the run's clock."""

    broker: str
    t_ns: int
    text: str


@dataclass(slots=True)
class Excerpt:
    """All that the page shows of an anomaly. What was left out for length is counted."""

    anomaly: Anomaly
    events: list[Event]
    events_left_out: int = 0
    lines: list[LogLine] = field(default_factory=list)
    lines_left_out: int = 0
    faults: list[Fault] = field(default_factory=list)
    is_clock_moved: bool = False
    """A fault moved the clock of a broker, so lines may stand at the wrong place or be missing."""


class Windows:
    """Spans of time, merged."""

    def __init__(self, moments_ns: Iterable[int]) -> None:
        self.spans: list[tuple[int, int]] = []
        for t_ns in sorted(moments_ns):
            begin_ns, last_ns = t_ns - AROUND_NS, t_ns + AROUND_NS
            if self.spans and begin_ns <= self.spans[-1][1]:
                self.spans[-1] = (self.spans[-1][0], last_ns)
            else:
                self.spans.append((begin_ns, last_ns))

    def __contains__(self, t_ns: int) -> bool:
        number = bisect_right(self.spans, t_ns, key=lambda span: span[0]) - 1
        return number >= 0 and t_ns <= self.spans[number][1]


def make_excerpts(
    anomalies: Sequence[Anomaly],
    events: Mapping[int, Event],
    faults: Sequence[Fault],
    logs: Mapping[str, Path],
    *,
    wall_ahead_ns: int | None,
) -> list[Excerpt]:
    """An excerpt for each anomaly.

    Args:
        logs: broker -> its log.
        wall_ahead_ns: wall clock minus the run's clock; None leaves the logs out.
    """
    excerpts = []
    for anomaly in anomalies:
        found = [events[index] for index in anomaly.events if index in events]
        excerpts.append(Excerpt(anomaly, found[:EVENTS_MAX], max(0, len(found) - EVENTS_MAX)))
    for excerpt in excerpts:
        moments = [event.t_ns for event in excerpt.events]
        excerpt.faults = [fault for fault in faults if any(fault.in_force_at(t_ns) for t_ns in moments)]
        excerpt.is_clock_moved = any(
            fault.kind == "clock-jump" and fault.status == "done" and fault.begin_ns <= max(moments, default=0)
            for fault in faults
        )
    if wall_ahead_ns is not None:
        _add_lines(excerpts, logs, wall_ahead_ns)
    return excerpts


def _add_lines(excerpts: Sequence[Excerpt], logs: Mapping[str, Path], wall_ahead_ns: int) -> None:
    windows = [Windows(event.t_ns for event in excerpt.events) for excerpt in excerpts]
    anywhere = Windows(event.t_ns for excerpt in excerpts for event in excerpt.events)
    lines: list[LogLine] = []
    for broker, path in sorted(logs.items()):
        lines += (line for line in read_log(broker, path, wall_ahead_ns) if line.t_ns in anywhere)
    lines.sort(key=lambda line: line.t_ns)
    for excerpt, window in zip(excerpts, windows, strict=True):
        chosen = [line for line in lines if line.t_ns in window]
        excerpt.lines, excerpt.lines_left_out = chosen[:LINES_MAX], max(0, len(chosen) - LINES_MAX)


def read_log(broker: str, path: Path, wall_ahead_ns: int) -> Iterator[LogLine]:
    """The lines of a log that tell a time, each with those that follow it without one."""
    current: list[str] = []
    t_ns = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            wall_ns = time_of(line)
            if wall_ns is None:
                if current and len(current) <= _CONTINUATION_LINES_MAX:
                    current.append(line.rstrip()[:_LINE_CHARACTERS_MAX])
                continue
            if current:
                yield LogLine(broker, t_ns, "\n".join(current))
            current, t_ns = [_readable(line.rstrip())], wall_ns - wall_ahead_ns
    if current:
        yield LogLine(broker, t_ns, "\n".join(current))


def time_of(line: str) -> int | None:
    """The wall clock of a line, in nanoseconds since 1970: its `timestamp`, or what it begins with."""
    start = line.find('"timestamp":') if line.startswith("{") else 0
    found = _TIMESTAMP.search(line, start, start + 60) if start >= 0 else None
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found.group())
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // _MICROSECOND * 1000


def _readable(line: str) -> str:
    """Level, event, then the other fields."""
    try:
        raw = json.loads(line) if line.startswith("{") else None
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        return line[:_LINE_CHARACTERS_MAX]
    level, event = str(raw.pop("level", "")), str(raw.pop("event", ""))
    for name in ("timestamp", "node"):
        raw.pop(name, None)
    facts = " ".join(f"{name}={value}" for name, value in raw.items())
    return f"{level:<7} {event}  {facts}".rstrip()[:_LINE_CHARACTERS_MAX]


def find_logs(nodes: Path) -> dict[str, Path]:
    """Broker -> node.log, for every directory of nodes."""
    return {path.parent.relative_to(nodes).as_posix(): path for path in sorted(nodes.rglob("node.log"))}
