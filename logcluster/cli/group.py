"""`logcluster group`: who reads what in a consumer group, how far behind it is, why it rebalanced, and setting it back.

Commands and their options; texts are in `group_text.py`, what runs until Ctrl-C is in `group_watch.py`.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli.command import CommandFailed, ExitCode, Settings, command, new_group
from logcluster.cli.connection import open_client
from logcluster.cli.group_reset import reset_point, reset_topics
from logcluster.cli.group_text import (
    CHANGE_COLUMNS,
    GROUP_COLUMNS,
    MEMBER_COLUMNS,
    OFFSET_COLUMNS,
    change_json,
    change_row,
    count_text,
    event_json,
    group_json,
    group_line,
    lag_json,
    lag_row,
    listing_row,
    member_row,
    total_json,
    total_line,
)
from logcluster.cli.group_watch import (
    follow_events,
    lag_report,
    print_event,
    print_report,
    report_json,
    watch_group,
    watch_lag,
)
from logcluster.cli.output import done, note, print_json, print_rows, print_table
from logcluster.cli.values import duration_ms
from logcluster.client.lag import total_lag
from logcluster.runtime.clock import SystemClock

if TYPE_CHECKING:
    from logcluster.client.group_descriptions import OffsetChange

groups = new_group("Consumer groups: list, describe, lag, reset, watch, delete.")

INTERVAL_MS_MIN: Final = 10


class GroupStateChoice(StrEnum):
    """What a group can be doing."""

    EMPTY = "empty"
    ASSIGNING = "assigning"
    RECONCILING = "reconciling"
    STABLE = "stable"


GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def interval(text: str, *, is_watch: bool) -> int:
    """Read --interval, in ms.

    Raises:
        typer.BadParameter: it is no duration, or too short to watch by.
    """
    found_ms = duration_ms(text)
    if is_watch and found_ms < INTERVAL_MS_MIN:
        raise typer.BadParameter(f"--interval: at least {INTERVAL_MS_MIN} ms")
    return found_ms


@command(groups, "ls", example="logcluster group ls --state stable --state reconciling")
async def ls(
    settings: Settings,
    states: Annotated[
        list[GroupStateChoice] | None, typer.Option("--state", help="Only groups in this state; may be repeated.")
    ] = None,
) -> None:
    """List the groups of all coordinators."""
    async with open_client(settings) as client:
        found = await client.admin.groups.list(states=[state.value for state in states or ()])
    print_rows(settings, [listing_row(listing) for listing in found], GROUP_COLUMNS)


@command(groups, "describe", example="logcluster group describe billing -o json")
async def describe(settings: Settings, group: GroupArgument) -> None:
    """Show a group: state, epochs, members with what they read, and offsets with their lag.

    SILENT is the time since a member's last heartbeat. PROCESSING says since when its application has not come back
    for records: a stuck handler. TO-COME are partitions that other members have not given up yet.
    """
    clock = SystemClock()
    async with open_client(settings) as client:
        (facts,) = await client.admin.groups.describe(group)
        lags = await client.admin.groups.lag(group)
    total = total_lag(lags)
    if settings.is_json:
        offsets = {(offset.topic, offset.partition): offset for offset in facts.offsets}
        rows = []
        for lag in lags:
            offset = offsets.get((lag.topic, lag.partition))
            rows.append(
                lag_json(lag)
                | {
                    "leader_epoch": offset.leader_epoch if offset is not None else None,
                    "metadata": offset.metadata if offset is not None else None,
                    "commit_time_ms": offset.commit_time_ms if offset is not None else None,
                }
            )
        print_json({**group_json(facts), **total_json(total), "offsets": rows})
        return
    typer.echo(f"{group_line(facts)}\n")
    if facts.members:
        print_table(MEMBER_COLUMNS, [member_row(member, now_ms=clock.now_ms()) for member in facts.members])
    else:
        typer.echo("no members")
    typer.echo()
    if lags:
        print_table(OFFSET_COLUMNS, [lag_row(lag) for lag in lags])
        typer.echo(f"\n{total_line(total)}")
    else:
        typer.echo("no committed offsets")


@command(groups, "lag", example="logcluster group lag billing\nlogcluster group lag billing --watch --interval 5s")
async def lag_command(
    settings: Settings,
    group: GroupArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Again after every interval, until Ctrl-C.")] = False,
    interval_text: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="Between two looks; 0 for one look and no trend.")
    ] = "2s",
) -> None:
    """Show how far a group is behind, in records and in time, where that is going, and when nothing is left.

    Rates come from two looks. BEHIND is the age of the first unread record. `never`: records come in as fast as
    they are read, or faster, or nothing was committed between the looks (stalled).
    """
    interval_ms = interval(interval_text, is_watch=watch)
    clock = SystemClock()
    async with open_client(settings) as client:
        if watch:
            await watch_lag(settings, client, group, clock, interval_ms=interval_ms)
            return
        report = await lag_report(client, group, clock, interval_ms=interval_ms)
    if settings.is_json:
        print_json(report_json(group, report))
    else:
        print_report(group, report)


@command(
    groups,
    "reset",
    example="logcluster group reset billing --to beginning --dry-run\n"
    "logcluster group reset billing --to -15m --topic orders --topic payments:0,3 --yes",
)
async def reset(
    settings: Settings,
    group: GroupArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="PLACE",
            help="beginning, end, an offset, a time (-15m, now, 2026-11-22T08:00, @1700000000000), or +N, -N records.",
        ),
    ],
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "--topic", metavar="TOPIC[:P,P]", help="Only this topic, or these partitions of it; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")] = False,
    yes: YesOption = False,
) -> None:
    """Set committed offsets: what the group reads next. Only while it has no members.

    By default all partitions with a committed offset; with --topic also those without. Places outside of a log become
    the nearest in it. Asks on a terminal, unless --yes is given.
    """
    clock = SystemClock()
    point, chosen = reset_point(to, now_ms=clock.now_ms()), reset_topics(topics)
    async with open_client(settings) as client:
        if not (dry_run or yes or settings.is_json) and sys.stdin.isatty():
            preview = await client.admin.groups.reset(group, to=point, topics=chosen, dry_run=True)
            print_table(CHANGE_COLUMNS, [change_row(change) for change in preview])
            if not preview or not typer.confirm(f"Set these offsets of {group}?", err=True):
                raise CommandFailed("nothing was changed", exit_code=ExitCode.FAILED)
        changes = await client.admin.groups.reset(group, to=point, topics=chosen, dry_run=dry_run)
    _print_changes(settings, group, changes, dry_run=dry_run)


def _print_changes(settings: Settings, group: str, changes: list[OffsetChange], *, dry_run: bool) -> None:
    if settings.is_json:
        print_json({"group": group, "dry_run": dry_run, "changes": [change_json(change) for change in changes]})
        return
    if changes:
        print_table(CHANGE_COLUMNS, [change_row(change) for change in changes])
    verb = "would set" if dry_run else "set"
    note(
        f"{verb} {count_text(len(changes), 'offset')} of {group}"
        + ("" if changes else ": it has committed none; name a --topic")
    )


@command(groups, "delete", example="logcluster group delete billing --yes")
async def delete(settings: Settings, group: GroupArgument, yes: YesOption = False) -> None:
    """Forget a group without members, with its offsets and events.

    Asks for the name on a terminal, unless --yes is given.
    """
    if not yes and not settings.is_json and sys.stdin.isatty():
        typed = typer.prompt(f"This forgets how far {group} has read. Type its name to go on", err=True)
        if typed != group:
            raise CommandFailed("not deleted: the name does not match", exit_code=ExitCode.FAILED)
    async with open_client(settings) as client:
        await client.admin.groups.delete(group)
    done(settings, {"group": group, "deleted": True}, f"deleted {group}")


@command(groups, "watch", example="logcluster group watch billing")
async def watch_command(
    settings: Settings,
    group: GroupArgument,
    interval_text: Annotated[str, typer.Option("--interval", metavar="TIME", help="Between two looks.")] = "500ms",
) -> None:
    """Show members and events of a group live, until Ctrl-C; not on a terminal, one line for every change."""
    interval_ms = interval(interval_text, is_watch=True)
    async with open_client(settings) as client:
        await watch_group(settings, client, group, SystemClock(), interval_ms=interval_ms)


@command(groups, "events", example="logcluster group events billing -n 20\nlogcluster group events billing --follow")
async def events_command(
    settings: Settings,
    group: GroupArgument,
    count: Annotated[int, typer.Option("-n", "--max", min=0, help="The newest so many; 0: all that are kept.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new ones, until Ctrl-C.")] = False,
    interval_text: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="With --follow: between two looks.")
    ] = "500ms",
) -> None:
    """Show what happened in a group, oldest first: who came and went, every rebalance and its reason.

    With -o json a list; with --follow one object per line.
    """
    interval_ms = interval(interval_text, is_watch=follow)
    async with open_client(settings) as client:
        found = await client.admin.groups.events(group, limit=count)
        if settings.is_json and not follow:
            print_json([event_json(event) for event in found])
            return
        for event in found:
            print_event(settings, event)
        if follow:
            after = found[-1].sequence if found else 0
            await follow_events(settings, client, group, SystemClock(), after=after, interval_ms=interval_ms)
