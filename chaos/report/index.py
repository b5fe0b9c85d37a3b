"""The index over many runs: scenarios and verdicts with their gaps, worst first; links to the page of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chaos.report.colours import colour_of
from chaos.report.gaps import UNEXPLAINED, percentile
from chaos.report.markup import Safe, number_cell, table, tag
from chaos.report.page import document
from chaos.report.wording import count, duration, milliseconds, percent, plural

_MOODS = {
    "passed": "fine",
    "caught": "fine",
    "anomalies": "harm",
    "missed": "harm",
    "bounds": "doubt",
    "invalid": "doubt",
}
_WORDS = {
    "anomalies": "with anomalies",
    "bounds": "with missed bounds",
    "missed": "missed a safeguard",
    "invalid": "without verdict",
}
_ORDER = ("anomalies", "missed", "invalid", "bounds", "unreadable", "passed", "caught")


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of the index: where it lies, and what its result.json holds."""

    path: str
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        verdict = self.facts.get("verdict")
        return verdict if isinstance(verdict, str) and verdict in _MOODS else "unreadable"

    @property
    def name(self) -> str:
        return str(self.facts.get("scenario", self.path))


def write_index(directory: Path) -> Path:
    """Write index.html over every result.json below `directory`; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    entries = sorted(_entries(directory), key=lambda entry: (_ORDER.index(entry.verdict), entry.name, entry.path))
    page = directory / "index.html"
    page.write_text(render_index(entries), encoding="utf-8")
    return page


def _entries(directory: Path) -> Iterator[Entry]:
    for path in directory.rglob("result.json"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            facts = None
        where = path.parent.relative_to(directory).as_posix()
        yield Entry(where, facts if isinstance(facts, dict) else {})


def render_index(entries: Sequence[Entry]) -> str:
    """The whole file."""
    failed = [entry for entry in entries if _MOODS.get(entry.verdict) != "fine"]
    sections = [
        _banner(entries, failed),
        tag("h2", "Runs, worst first"),
        table(
            [
                "Scenario",
                "target",
                "seed",
                "verdict",
                "why",
                "faults",
                "skipped",
                "acked writes",
                "available",
                "longest gap",
                "p99 by kind",
            ],
            [_row(entry) for entry in entries],
        ),
        tag("h2", "How long writes stopped, over all runs"),
        *_gaps(entries),
    ]
    return document(f"{plural(len(entries), 'run')}, {len(failed)} not passed", sections)


def _banner(entries: Sequence[Entry], failed: Sequence[Entry]) -> Safe:
    verdicts = {verdict: sum(entry.verdict == verdict for entry in entries) for verdict in _ORDER}
    told = ", ".join(f"{number} {_WORDS.get(verdict, verdict)}" for verdict, number in verdicts.items() if number)
    acked = sum(_number(entry, "operations", "writes_ok") for entry in entries)
    length_ms = sum(_number(entry, "duration_ms") for entry in entries)
    anomalies: dict[str, int] = {}
    for entry in entries:
        if entry.verdict == "anomalies":
            for name, number in _mapping(entry.facts.get("anomaly_counts")).items():
                anomalies[name] = anomalies.get(name, 0) + (number if isinstance(number, int) else 0)
    mood = (
        "fine"
        if entries and not failed
        else "harm"
        if any(_MOODS.get(run.verdict) == "harm" for run in failed)
        else "doubt"
    )
    harm = ", ".join(f"{name}: {number}" for name, number in sorted(anomalies.items()))
    return tag(
        "div",
        tag("div", "All passed" if mood == "fine" else "Not all passed", class_="verdict"),
        tag("h1", f"{plural(len(entries), 'run')}: {told or 'none'}"),
        tag(
            "p",
            f"{duration(length_ms * 1_000_000)} of runs, {plural(acked, 'acknowledged write')}. ",
            f"Anomalies: {harm or 'none'}.",
        ),
        class_=f"banner {mood}",
    )


def _row(entry: Entry) -> list[str]:
    facts = entry.facts
    faults = _mapping(facts.get("faults"))
    reasons = facts.get("reasons")
    kinds = [line for line in _sequence(facts.get("gaps_by_kind")) if isinstance(line, dict) and line.get("gaps")]
    href = quote("/".join(part for part in (entry.path, "report.html") if part != "."))
    return [
        tag("td", tag("a", entry.name, href=f"./{href}")),
        tag("td", str(facts.get("target", "")), class_="word"),
        str(facts.get("seed", "")),
        tag("td", entry.verdict, class_=f"word {_MOODS.get(entry.verdict, 'doubt')}"),
        "; ".join(map(str, _sequence(reasons)[:3])) + (" …" if len(_sequence(reasons)) > 3 else ""),
        ", ".join(f"{number} × {kind}" for kind, number in _mapping(faults.get("done")).items()),
        str(len(_sequence(faults.get("skipped"))) or ""),
        number_cell(count(_number(entry, "operations", "writes_ok"))),
        number_cell(percent(_share(_mapping(facts.get("availability")).get("worst")))),
        number_cell(milliseconds(_number(entry, "longest_gap_ms") or None)),
        "; ".join(f"{line.get('kind')} {milliseconds(_whole(line.get('worst_p99_ms')))}" for line in kinds),
    ]


def _gaps(entries: Sequence[Entry]) -> Iterator[Safe]:
    """Per kind, over all runs: each gap, and the longest of each fault."""
    lengths: dict[str, list[int]] = {}
    worst: dict[str, dict[tuple[str, Any], int]] = {}
    for entry in entries:
        for gap in _sequence(entry.facts.get("gaps")):
            length_ms = _whole(_mapping(gap).get("length_ms"))
            if length_ms is None:
                continue
            kind = str(gap.get("kind"))
            lengths.setdefault(kind, []).append(length_ms)
            for number in _sequence(gap.get("faults")) or ([len(lengths[kind])] if kind == UNEXPLAINED else []):
                of_kind = worst.setdefault(kind, {})
                name = (entry.path, str(number))
                of_kind[name] = max(of_kind.get(name, 0), length_ms)
    if not lengths:
        yield tag("p", "Writes never stopped.")
        return
    rows = []
    for kind in sorted(lengths, key=lambda kind: (kind == UNEXPLAINED, kind)):
        gaps, faults = sorted(lengths[kind]), sorted(worst.get(kind, {}).values())
        shares = (
            percentile(gaps, 0.5),
            percentile(gaps, 0.99),
            gaps[-1],
            percentile(faults, 0.5),
            percentile(faults, 0.99),
        )
        swatch = tag("span", class_="swatch", style=f"background:{colour_of(kind)}")
        rows.append(
            [
                tag("td", swatch, "no fault explains it" if kind == UNEXPLAINED else kind),
                number_cell("–" if kind == UNEXPLAINED else count(len(faults))),
                number_cell(count(len(gaps))),
                *(number_cell(milliseconds(value)) for value in shares),
            ]
        )
    head = ["Fault", "stopped writes", "gaps", "gap p50", "gap p99", "longest", "worst per fault p50", "p99"]
    yield table(head, rows, class_="figures")


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _sequence(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _whole(raw: Any) -> int | None:
    return raw if isinstance(raw, int) else None


def _share(raw: Any) -> float | None:
    return raw if isinstance(raw, int | float) else None


def _number(entry: Entry, *path: str) -> int:
    """What lies at the path, 0 if that is no number."""
    raw: Any = entry.facts
    for name in path:
        raw = _mapping(raw).get(name)
    return _whole(raw) or 0
