"""Looking at a group again and again: lag, state and events, live.

On a terminal the screen is drawn again when something changed. Elsewhere, and with -o json, every change is a line of
its own, so that it can be piped and kept. All loops end with Ctrl-C, or with an error.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import typer

from logcluster.cli.command import Settings
from logcluster.cli.group_text import (
    LAG_COLUMNS,
    MEMBER_COLUMNS,
    event_json,
    event_line,
    group_json,
    group_line,
    lag_json,
    lag_row,
    member_row,
    partitions_text,
    time_text,
    total_json,
    total_line,
)
from logcluster.cli.output import print_table
from logcluster.client.lag import LagReport, LagSample, compare

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.group_descriptions import GroupEvent, GroupFacts
    from logcluster.runtime.clock import Clock

EVENTS_SHOWN: Final = 12
_CLEAR: Final = "\x1b[H\x1b[2J"


class Screen:
    """The terminal, drawn again only when something changed."""

    def __init__(self) -> None:
        self._shown: object = None

    def draw(self, content: object, write: Callable[[], None]) -> None:
        """Let `write` fill the emptied screen, unless `content`, which it shows, is what is there."""
        if content != self._shown:
            self._shown = content
            typer.echo(_CLEAR, nl=False)
            write()
            sys.stdout.flush()


def open_screen(settings: Settings) -> Screen | None:
    """The screen, when standard output is a terminal and people look at it."""
    return Screen() if sys.stdout.isatty() and not settings.is_json else None


def print_json_line(value: object) -> None:
    """One JSON document on one line, at once."""
    typer.echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()


async def lag_sample(client: Client, group: str, clock: Clock) -> LagSample:
    """One look at a group's lag."""
    lags = await client.admin.groups.lag(group)
    return LagSample(at_ms=clock.monotonic_ms(), lags=tuple(lags))


async def lag_report(client: Client, group: str, clock: Clock, *, interval_ms: int) -> LagReport:
    """Two looks, `interval_ms` apart, compared; with 0 one look, and no trend."""
    first = await lag_sample(client, group, clock)
    if interval_ms == 0:
        return compare(first, first)
    await clock.sleep_ms(interval_ms)
    return compare(first, await lag_sample(client, group, clock))


def report_json(group: str, report: LagReport) -> dict[str, object]:
    """A report as one document."""
    partitions = [lag_json(lag, trend) for lag, trend in zip(report.lags, report.trends, strict=True)]
    return {"group": group, **total_json(report.total, report.trend), "partitions": partitions}


def print_report(group: str, report: LagReport) -> None:
    """A report as a table under a line that sums it up."""
    typer.echo(f"{group}   {total_line(report.total, report)}\n")
    print_table(LAG_COLUMNS, [lag_row(lag, trend) for lag, trend in zip(report.lags, report.trends, strict=True)])


async def watch_lag(settings: Settings, client: Client, group: str, clock: Clock, *, interval_ms: int) -> None:
    """Show the lag after every interval."""
    screen = open_screen(settings)
    before = await lag_sample(client, group, clock)
    while True:
        await clock.sleep_ms(interval_ms)
        after = await lag_sample(client, group, clock)
        report = compare(before, after)
        now_ms = clock.now_ms()
        if settings.is_json:
            print_json_line({"time_ms": now_ms, **report_json(group, report)})
        elif screen is not None:
            screen.draw(report, functools.partial(print_report, group, report))
        else:
            typer.echo(f"{time_text(now_ms)[:19]}  {group}  {total_line(report.total, report)}")
            sys.stdout.flush()
        before = after


async def follow_events(
    settings: Settings, client: Client, group: str, clock: Clock, *, after: int, interval_ms: int
) -> None:
    """Print events after a sequence number as they come."""
    while True:
        await clock.sleep_ms(interval_ms)
        events = await client.admin.groups.events(group, after=after)
        for event in events:
            print_event(settings, event)
            after = event.sequence


def print_event(settings: Settings, event: GroupEvent) -> None:
    """One event, as a line."""
    if settings.is_json:
        print_json_line(event_json(event))
    else:
        typer.echo(event_line(event))
        sys.stdout.flush()


async def watch_group(settings: Settings, client: Client, group: str, clock: Clock, *, interval_ms: int) -> None:
    """Show state, members and events as they change."""
    screen = open_screen(settings)
    events = await client.admin.groups.events(group, limit=EVENTS_SHOWN)
    last_sequence = events[-1].sequence if events else 0
    shown: object = None
    is_first = True
    while True:
        (facts,) = await client.admin.groups.describe(group)
        if not is_first:
            new = await client.admin.groups.events(group, after=last_sequence)
            last_sequence = new[-1].sequence if new else last_sequence
            events = [*events, *new][-EVENTS_SHOWN:]
            if screen is None:
                for event in new:
                    print_event(settings, event)
        now_ms = clock.now_ms()
        rows = [member_row(member, now_ms=now_ms) for member in facts.members]
        state = _what_matters(facts)
        if screen is not None:
            screen.draw((state, rows, events), functools.partial(_print_group, facts, rows, events))
        elif state != shown:
            _print_state(settings, facts, rows, now_ms=now_ms)
        shown, is_first = state, False
        await clock.sleep_ms(interval_ms)


def _what_matters(facts: GroupFacts) -> object:
    """What must change for a new line; heartbeats and offsets always do."""
    members = [
        (member.member_id, member.member_epoch, member.state, member.assignment, member.is_connected,
         member.processing_since_ms)
        for member in facts.members
    ]  # fmt: skip
    return facts.state, facts.group_epoch, facts.assignment_epoch, facts.coordinator_id, members


def _print_state(settings: Settings, facts: GroupFacts, rows: Sequence[dict[str, object]], *, now_ms: int) -> None:
    if settings.is_json:
        print_json_line({"time_ms": now_ms, **group_json(facts)})
        return
    members = "; ".join(f"{row['member']} {row['state']} {row['partitions']}" for row in rows)
    typer.echo(f"{time_text(now_ms)[:19]}  {group_line(facts)}" + (f"   {members}" if members else ""))
    sys.stdout.flush()


def _print_group(facts: GroupFacts, rows: Sequence[dict[str, object]], events: Sequence[GroupEvent]) -> None:
    """State, members and the newest events, on an empty screen."""
    typer.echo(f"{group_line(facts)}\n")
    if rows:
        print_table(MEMBER_COLUMNS, rows)
    else:
        offsets = partitions_text((offset.topic, offset.partition) for offset in facts.offsets)
        typer.echo(f"no members; committed offsets: {offsets}")
    typer.echo()
    for event in events:
        typer.echo(event_line(event))
