"""The verdict of a run: judges figures and anomalies, writes result.json, the page and the pictures.

result.json (format 1; keys are only ever added):

    format, scenario, description, seed, target, machine, versions, command, ablations
    verdict      passed | anomalies | bounds | invalid | caught | missed
    status       exit status: 0 fine, 1 anomalies or missed bounds, 2 the run did not do what it says
    reasons      one sentence for each thing that made it so
    missing      what the report does without, and why
    begin_wall_ns, duration_ms
    anomalies    [{name, key, why, detail, events, offsets}]; anomaly_counts, tolerated_counts: {name: count}
    faults       {done: {kind: count}, skipped: [{number, kind, role, reason}], failed: [same]};
                 not_supported: {name: why}
    operations   {events, ok, fail, unknown, never_completed, writes_ok, writes_fail, writes_unknown, records_read}
    clients      [{client, operation, ok, fail, unknown, never_completed, p50_us, p99_us, max_us}]
    partitions   [{partition, ok, fail, unknown, p50_us, p99_us, max_us, seconds_good, seconds_bad, availability,
                  longest_gap_ms, leader_changes, in_sync_min}]
    availability {worst, mean, probe_ms_max, bound}; null where nobody probed
    gaps         [{partition, begin_ms, length_ms, is_open, kind, faults}]; begin_ms since the run began
    gaps_by_kind [{kind, faults, stopping, gaps, p50_ms, p99_ms, max_ms, worst_p50_ms, worst_p99_ms, bound_ms, is_met}]
    longest_gap_ms, leader_changes, controller_changes, is_drained, plots

Verdicts `caught` and `missed` are of runs with a safeguard off, which pass when an expected anomaly is found.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.interfaces import RunFiles
from chaos.report.analysis import Figures, analyse
from chaos.report.excerpts import find_logs, make_excerpts
from chaos.report.facts import anomaly_facts, facts_of, headline
from chaos.report.operations import collect_operations
from chaos.report.page import PageParts, render_page
from chaos.report.plots import draw_plots
from chaos.report.reading import Bounds, Record, read_events, read_record
from chaos.report.wording import milliseconds, percent, plural
from logcluster.check.checker import rules
from logcluster.check.registry import Anomaly
from logcluster.check.report import Report

Verdict = Literal["passed", "anomalies", "bounds", "invalid", "caught", "missed"]
ANOMALIES_SHOWN_MAX = 40
_STATUS: dict[Verdict, int] = {"passed": 0, "caught": 0, "anomalies": 1, "bounds": 1, "missed": 1, "invalid": 2}


@dataclass(frozen=True, slots=True)
class Result:
    """How a run is judged.

    `anomalies`: name -> exact count. `figures`: a few for a line on a terminal, see `facts.headline`. `facts`: all of
    result.json.
    """

    status: int
    verdict: Verdict
    reasons: list[str]
    anomalies: dict[str, int]
    figures: dict[str, int | str | None]
    facts: dict[str, Any] = field(repr=False)


def write_report(
    files: RunFiles,
    found: Report | Sequence[Anomaly],
    *,
    problems: Sequence[str] = (),
    bounds: object = None,
    expected_anomalies: Sequence[str] = (),
) -> Result:
    """Write result.json, report.html and plots of a run; whatever is missing is named in them.

    Args:
        found: by the checker, in the run's merged history.
        problems: why the run is not what it says it is, beside what the files show.
        bounds: an object or mapping with the fields of `Bounds.parse`; None: those in run.json.
        expected_anomalies: with a safeguard off, names of which one must be found; none: those in run.json.

    Raises:
        OSError: the report cannot be written.
    """
    record = read_record(files)
    record.problems[:0] = problems
    if bounds is not None:
        run = dataclasses.replace(record.run, bounds=_bounds_of(bounds))
        record.run = run
    if expected_anomalies:
        record.run = dataclasses.replace(record.run, expected_anomalies=tuple(expected_anomalies))
    anomalies = list(found.anomalies) if isinstance(found, Report) else list(found)
    tolerated = list(found.tolerated) if isinstance(found, Report) else []
    shown = anomalies[:ANOMALIES_SHOWN_MAX]
    operations = collect_operations(
        read_events(files.history, record), {index for anomaly in shown for index in anomaly.events}
    )
    run = record.run
    figures = analyse(
        operations,
        record.faults,
        record.states,
        begin_ns=run.begin_ns,
        end_ns=run.end_ns,
        gap_bounds=run.bounds.gaps,
    )
    counts = _counts(found, anomalies)
    verdict, reasons = judge(record, figures, counts)
    excerpts = make_excerpts(
        shown,
        operations.events,
        record.faults,
        find_logs(files.nodes),
        wall_ahead_ns=None if run.begin_ns is None or run.begin_wall_ns is None else run.begin_wall_ns - run.begin_ns,
    )
    plots = draw_plots(files.plots, figures, record)
    parts = PageParts(record, figures, verdict, reasons, counts, anomalies, excerpts, plots)
    facts = {
        **facts_of(record, figures),
        "verdict": verdict,
        "status": _STATUS[verdict],
        "reasons": reasons,
        "anomalies": [anomaly_facts(anomaly, rules()) for anomaly in anomalies],
        "anomaly_counts": counts,
        "tolerated_counts": _counts(found, tolerated),
        "plots": plots,
    }
    files.report.write_text(render_page(parts), encoding="utf-8")
    files.result.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return Result(_STATUS[verdict], verdict, reasons, counts, headline(facts), facts)


def judge(record: Record, figures: Figures, counts: Mapping[str, int]) -> tuple[Verdict, list[str]]:
    """The verdict and every reason for it. Anomalies outweigh everything: they are real however the run went."""
    expected = set(record.run.expected_anomalies)
    named = [f"{plural(count, 'anomaly', 'anomalies')} {name}" for name, count in counts.items()]
    if expected:
        caught = sorted(expected & counts.keys())
        if caught:
            return "caught", [f"caught as {', '.join(caught)}"]
        return "missed", [f"the loss of the safeguard was not found ({', '.join(sorted(expected))})", *named]
    doubts = list(_doubts(record, figures))
    missed = list(_missed_bounds(record.run.bounds, figures))
    verdict: Verdict = "anomalies" if counts else "invalid" if doubts else "bounds" if missed else "passed"
    return verdict, [*named, *doubts, *missed]


def _doubts(record: Record, figures: Figures) -> Iterator[str]:
    yield from record.problems
    for fault in record.faults:
        told = f"fault {fault.number} "
        if fault.status == "failed" and not any(told in problem for problem in record.problems):
            yield f"{told}({fault.kind}) failed: {fault.detail}"
    done = sum(fault.status == "done" for fault in record.faults)
    planned = record.run.fault_count or len(record.faults)
    if planned and not done:
        yield f"none of {plural(planned, 'fault')} was done"
    acked, acked_min = sum(figures.writes_ok), record.run.bounds.acked_records_min
    if acked < acked_min:
        yield f"{plural(acked, 'write')} acknowledged, at least {acked_min} must be to show anything"
    if figures.events and not figures.is_drained:
        yield "nobody read everything at the end, so that lost writes could not be seen"
    if record.run.bounds.availability_min is not None and not figures.availabilities:
        yield "availability is bounded, but nobody probed"


def _missed_bounds(bounds: Bounds, figures: Figures) -> Iterator[str]:
    if bounds.availability_min is not None:
        probed = [
            (part.availability, part.key) for part in figures.partitions.values() if part.availability is not None
        ]
        below = [(rate, key) for rate, key in probed if rate < bounds.availability_min]
        if below:
            rate, key = min(below)
            yield (
                f"{len(below)} of {plural(len(probed), 'partition')} were available for less than "
                f"{percent(bounds.availability_min)} of seconds, worst {key} with {percent(rate)}"
            )
    for line in figures.kinds:
        if line.is_met is False:
            yield (
                f"writes stopped for {milliseconds(line.worst_p99_ms)} (p99) with {line.kind}, "
                f"more than {milliseconds(line.bound_ms)}"
            )


def _bounds_of(given: object) -> Bounds:
    if isinstance(given, Mapping):
        return Bounds.parse(given)
    names = ("gap_s_max", "gap_s_max_of", "availability_percent_min", "acked_records_min")
    return Bounds.parse({name: getattr(given, name, None) for name in names})


def _counts(found: Report | Sequence[Anomaly], anomalies: Sequence[Anomaly]) -> dict[str, int]:
    """Exact totals where the checker has them; it keeps only some examples of each."""
    exact = found.counts if isinstance(found, Report) else {}
    names = sorted({anomaly.name for anomaly in anomalies})
    return {name: exact.get(name) or sum(anomaly.name == name for anomaly in anomalies) for name in names}
