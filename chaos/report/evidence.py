"""One anomaly on the page: what it is, why it is illegal, its piece of history, and the brokers' logs around it."""

from __future__ import annotations

import dataclasses

from chaos.report.excerpts import AROUND_NS, Excerpt
from chaos.report.markup import Safe, tag
from chaos.report.reading import Run
from chaos.report.wording import moment, plural, wall_clock
from logcluster.check.checker import rules
from logcluster.check.report import render_event


def anomaly_section(excerpt: Excerpt, run: Run, begin_ns: int) -> Safe:
    """Everything about it; times are wall clock (UTC) and seconds since the run began."""
    anomaly = excerpt.anomaly
    faults = ", ".join(
        f"{fault.number} {fault.kind} of {', '.join(fault.nodes) or fault.role}" for fault in excerpt.faults
    )
    parts = [
        tag("h3", f"{anomaly.name}  {anomaly.key}"),
        tag("p", anomaly.detail),
        tag("p", "Why: ", rules().get(anomaly.name, "no rule of the checker has this name"), class_="soft"),
        tag("p", "Faults in force at these events: ", faults or "none"),
        tag("h3", "History"),
        tag("pre", "\n".join(_events(excerpt, run, begin_ns)) or "its events are not in the history"),
        tag("h3", f"Logs of brokers, ±{AROUND_NS // 1_000_000} ms around each event"),
        tag("pre", "\n".join(_lines(excerpt, run, begin_ns)) or "nothing was logged then, or logs are missing"),
    ]
    if excerpt.is_clock_moved:
        parts.append(
            tag("p", "A fault moved the clock of a broker before: its lines may be missing here.", class_="harm-text")
        )
    return tag("div", *parts, class_="anomaly")


def _clocks(t_ns: int, run: Run, begin_ns: int) -> str:
    if run.begin_wall_ns is None or run.begin_ns is None:
        return moment(t_ns, begin_ns)
    return f"{wall_clock(run.begin_wall_ns + t_ns - run.begin_ns)}  {moment(t_ns, begin_ns):>12}"


def _events(excerpt: Excerpt, run: Run, begin_ns: int) -> list[str]:
    """As the checker prints them, with both clocks before instead of its own."""
    lines = []
    for event in excerpt.events:
        index, _, rest = render_event(dataclasses.replace(event, t_ns=0), excerpt.anomaly).partition(" s  ")
        lines.append(f"{_clocks(event.t_ns, run, begin_ns)}  {index.split()[0]:<7} {rest}")
    if excerpt.events_left_out:
        lines.append(f"and {plural(excerpt.events_left_out, 'event')} more")
    return lines


def _lines(excerpt: Excerpt, run: Run, begin_ns: int) -> list[str]:
    width = max((len(line.broker) for line in excerpt.lines), default=0)
    lines = [
        f"{_clocks(line.t_ns, run, begin_ns)}  {line.broker:<{width}}  {line.text.replace(chr(10), chr(10) + ' ' * 8)}"
        for line in excerpt.lines
    ]
    if excerpt.lines_left_out:
        lines.append(f"and {plural(excerpt.lines_left_out, 'line')} more")
    return lines
