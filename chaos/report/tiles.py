"""The four questions everybody asks first, answered in a few words each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chaos.report.analysis import Figures
from chaos.report.facts import done_by_kind
from chaos.report.gaps import UNEXPLAINED
from chaos.report.reading import Record
from chaos.report.wording import count, milliseconds, percent, plural

LOSSES = ("lost-write", "unseen", "lost-on-node", "offset-reassigned", "commit-lost")
"""Anomalies which mean that something acknowledged is gone."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A question, its answer in large, more lines in small; `mood` is fine, harm, doubt or empty."""

    asked: str
    answer: str
    lines: tuple[str, ...]
    mood: str


def tiles_of(record: Record, figures: Figures, counts: Mapping[str, int]) -> list[Tile]:
    """In the order in which they are asked."""
    return [_done(record, figures), _lost(figures, counts), _stopped(figures), _available(record, figures)]


def _done(record: Record, figures: Figures) -> Tile:
    done = done_by_kind(record.faults)
    skipped = sum(fault.status == "skipped" for fault in record.faults)
    failed = sum(fault.status == "failed" for fault in record.faults)
    lines = [", ".join(f"{number} × {kind}" for kind, number in done.items()) or "no fault on record"]
    if skipped or failed:
        lines.append(
            ", ".join(f"{number} {word}" for number, word in ((skipped, "skipped"), (failed, "failed")) if number)
        )
    lines.append(f"{plural(figures.leader_changes, 'new leader')}, {plural(sum(figures.writes_ok), 'acked write')}")
    return Tile(
        "What was done?", plural(sum(done.values()), "fault"), tuple(lines), "" if done and not failed else "doubt"
    )


def _lost(figures: Figures, counts: Mapping[str, int]) -> Tile:
    losses = {name: counts[name] for name in LOSSES if name in counts}
    others = {name: number for name, number in counts.items() if name not in losses}
    told = tuple(f"{name}: {count(number)}" for name, number in {**losses, **others}.items())
    asked = "Was acknowledged data lost?"
    if losses:
        acked = f"of {plural(sum(figures.writes_ok), 'acknowledged write')}"
        return Tile(asked, f"Yes: {count(sum(losses.values()))}", (acked, *told), "harm")
    if not figures.is_drained:
        return Tile(asked, "Unknown", (*told, "nobody read everything at the end"), "harm" if others else "doubt")
    if others:
        return Tile(asked, "No, but other anomalies", told, "harm")
    return Tile(asked, "No", (f"all {count(sum(figures.writes_ok))} acknowledged writes accounted for",), "fine")


def _stopped(figures: Figures) -> Tile:
    asked = "How long did writes stop?"
    longest = figures.longest_gap
    if longest is None:
        return Tile(asked, "Never", ("no gap of 200 ms or longer",), "fine")
    why = "no fault explains it" if longest.kind == UNEXPLAINED else f"with {longest.kind}"
    lines = [f"longest: {longest.key}, {why}" + (", until the end" if longest.is_open else "")]
    lines += [
        f"{line.kind}: p99 {milliseconds(line.worst_p99_ms)}"
        + (f" (bound {milliseconds(line.bound_ms)})" if line.bound_ms else "")
        for line in figures.kinds
        if line.gaps and line.kind != UNEXPLAINED
    ][:4]
    judged = [line.is_met for line in figures.kinds if line.is_met is not None]
    return Tile(
        asked, milliseconds(longest.length_ms), tuple(lines), ("fine" if all(judged) else "harm") if judged else ""
    )


def _available(record: Record, figures: Figures) -> Tile:
    asked = "Write availability, worst partition"
    rates = figures.availabilities
    if not rates:
        return Tile(asked, "not probed", (), "doubt")
    bound = record.run.bounds.availability_min
    bad = sum(part.bad for part in figures.partitions.values())
    total = bad + sum(part.good for part in figures.partitions.values())
    lines = (
        f"mean {percent((total - bad) / total)}, {count(bad)} of {count(total)} seconds bad",
        "probe each second, answer within 1 s" + (f"; bound {percent(bound)}" if bound is not None else ""),
    )
    return Tile(asked, percent(rates[0]), lines, "" if bound is None else "fine" if rates[0] >= bound else "harm")
