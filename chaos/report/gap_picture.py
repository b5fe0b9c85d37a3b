"""Gaps by kind of fault as one sheet: a dot for each gap on a logarithmic axis, with p50, p99 and the bound."""

from __future__ import annotations

import math

from chaos.report.analysis import Figures
from chaos.report.colours import colour_of
from chaos.report.drawing import RIGHT, Sheet
from chaos.report.gaps import GAP_NS_MIN, Gap
from chaos.report.wording import milliseconds, tick as label_of

_NAMES = 230.0
_ROW = 30.0
_TICKS_MS = (200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000, 300_000, 1_800_000, 7_200_000)


def gap_picture(figures: Figures) -> Sheet | None:
    """None when there was no gap."""
    rows = [line for line in figures.kinds if line.gaps]
    if not rows:
        return None
    by_kind: dict[str, list[Gap]] = {line.kind: [] for line in rows}
    for gap in figures.gaps:
        by_kind[gap.kind].append(gap)
    low = math.log10(GAP_NS_MIN / 1e6)
    longest = max([gap.length_ms for gap in figures.gaps] + [line.bound_ms or 0 for line in rows])
    high = math.log10(next((tick for tick in _TICKS_MS if tick >= longest * 1.05), longest * 1.05))

    def place(length_ms: int) -> float:
        share = (math.log10(max(length_ms, 1)) - low) / max(high - low, 0.1)
        return _NAMES + min(1.0, max(0.0, share)) * (RIGHT - 30 - _NAMES)

    sheet = Sheet(height=22)
    bottom = sheet.height + _ROW * len(rows)
    for tick in _TICKS_MS:
        if low <= math.log10(tick) <= high + 0.001:
            sheet.text(place(tick), 14, label_of(tick * 1000), "axis", anchor="middle")
            sheet.line(place(tick), sheet.height - 4, place(tick), bottom, "grid")
    for line in rows:
        middle = sheet.height + _ROW / 2
        sheet.text(_NAMES - 12, middle + 4, f"{line.kind} ({line.gaps})", "label", anchor="end")
        sheet.line(_NAMES, middle, RIGHT - 30, middle, "grid")
        for number, gap in enumerate(by_kind[line.kind]):
            spread = (number * 7 % 5 - 2) * 3.2
            hint = f"{gap.key}: {milliseconds(gap.length_ms)}"
            sheet.rect(
                place(gap.length_ms) - 4, middle + spread - 4, 8, 8, "dot", hint=hint, fill=colour_of(line.kind), rx=4
            )
        for value, class_ in ((line.p50_ms, "median-mark"), (line.p99_ms, "tail-mark")):
            if value is not None:
                sheet.line(place(value), middle - 11, place(value), middle + 11, class_)
        if line.bound_ms is not None:
            sheet.line(place(line.bound_ms), middle - 13, place(line.bound_ms), middle + 13, "bound-mark")
        sheet.height += _ROW
    sheet.height += 6
    return sheet
