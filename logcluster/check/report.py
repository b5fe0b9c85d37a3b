"""What a check says: anomalies with the piece of history that shows them, and metrics; as text or as data.

Owns the words and the layout. A poll's value is cut down to the records around the offsets an anomaly is about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from logcluster.check.entries import full_key, poll_parts
from logcluster.check.history import Event
from logcluster.check.registry import Anomaly

_EVENTS_SHOWN = 12
_VALUE_CHARACTERS = 160
_RECORDS_SHOWN = 8


@dataclass(frozen=True)
class Report:
    """The result: `anomalies` fail the run, `tolerated` are of names the options allow, `counts` are exact totals."""

    anomalies: list[Anomaly]
    tolerated: list[Anomaly]
    counts: dict[str, int]
    metrics: dict[str, Any]
    rules: dict[str, str] = field(repr=False)
    events: dict[int, Event] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Nothing illegal was found."""
        return not self.anomalies

    @property
    def names(self) -> list[str]:
        """The distinct names of the anomalies, sorted."""
        return sorted({anomaly.name for anomaly in self.anomalies})

    def render(self) -> str:
        """Text for people: a verdict, then each anomaly with why, what and its events."""
        lines = [self._verdict()]
        for title, anomalies in (("", self.anomalies), ("tolerated: ", self.tolerated)):
            for anomaly in anomalies:
                lines += ["", *self._render_anomaly(title, anomaly)]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same as data that JSON can hold."""
        return {
            "passed": self.passed,
            "counts": dict(sorted(self.counts.items())),
            "anomalies": [self._anomaly_dict(anomaly) for anomaly in self.anomalies],
            "tolerated": [self._anomaly_dict(anomaly) for anomaly in self.tolerated],
            "metrics": self.metrics,
        }

    def _verdict(self) -> str:
        size = f"{self.metrics.get('events', 0)} events, {self.metrics.get('records_polled', 0)} records polled"
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{'passed' if self.passed else 'FAILED'}: {counted or 'no anomaly'} in {size}"

    def _anomaly_dict(self, anomaly: Anomaly) -> dict[str, Any]:
        return {
            "name": anomaly.name,
            "key": anomaly.key,
            "why": self.rules[anomaly.name],
            "detail": anomaly.detail,
            "events": list(anomaly.events),
            "offsets": list(anomaly.offsets),
        }

    def _render_anomaly(self, title: str, anomaly: Anomaly) -> list[str]:
        lines = [f"{title}{anomaly.name}  {anomaly.key}".rstrip()]
        lines += [f"  why:  {self.rules[anomaly.name]}", f"  what: {anomaly.detail}"]
        for number in anomaly.events[:_EVENTS_SHOWN]:
            event = self.events.get(number)
            if event is not None:
                lines.append("  " + render_event(event, anomaly))
        if len(anomaly.events) > _EVENTS_SHOWN:
            lines.append(f"  and {len(anomaly.events) - _EVENTS_SHOWN} events more")
        return lines


def render_event(event: Event, anomaly: Anomaly) -> str:
    """One line: index, time in seconds, process, type, operation, value, error."""
    error = f"  ({event.error})" if event.error else ""
    head = f"#{event.index:<6} {event.t_ns / 1e9:>10.3f} s  {event.process:<16} {event.type:<6} {event.f:<12}"
    return f"{head} {_render_value(event, anomaly)}{error}"


def _render_value(event: Event, anomaly: Anomaly) -> str:
    if event.type != "invoke" and event.f == "poll" and isinstance(event.value, dict):
        return _render_records(event, anomaly)
    text = json.dumps(event.value, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"


def _render_records(event: Event, anomaly: Anomaly) -> str:
    """The records of the anomaly's key nearest to its offsets."""
    parts = []
    for raw_key, records in poll_parts(event):
        if anomaly.key and full_key(raw_key, event.meta) != anomaly.key:
            continue
        near = [
            number
            for number, (offset, _) in enumerate(records)
            if any(abs(offset - wanted) <= 1 for wanted in anomaly.offsets)
        ][:_RECORDS_SHOWN] or list(range(min(3, len(records))))
        shown: list[str] = []
        last = -1
        for number in near:
            if number != last + 1:
                shown.append("…")
            shown.append(f"{records[number][0]}:{records[number][1]}")
            last = number
        if last != len(records) - 1:
            shown.append("…")
        parts.append(f"{raw_key} [{' '.join(shown)}] of {len(records)}")
    return "; ".join(parts) or "nothing"
