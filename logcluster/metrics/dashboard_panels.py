"""What Grafana dashboards are made of: panels with queries, laid out in rows of 24 columns, rendered as Grafana's JSON.

Only what our dashboards need. Every query is limited to the nodes that the variable `instance` names, by writing
`$nodes` in its selectors; the data source is a variable, too, so the files fit any Grafana.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

COLUMNS: Final = 24
HEIGHT: Final = 7
SCHEMA_VERSION: Final = 39
NODES: Final = 'instance=~"$instance"'
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Unit = Literal["short", "bytes", "Bps", "ops", "s", "percentunit", "reqps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression and what its series are called (`{{label}}` is a label's value)."""

    expression: str
    legend: str

    @property
    def rendered(self) -> str:
        """The expression with the selection of nodes."""
        return self.expression.replace("$nodes", NODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One graph, or one number.

    Args:
        bad_above: the number turns red above it.
        bad_below: the number turns red below it.
    """

    title: str
    queries: tuple[Query, ...]
    help: str = ""
    unit: Unit = "short"
    is_number: bool = False
    bad_above: float | None = None
    bad_below: float | None = None
    width: int = 8

    def render(self, number: int, *, x: int, y: int) -> dict[str, Any]:
        """Grafana's form."""
        defaults: dict[str, Any] = {"unit": self.unit, "min": 0}
        if self.bad_above is not None:
            defaults["thresholds"] = _thresholds("green", "red", just_above(self.bad_above))
        elif self.bad_below is not None:
            defaults["thresholds"] = _thresholds("red", "green", self.bad_below)
        rendered: dict[str, Any] = {
            "id": number,
            "type": "stat" if self.is_number else "timeseries",
            "title": self.title,
            "description": self.help,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": 4 if self.is_number else HEIGHT},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": DATASOURCE,
                    "expr": query.rendered,
                    "legendFormat": query.legend,
                    "instant": self.is_number,
                }
                for index, query in enumerate(self.queries)
            ],
        }
        if self.is_number:
            rendered["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
        else:
            rendered["options"] = {
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi"},
            }
        return rendered


def just_above(bound: float) -> float:
    """Where Grafana's thresholds, which are inclusive, have to begin."""
    return bound + 1e-9


def _thresholds(first: str, then: str, value: float) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"color": first, "value": None}, {"color": then, "value": value}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard; `name` is also its uid and its file's name."""

    name: str
    title: str
    rows: tuple[Row, ...]

    @property
    def queries(self) -> list[Query]:
        """All queries."""
        return [query for row in self.rows for panel in row.panels for query in panel.queries]

    def render(self) -> dict[str, Any]:
        """Grafana's form."""
        panels: list[dict[str, Any]] = []
        y = 0
        for row in self.rows:
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "row",
                    "title": row.title,
                    "collapsed": False,
                    "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                    "panels": [],
                }
            )
            y = _lay_out(row.panels, panels, y + 1)
        return {
            "uid": self.name,
            "title": self.title,
            "tags": ["logcluster"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": _VARIABLES},
            "annotations": {"list": []},
            "panels": panels,
        }


def _lay_out(row: Sequence[Panel], panels: list[dict[str, Any]], y: int) -> int:
    """Place panels from left to right, beginning a new line when they do not fit; returns where the next row goes."""
    x = line_height = 0
    for panel in row:
        if x + panel.width > COLUMNS:
            x, y, line_height = 0, y + line_height, 0
        rendered = panel.render(len(panels) + 1, x=x, y=y)
        panels.append(rendered)
        x += panel.width
        line_height = max(line_height, rendered["gridPos"]["h"])
    return y + line_height


_VARIABLES: Final[list[dict[str, Any]]] = [
    {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
    {
        "name": "instance",
        "type": "query",
        "label": "Node",
        "datasource": DATASOURCE,
        "query": {"query": "label_values(logcluster_build_info, instance)", "refId": "A"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    },
]


def graph(title: str, *queries: tuple[str, str], unit: Unit = "short", help_text: str = "", width: int = 8) -> Panel:
    """A graph of several queries, each with its legend."""
    return Panel(
        title=title,
        queries=tuple(Query(expression=expression, legend=legend) for expression, legend in queries),
        unit=unit,
        help=help_text,
        width=width,
    )


def number(
    title: str, expression: str, *, bad_above: float | None = None, bad_below: float | None = None, help_text: str = ""
) -> Panel:
    """One number, red when it is bad."""
    return Panel(
        title=title,
        queries=(Query(expression=expression, legend=""),),
        is_number=True,
        bad_above=bad_above,
        bad_below=bad_below,
        help=help_text,
        width=4,
    )


def quantile(share: float, metric: str, by: str, selector: str = "") -> str:
    """A quantile of a duration, over five minutes."""
    inner = f"{selector + ', ' if selector else ''}$nodes"
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{inner}}}[5m])))"


def rate(metric: str, by: str, selector: str = "") -> str:
    """Per second, over five minutes."""
    inner = f"{selector + ', ' if selector else ''}$nodes"
    return f"sum by ({by}) (rate({metric}{{{inner}}}[5m]))"
