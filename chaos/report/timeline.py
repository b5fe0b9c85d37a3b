"""The timeline of a run as one sheet: faults as bars per broker, and below them on the same axis what they did.

From above: anomalies, faults, partitions (probes second by second, gaps, changes of leader), writes, what was not
acknowledged, latency, in-sync replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.report.analysis import SECOND_NS, Figures, PartitionFigures
from chaos.report.cluster import Fault
from chaos.report.colours import colour_of, lanes
from chaos.report.drawing import LEFT, RIGHT, Sheet, TimeAxis
from chaos.report.panels import (
    CHARACTER,
    draw_heading,
    draw_latency,
    draw_refusals,
    draw_replicas,
    draw_writes,
)
from chaos.report.wording import milliseconds, moment
from logcluster.check.history import Event

PARTITIONS_SHOWN_MAX = 24
_LEADERS_DRAWN_MAX = 40
_LEGEND_CHARACTERS_MAX = 120
_LANE = 18.0
_STRIP = 15.0


def timeline(
    figures: Figures, faults: Sequence[Fault], brokers: Sequence[str], marks: Sequence[tuple[str, Event]]
) -> Sheet:
    """The whole sheet; `marks` are names of anomalies, each with an event of it."""
    axis = TimeAxis(figures.scale.begin_ns, figures.scale.end_ns)
    sheet = Sheet(height=26)
    for x, label in axis.ticks():
        sheet.text(x, 12, label, "axis", anchor="middle" if x < RIGHT - 20 else "end")
    top = sheet.height
    done = [fault for fault in faults if fault.status == "done"]
    body = Sheet(height=top)
    _faults(body, axis, done, brokers)
    _partitions(body, axis, figures)
    draw_writes(body, axis, figures)
    draw_refusals(body, axis, figures)
    draw_latency(body, axis, figures)
    draw_replicas(body, axis, figures)
    for fault in done:
        begin = axis.x(fault.begin_ns)
        width = max(1.0, axis.x(_end(fault, axis)) - begin)
        sheet.rect(begin, top - 6, width, body.height - top, "band", fill=colour_of(fault.kind))
    for x, _ in axis.ticks():
        sheet.line(x, top - 8, x, body.height - 4, "grid")
    sheet.parts += body.parts
    labelled = 0.0
    for name, event in sorted(marks, key=lambda mark: mark[1].t_ns):
        x = axis.x(event.t_ns)
        if x > labelled and x < RIGHT - len(name) * CHARACTER:
            sheet.text(x + 7, top + 13, name, "harm-label")
            labelled = x + 14 + len(name) * CHARACTER
        sheet.line(x, top - 4, x, body.height - 4, "harm-line")
        sheet.triangle(x, top - 2, 5, "harm-mark", hint=f"{name} at {moment(event.t_ns, axis.begin_ns)}")
    sheet.height = body.height
    return sheet


def _end(fault: Fault, axis: TimeAxis) -> int:
    return axis.end_ns if fault.end_ns is None else fault.end_ns


def _faults(sheet: Sheet, axis: TimeAxis, faults: Sequence[Fault], brokers: Sequence[str]) -> None:
    named = list(dict.fromkeys([*brokers, *(node for fault in faults for node in fault.nodes)]))
    rows = [(f"broker {node}" if node.isdecimal() else node, node) for node in named]
    if any(not fault.nodes for fault in faults):
        rows.append(("clients, others", ""))
    kinds = list(dict.fromkeys(fault.kind for fault in faults))
    legend = [(colour_of(kind), kind) for kind in sorted(kinds)]
    draw_heading(sheet, "Faults", legend if sum(len(kind) + 5 for kind in kinds) < _LEGEND_CHARACTERS_MAX else ())
    for label, node in rows:
        mine = [fault for fault in faults if node in fault.nodes or (not node and not fault.nodes)]
        chosen = lanes((fault.begin_ns, _end(fault, axis)) for fault in mine)
        height = _LANE * (max(chosen, default=0) + 1)
        sheet.rect(LEFT, sheet.height, RIGHT - LEFT, height - 2, "row")
        sheet.text(LEFT - 8, sheet.height + 12.5, label, "label", anchor="end")
        for fault, lane in zip(mine, chosen, strict=True):
            _fault_bar(sheet, axis, fault, sheet.height + lane * _LANE)
        sheet.height += height + 2


def _fault_bar(sheet: Sheet, axis: TimeAxis, fault: Fault, y: float) -> None:
    begin = axis.x(fault.begin_ns)
    width = max(2.5, axis.x(_end(fault, axis)) - begin)
    length = "to the end" if fault.end_ns is None else milliseconds((fault.end_ns - fault.begin_ns) // 1_000_000)
    at = moment(fault.begin_ns, axis.begin_ns)
    hint = f"{fault.number}: {fault.kind} {fault.role} at {at}, {length}. {fault.detail}"
    sheet.rect(begin, y, width, _LANE - 3, "bar", hint=hint, fill=colour_of(fault.kind), rx=1.5)
    for label in (f"{fault.number} {fault.kind}", fault.kind, str(fault.number)):
        if len(label) * CHARACTER + 4 <= width:
            sheet.text(begin + 4, y + 11.5, label, "bar-label")
            break


def shown_partitions(figures: Figures) -> list[PartitionFigures]:
    """All, or those that fared worst, in order of their name."""
    parts = list(figures.partitions.values())
    worst = sorted(parts, key=lambda part: (-part.bad, -(part.longest_gap_ns or 0)))[:PARTITIONS_SHOWN_MAX]
    return [part for part in parts if part in worst]


def _partitions(sheet: Sheet, axis: TimeAxis, figures: Figures) -> None:
    shown = shown_partitions(figures)
    left_out = len(figures.partitions) - len(shown)
    more = f"; the {len(shown)} worst of {len(figures.partitions)}" if left_out else ""
    sheet.height += 8
    has_leaders = max((len(part.history.leader_changes_ns) for part in shown), default=0) <= _LEADERS_DRAWN_MAX
    legend = [("probe-good", "good second"), ("probe-bad", "bad second"), ("gap", "no write acked")]
    legend += [("leader", "new leader")] if has_leaders else []
    draw_heading(sheet, f"Writable? One probe a second{more}", legend)
    for part in shown:
        y = sheet.height
        sheet.text(LEFT - 8, y + 10.5, part.key, "label", anchor="end")
        sheet.rect(LEFT, y, RIGHT - LEFT, _STRIP - 3, "row")
        for begin_ns, end_ns, class_, share in _cells(part, figures):
            x = axis.x(begin_ns)
            opacity = 0.45 + 0.55 * share if class_ == "bad" else 1.0
            sheet.rect(x, y, axis.x(end_ns) - x, _STRIP - 3, f"probe-{class_}", opacity=opacity)
        for gap in figures.gaps:
            if gap.key == part.key:
                x = axis.x(gap.begin_ns)
                at = moment(gap.begin_ns, axis.begin_ns)
                hint = f"{gap.key}: no write for {milliseconds(gap.length_ms)} from {at}, {gap.kind}"
                sheet.rect(x, y + 3.5, max(1.5, axis.x(gap.end_ns) - x), _STRIP - 10, "gap", hint=hint)
        for t_ns in part.history.leader_changes_ns if has_leaders else ():
            sheet.triangle(axis.x(t_ns), y + 4, 2.6, "leader", hint=f"new leader at {moment(t_ns, axis.begin_ns)}")
        sheet.height += _STRIP


def _cells(part: PartitionFigures, figures: Figures) -> Iterator[tuple[int, int, str, float]]:
    """Spans of equal buckets: beginning, end, good or bad or unprobed (but written), share of bad seconds."""
    scale = figures.scale
    good, bad = [0] * scale.count, [0] * scale.count
    for seconds, counted in ((part.good_seconds, good), (part.bad_seconds, bad)):
        for second in seconds:
            counted[scale.bucket_of(scale.begin_ns + second * SECOND_NS)] += 1
    kinds: list[tuple[str, float]] = []
    for bucket in range(scale.count):
        if bad[bucket]:
            kinds.append(("bad", bad[bucket] / (bad[bucket] + good[bucket])))
        elif good[bucket]:
            kinds.append(("good", 0.0))
        else:
            kinds.append(("written" if part.tally.ok_per_bucket[bucket] else "none", 0.0))
    begin = 0
    for bucket in range(1, scale.count + 1):
        if bucket == scale.count or kinds[bucket] != kinds[begin]:
            if kinds[begin][0] != "none":
                end_ns = min(scale.end_ns, scale.begin_ns + bucket * scale.width_ns)
                yield scale.begin_ns + begin * scale.width_ns, end_ns, *kinds[begin]
            begin = bucket
