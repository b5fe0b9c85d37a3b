"""The panels of the timeline that are series over time: writes, refusals, latency, in-sync replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from chaos.report.analysis import SECOND_NS, Figures
from chaos.report.cluster import NO_LEADER
from chaos.report.drawing import LEFT, RIGHT, Sheet, TimeAxis, round_up
from chaos.report.wording import count, tick

CHARACTER: Final = 6.7
"""About how wide one is, for what must not run into something else."""
_LINES: Final = frozenset({"reads", "median", "tail"})


def draw_heading(sheet: Sheet, text: str, legend: Sequence[tuple[str, str]] = ()) -> None:
    """A line of text; the legend (class or colour of a sample, what it stands for) ends at the right."""
    sheet.height += 18
    base = sheet.height - 5
    sheet.text(LEFT, base, text, "heading")
    x = RIGHT - sum(len(label) * CHARACTER + 30 for _, label in legend)
    for class_, label in legend:
        if class_.startswith("#"):
            sheet.rect(x + 2, base - 9, 11, 10, "swatch", fill=class_)
        elif class_ in _LINES:
            sheet.curve([(x, base - 4), (x + 14, base - 4)], class_)
        elif class_ == "leader":
            sheet.triangle(x + 8, base - 1, 4, class_)
        elif class_ in {"gap", "longest"}:
            sheet.rect(x + (9 if class_ == "longest" else 0), base - 6, 4 if class_ == "longest" else 14, 4, class_)
        else:
            sheet.rect(x + 2, base - 9, 11, 10, class_)
        sheet.text(x + 18, base, label, "legend")
        x += len(label) * CHARACTER + 30


def _columns(axis: TimeAxis, figures: Figures) -> list[tuple[float, float]]:
    scale = figures.scale
    return [
        (
            axis.x(scale.begin_ns + number * scale.width_ns),
            axis.x(scale.begin_ns + (number + 1) * scale.width_ns),
        )
        for number in range(scale.count)
    ]


def _frame(
    sheet: Sheet, title: str, height: float, labels: Sequence[tuple[float, str]], legend: Sequence[tuple[str, str]]
) -> tuple[float, float]:
    """A panel with labels at shares of its height; returns top and bottom."""
    sheet.height += 10
    draw_heading(sheet, title, legend)
    top, bottom = sheet.height, sheet.height + height
    sheet.rect(LEFT, top, RIGHT - LEFT, height, "panel")
    for share, label in labels:
        y = bottom - share * height
        sheet.line(LEFT, y, RIGHT, y, "grid")
        sheet.text(LEFT - 8, y + 4, label, "label", anchor="end")
    sheet.height = bottom + 4
    return top, bottom


def draw_writes(sheet: Sheet, axis: TimeAxis, figures: Figures) -> None:
    """Acknowledged writes and records read, each second."""
    seconds = figures.scale.width_ns / SECOND_NS
    writes = [value / seconds for value in figures.writes_ok]
    reads = [value / seconds for value in figures.records_read]
    scale_top = round_up(max([*writes, *reads, 1.0]))
    labels = [(0.0, "0"), (0.5, f"{count(round(scale_top / 2))}/s"), (1.0, f"{count(round(scale_top))}/s")]
    legend = [("writes", "acknowledged writes"), ("reads", "records read")]
    top, bottom = _frame(sheet, "Throughput", 92, labels, legend)
    height = bottom - top
    columns = _columns(axis, figures)
    sheet.area(
        [
            (x1, x2, bottom - value / scale_top * height, bottom)
            for (x1, x2), value in zip(columns, writes, strict=True)
        ],
        "writes",
    )
    sheet.curve(
        [
            ((x1 + x2) / 2, max(top, bottom - value / scale_top * height))
            for (x1, x2), value in zip(columns, reads, strict=True)
        ],
        "reads",
    )


def draw_refusals(sheet: Sheet, axis: TimeAxis, figures: Figures) -> None:
    """Writes that failed, or whose outcome is unknown, in each bucket."""
    top_value = max(a + b for a, b in zip(figures.writes_fail, figures.writes_unknown, strict=True)) or 1
    legend = [("unknown", "outcome unknown"), ("failed", "failed for certain")]
    top, bottom = _frame(sheet, "Writes not acknowledged", 34, [(0.0, "0"), (1.0, count(top_value))], legend)
    height = bottom - top
    unknown, failed = [], []
    for number, (x1, x2) in enumerate(_columns(axis, figures)):
        middle = bottom - figures.writes_unknown[number] / top_value * height
        unknown.append((x1, x2, middle, bottom))
        failed.append((x1, x2, middle - figures.writes_fail[number] / top_value * height, middle))
    sheet.area(unknown, "unknown")
    sheet.area(failed, "failed")


def draw_latency(sheet: Sheet, axis: TimeAxis, figures: Figures) -> None:
    """Percentiles of each bucket, logarithmic."""
    known = [value for series in figures.latency_us.values() for value in series if value]
    low = math.floor(math.log10(min(known, default=1000)))
    high = max(low + 1, math.ceil(math.log10(max(known, default=10_000))))
    labels = [((power - low) / (high - low), tick(10**power)) for power in range(low, high + 1)]
    legend = [("median", "median"), ("tail", "p99"), ("longest", "longest")]
    top, bottom = _frame(sheet, "Latency of acknowledged writes, by when they began", 110, labels, legend)

    def place(value: int) -> float:
        share = (math.log10(max(value, 1)) - low) / (high - low)
        return bottom - min(1.0, max(0.0, share)) * (bottom - top)

    columns = _columns(axis, figures)
    middles = [(x1 + x2) / 2 for x1, x2 in columns]
    for name, class_ in (("p50", "median"), ("p99", "tail")):
        series = figures.latency_us[name]
        points = [None if value is None else (x, place(value)) for x, value in zip(middles, series, strict=True)]
        sheet.curve(points, class_)
    for x, value in zip(middles, figures.latency_us["max"], strict=True):
        if value is not None:
            sheet.rect(x - 1.3, place(value) - 1.3, 2.6, 2.6, "longest")


def draw_replicas(sheet: Sheet, axis: TimeAxis, figures: Figures) -> None:
    """Partitions by the size of their in-sync replicas, stacked."""
    total = round(max((sum(counts.values()) for counts in figures.replica_counts), default=0))
    if not total:
        sheet.height += 24
        sheet.text(LEFT, sheet.height - 6, "In-sync replicas: not on record", "heading")
        return
    sizes = sorted({size for counts in figures.replica_counts for size in counts})
    full = sizes[-1]
    classes = {size: _replica_class(size, full) for size in sizes}
    legend = [(classes[size], "no leader" if size == NO_LEADER else f"{size} in sync") for size in sizes]
    top, bottom = _frame(sheet, "Partitions by in-sync replicas", 64, [(0.0, "0"), (1.0, count(total))], legend)
    unit = (bottom - top) / total
    stacks: dict[int, list[tuple[float, float, float, float]]] = {size: [] for size in sizes}
    for (x1, x2), counts in zip(_columns(axis, figures), figures.replica_counts, strict=True):
        level = bottom
        for size in sizes:
            height = counts.get(size, 0) * unit
            stacks[size].append((x1, x2, level - height, level))
            level -= height
    for size, columns in stacks.items():
        sheet.area(columns, classes[size])


def _replica_class(size: int, full: int) -> str:
    if size == NO_LEADER:
        return "replicas-none"
    return "replicas-full" if size == full else f"replicas-{min(size, 2)}"
