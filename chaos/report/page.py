"""The page of a run: one self-contained HTML file, in the order in which people ask.

What was done, was data lost, how long did writes stop (banner and tiles); when (timeline); the figures (tables); the
evidence (anomalies with their piece of history and the brokers' logs); what is missing; how to do it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.report.analysis import Figures
from chaos.report.evidence import anomaly_section
from chaos.report.excerpts import Excerpt
from chaos.report.markup import Safe, style_sheet, tag
from chaos.report.reading import Record
from chaos.report.tables import client_section, fault_section, gap_section, partition_section
from chaos.report.tiles import Tile, tiles_of
from chaos.report.timeline import timeline
from chaos.report.wording import count, duration, plural, wall_date
from logcluster.check.history import Event
from logcluster.check.registry import Anomaly

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CLASSES = {
    "passed": "fine",
    "caught": "fine",
    "anomalies": "harm",
    "missed": "harm",
    "bounds": "doubt",
    "invalid": "doubt",
}
_WORDS = {
    "passed": "Passed",
    "caught": "Passed: the missing safeguard was caught",
    "anomalies": "Failed: anomalies",
    "missed": "Failed: the missing safeguard was not caught",
    "bounds": "Failed: bounds missed",
    "invalid": "No verdict: the run did not do what it says",
}


@dataclass(frozen=True, slots=True)
class PageParts:
    """What a page is made of. `excerpts` are of the first of `anomalies`; `plots` file names, or empty."""

    record: Record
    figures: Figures
    verdict: str
    reasons: Sequence[str]
    counts: Mapping[str, int]
    anomalies: Sequence[Anomaly]
    excerpts: Sequence[Excerpt]
    plots: Sequence[str]


def render_page(parts: PageParts) -> str:
    """The whole file."""
    run, figures = parts.record.run, parts.figures
    sections = [
        _banner(parts),
        tag("div", *(_tile(tile) for tile in tiles_of(parts.record, figures, parts.counts)), class_="tiles"),
        _facts(parts),
        tag("h2", "Timeline"),
        timeline(figures, parts.record.faults, _brokers(parts.record), _marks(parts.excerpts)).svg(
            "timeline of the run"
        ),
        *_anomalies(parts),
        *gap_section(figures),
        *partition_section(figures),
        *client_section(figures),
        *fault_section(parts.record, figures),
        *_missing(parts),
        tag("h2", "Again"),
        tag("pre", run.command or f"python -m chaos run {run.scenario} --target {run.target} --seed {run.seed}"),
    ]
    return document(f"{run.scenario}: {parts.verdict}", sections)


def document(title: str, sections: Sequence[Safe]) -> str:
    """A page with the style of reports; browsers are told to load nothing for it."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width"),
        tag("title", title),
        style_sheet(_STYLE.read_text(encoding="utf-8")),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *sections), lang='en')}\n"


def _banner(parts: PageParts) -> Safe:
    run = parts.record.run
    reasons = [tag("li", reason) for reason in parts.reasons[:8]]
    if len(parts.reasons) > 8:
        reasons.append(tag("li", f"and {len(parts.reasons) - 8} more, in result.json"))
    return tag(
        "div",
        tag("div", _WORDS[parts.verdict], class_="verdict"),
        tag("h1", run.scenario),
        tag("p", run.description),
        *([tag("ul", *reasons)] if reasons else []),
        class_=f"banner {_CLASSES[parts.verdict]}",
    )


def _tile(tile: Tile) -> Safe:
    return tag(
        "div",
        tag("div", tile.asked, class_="asked"),
        tag("div", tile.answer, class_="answer"),
        *(tag("div", line) for line in tile.lines),
        class_=f"tile {tile.mood}",
    )


def _facts(parts: PageParts) -> Safe:
    run, figures = parts.record.run, parts.figures
    length = duration(figures.scale.end_ns - figures.scale.begin_ns)
    began = "unknown" if run.begin_wall_ns is None else f"{wall_date(run.begin_wall_ns)}, {length}"
    pairs = [
        ("Target", f"{run.target}, {plural(len(run.brokers), 'broker')}" if run.brokers else run.target),
        ("Seed", run.seed),
        ("Began", began),
        ("Machine", run.machine),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "unknown"),
        (
            "Operations",
            f"{count(figures.total('ok'))} acknowledged, {count(figures.total('fail'))} failed, "
            f"{count(figures.total('unknown'))} unknown",
        ),
    ]
    if run.ablations:
        pairs.append(("Switched off", ", ".join(run.ablations)))
    return tag("dl", *(part for name, fact in pairs for part in (tag("dt", name), tag("dd", fact))), class_="facts")


def _brokers(record: Record) -> list[str]:
    if record.run.brokers:
        return list(record.run.brokers)
    return sorted({node for fault in record.faults for node in fault.nodes if node.isdecimal()}, key=int)


def _marks(excerpts: Sequence[Excerpt]) -> list[tuple[str, Event]]:
    """Where anomalies are drawn: at the last write they name, or else at their last event."""
    marks = []
    for excerpt in excerpts:
        writes = [event for event in excerpt.events if event.f == "send"]
        if excerpt.events:
            marks.append((excerpt.anomaly.name, (writes or excerpt.events)[-1]))
    return marks


def _anomalies(parts: PageParts) -> Iterator[Safe]:
    if not parts.anomalies:
        return
    yield tag("h2", f"Anomalies ({count(sum(parts.counts.values()))})")
    for excerpt in parts.excerpts:
        yield anomaly_section(excerpt, parts.record.run, parts.figures.scale.begin_ns)
    left_out = sum(parts.counts.values()) - len(parts.excerpts)
    if left_out > 0:
        yield tag("p", f"{plural(left_out, 'more anomaly', 'more anomalies')} are not shown; result.json counts all.")


def _missing(parts: PageParts) -> Iterator[Safe]:
    if parts.record.notes:
        yield tag("h2", "What this report does without")
        yield tag("ul", *(tag("li", note) for note in parts.record.notes))
    if parts.plots:
        yield tag("p", f"The same pictures as files: {', '.join(parts.plots)}.", class_="soft")
