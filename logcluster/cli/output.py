"""Printing: tables and JSON on standard output, notes and progress on standard error.

Colour and progress appear only on a terminal. JSON is one document per command with stable field names
(docs/cli.md); tables are for people and may change.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import typer

from logcluster.cli.command import Settings


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(settings: Settings, rows: Sequence[dict[str, object]], columns: Sequence[str] | None = None) -> None:
    """A list: all fields as JSON, or the chosen columns as a table."""
    if settings.is_json:
        print_json(list(rows))
    else:
        print_table(columns or (list(rows[0]) if rows else []), rows)


def print_facts(settings: Settings, facts: dict[str, object]) -> None:
    """One object: JSON, or name and value per line."""
    if settings.is_json:
        print_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {cell(value)}")


def print_table(columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    """Aligned columns under a head; numbers to the right. Nothing wraps, so that it can be piped."""
    head = [column.upper().replace("_", "-") for column in columns]
    body = [[row.get(column) for column in columns] for row in rows]
    texts = [head, *([cell(value) for value in line] for line in body)]
    widths = [max(len(line[index]) for line in texts) for index in range(len(columns))]
    is_number = [
        bool(body) and all(isinstance(line[index], int | float) or line[index] is None for line in body)
        for index in range(len(columns))
    ]
    for number, line in enumerate(texts):
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ]
        typer.secho("  ".join(parts).rstrip(), bold=number == 0)


def cell(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ",".join(cell(part) for part in value) or "-"
    if isinstance(value, dict):
        return " ".join(f"{key}={cell(part)}" for key, part in value.items()) or "-"
    return str(value)


def note(text: str) -> None:
    """A line for people, on standard error."""
    typer.echo(text, err=True)


def done(settings: Settings, facts: dict[str, object], text: str) -> None:
    """The result of a change: JSON, or a sentence."""
    if settings.is_json:
        print_json(facts)
    else:
        typer.echo(text)


class ProgressLine(Protocol):
    """Told how far the work is."""

    def update(self, completed: int, *, total: int | None = None, text: str = "") -> None:
        """`completed` of `total` are done; `text` stands at the end of the line."""
        ...


class _NoProgress:
    def update(self, completed: int, *, total: int | None = None, text: str = "") -> None:
        """Nobody looks."""


@contextmanager
def progress(title: str, *, total: int | None = None, unit: str = "rec") -> Iterator[ProgressLine]:
    """A progress bar on standard error while the block runs; nothing at all when that is not a terminal."""
    if not sys.stderr.isatty():
        yield _NoProgress()
        return
    with _rich_progress(title, total, unit) as bar:
        yield bar


@contextmanager
def _rich_progress(title: str, total: int | None, unit: str) -> Iterator[ProgressLine]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Units per second over the last seconds."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.{1 if speed < 10 else 0}f} {unit}/s" if speed else "")

    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=False,
    )
    task_id = display.add_task(title, total=total, note="")

    class Line:
        """Adapter to the port above."""

        def update(self, completed: int, *, total: int | None = None, text: str = "") -> None:
            if total is None:
                display.update(task_id, completed=completed, note=text)
            else:
                display.update(task_id, completed=completed, total=total, note=text)

    with display:
        yield Line()
