"""The pictures of the page as PNG files, with matplotlib where it is installed (the extra `chaos`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from chaos.report.analysis import Figures
from chaos.report.colours import colour_of
from chaos.report.reading import Record

_DOTS_PER_INCH = 110


def draw_plots(directory: Path, figures: Figures, record: Record) -> list[str]:
    """Write the pictures; returns their names. Without matplotlib none, and the record says so.

    Raises:
        OSError: they cannot be written.
    """
    try:
        figure = importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        record.notes.append(
            "plots: matplotlib is not installed, so there are no PNG files; pip install 'logcluster[chaos]'"
        )
        return []
    directory.mkdir(parents=True, exist_ok=True)
    _timeline(figure(figsize=(13, 10), layout="constrained"), figures, record, directory / "timeline.png")
    names = ["plots/timeline.png"]
    if figures.gaps:
        _gaps(figure(figsize=(11, 4.5), layout="constrained"), figures, directory / "gaps.png")
        names.append("plots/gaps.png")
    return names


def _timeline(picture: Any, figures: Figures, record: Record, path: Path) -> None:
    scale = figures.scale
    times = [number * scale.width_ns / 1e9 for number in range(scale.count)]
    seconds = scale.width_ns / 1e9
    ratios = [1.4, 2.0, 1.6, 1.8, 1.0]
    faults, partitions, writes, latency, replicas = picture.subplots(5, 1, sharex=True, height_ratios=ratios)
    _faults(faults, figures, record)
    _partitions(partitions, figures)
    writes.step(times, [value / seconds for value in figures.writes_ok], where="post", label="acknowledged")
    writes.step(times, [value / seconds for value in figures.writes_fail], where="post", color="grey", label="failed")
    writes.step(
        times, [value / seconds for value in figures.writes_unknown], where="post", color="orange", label="unknown"
    )
    writes.set_ylabel("writes/s")
    writes.legend(loc="upper right", fontsize=8)
    for name, width in (("p50", 0.8), ("p99", 1.8)):
        series = [float("nan") if value is None else value / 1000 for value in figures.latency_us[name]]
        latency.plot(times, series, linewidth=width, label=name)
    if any(figures.latency_us["p50"]):
        latency.set_yscale("log")
        latency.legend(loc="upper right", fontsize=8)
    latency.set_ylabel("latency, ms")
    _replicas(replicas, times, figures)
    replicas.set_xlabel("seconds since the run began")
    replicas.set_xlim(0, (scale.end_ns - scale.begin_ns) / 1e9)
    for axes in (faults, partitions, writes, latency, replicas):
        for fault in record.faults:
            if fault.status == "done":
                begin, length = _span(fault.begin_ns, fault.end_ns, figures)
                axes.axvspan(begin, begin + length, color=colour_of(fault.kind), alpha=0.08, linewidth=0)
    picture.suptitle(_plain(f"{record.run.scenario}, seed {record.run.seed}, {record.run.target}"))
    picture.savefig(path, dpi=_DOTS_PER_INCH)


def _span(begin_ns: int, end_ns: int | None, figures: Figures) -> tuple[float, float]:
    end_ns = figures.scale.end_ns if end_ns is None else end_ns
    return (begin_ns - figures.scale.begin_ns) / 1e9, (end_ns - begin_ns) / 1e9


def _faults(axes: Any, figures: Figures, record: Record) -> None:
    done = [fault for fault in record.faults if fault.status == "done"]
    rows = list(dict.fromkeys([*record.run.brokers, *(node for fault in done for node in fault.nodes or ("others",))]))
    named: set[str] = set()
    for fault in done:
        for node in fault.nodes or ("others",):
            label = None if fault.kind in named else _plain(fault.kind)
            named.add(fault.kind)
            span = _span(fault.begin_ns, fault.end_ns, figures)
            axes.broken_barh([span], (rows.index(node) - 0.4, 0.8), color=colour_of(fault.kind), label=label)
    axes.set_yticks(range(len(rows)), [_plain(f"broker {row}" if row.isdecimal() else row) for row in rows])
    axes.invert_yaxis()
    if named:
        axes.legend(loc="upper right", fontsize=8)
    axes.set_ylabel("faults")


def _partitions(axes: Any, figures: Figures) -> None:
    keys = list(figures.partitions)
    for row, part in enumerate(figures.partitions.values()):
        axes.broken_barh(_runs(part.good_seconds), (row - 0.4, 0.8), color="#bfe3c8")
        axes.broken_barh(_runs(part.bad_seconds), (row - 0.4, 0.8), color="#d0342c")
    for gap in figures.gaps:
        span = _span(gap.begin_ns, gap.end_ns, figures)
        axes.broken_barh([span], (keys.index(gap.key) - 0.15, 0.3), color="black")
    axes.set_yticks(range(len(keys)), [_plain(key) for key in keys], fontsize=7)
    axes.invert_yaxis()
    axes.set_ylabel("writable")


def _runs(seconds: list[int]) -> list[tuple[int, int]]:
    """Neighbouring seconds as one: beginning and length."""
    runs: list[tuple[int, int]] = []
    for second in seconds:
        if runs and sum(runs[-1]) == second:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((second, 1))
    return runs


def _replicas(axes: Any, times: list[float], figures: Figures) -> None:
    sizes = sorted({size for counts in figures.replica_counts for size in counts})
    if sizes:
        stacks = [[counts.get(size, 0.0) for counts in figures.replica_counts] for size in sizes]
        colours = ["#8c1d18" if size == 0 else "#d9822b" if size == 1 else "#e8c55a" for size in sizes]
        colours[-1] = "#dbe9df"
        labels = ["no leader" if size == 0 else f"{size} in sync" for size in sizes]
        axes.stackplot(times, stacks, colors=colours, labels=labels, step="post")
        axes.legend(loc="upper right", fontsize=8)
    axes.set_ylabel("partitions")


def _gaps(picture: Any, figures: Figures, path: Path) -> None:
    axes = picture.subplots()
    rows = [line for line in figures.kinds if line.gaps]
    for row, line in enumerate(rows):
        lengths = [gap.length_ms for gap in figures.gaps if gap.kind == line.kind]
        axes.plot(lengths, [row] * len(lengths), "o", color=colour_of(line.kind), alpha=0.6)
        axes.plot([line.p99_ms], [row], "|", color="black", markersize=24, markeredgewidth=2)
        if line.bound_ms is not None:
            axes.plot([line.bound_ms], [row], "|", color="red", markersize=28, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [_plain(line.kind) for line in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xscale("log")
    axes.set_xlabel("gap, ms (black: p99, red: bound)")
    picture.savefig(path, dpi=_DOTS_PER_INCH)


def _plain(text: str) -> str:
    """Dollar signs would begin formulas."""
    return text.replace("$", r"\$")
