"""A sheet of inline SVG: rectangles, lines and text on a common time axis, all text escaped.

Coordinates are units of a sheet `WIDTH` wide; time runs from `LEFT` to `RIGHT`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos.report.markup import Attribute, Safe, tag

WIDTH = 1200
LEFT = 150
RIGHT = 1185
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_TICKS_MAX = 14
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Places times of a run on the sheet."""

    begin_ns: int
    end_ns: int

    def x(self, t_ns: int) -> float:
        """Never outside of the axis."""
        share = (t_ns - self.begin_ns) / max(1, self.end_ns - self.begin_ns)
        return LEFT + min(1.0, max(0.0, share)) * (RIGHT - LEFT)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels, at a round distance."""
        seconds = (self.end_ns - self.begin_ns) / 1e9
        step = next((step for step in _STEPS_S if seconds / step <= _TICKS_MAX), _STEPS_S[-1])
        return [
            (self.x(self.begin_ns + at * 1_000_000_000), _clock(at, seconds)) for at in range(0, int(seconds) + 1, step)
        ]


def _clock(at: int, total: float) -> str:
    """All labels of an axis in one unit."""
    if total < 600:
        return f"{at} s"
    return f"{at // 60}:{at % 60:02d} min" if total < 5400 else f"{at // 3600}:{at % 3600 // 60:02d} h"


@dataclass
class Sheet:
    """What was drawn so far, and how far down."""

    parts: list[Safe] = field(default_factory=list)
    height: float = 0.0

    def rect(
        self, x: float, y: float, width: float, height: float, class_: str, *, hint: str = "", **more: Attribute
    ) -> None:
        """A rectangle; `hint` is shown when somebody points at it."""
        self.parts.append(
            tag("rect", *_hint(hint), x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), class_=class_, **more)
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        """A straight line."""
        self.parts.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_))

    def text(self, x: float, y: float, content: str, class_: str = "", *, anchor: str = "start") -> None:
        """A line of text, its base line at y."""
        self.parts.append(tag("text", content, x=x, y=y, class_=class_, text_anchor=anchor))

    def triangle(self, x: float, y: float, size: float, class_: str, *, hint: str = "") -> None:
        """Pointing down at (x, y)."""
        corners = f"{x - size:.1f},{y - size * 1.5:.1f} {x + size:.1f},{y - size * 1.5:.1f} {x:.1f},{y:.1f}"
        self.parts.append(tag("polygon", *_hint(hint), points=corners, class_=class_))

    def curve(self, points: Iterable[Point | None], class_: str) -> None:
        """A line through points, broken where there is none; a lone point becomes a short dash."""
        path: list[str] = []
        run: list[Point] = []
        for point in [*points, None]:
            if point is not None:
                run.append(point)
                continue
            if len(run) == 1:
                run = [(run[0][0] - 1.5, run[0][1]), (run[0][0] + 1.5, run[0][1])]
            path += [f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(run)]
            run = []
        self.parts.append(tag("path", d="".join(path), class_=class_))

    def area(self, columns: Sequence[tuple[float, float, float, float]], class_: str) -> None:
        """Columns (left, right, top, bottom) as one shape."""
        path = "".join(
            f"M{left:.1f} {bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}Z"
            for left, right, top, bottom in columns
            if bottom > top
        )
        if path:
            self.parts.append(tag("path", d=path, class_=class_))

    def svg(self, label: str) -> Safe:
        """The sheet as an element that fills the width it gets."""
        return tag(
            "svg",
            *self.parts,
            viewBox=f"0 0 {WIDTH} {self.height:.0f}",
            role="img",
            aria_label=label,
            class_="sheet",
        )


def _hint(hint: str) -> tuple[Safe, ...]:
    return (tag("title", hint),) if hint else ()


def round_up(value: float) -> float:
    """The next of some round numbers times a power of ten: the top of a scale."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if value <= factor * power * 1.0000001)


def spark(values: Sequence[int], class_: str = "spark") -> Safe:
    """A small picture of a series, for a cell of a table."""
    top = max(values, default=0) or 1
    width, height = 120.0, 18.0
    step = width / max(1, len(values))
    sheet = Sheet(height=height)
    sheet.area(
        [(n * step, (n + 1) * step, height - value / top * (height - 1), height) for n, value in enumerate(values)],
        class_,
    )
    return tag("svg", *sheet.parts, viewBox=f"0 0 {width:.0f} {height:.0f}", width=120, height=18, aria_hidden="true")
