"""`logcluster top`: the whole cluster at a glance, again and again.

Looks are made in `top_look.py`, compared in `top_view.py` and written in `top_text.py`. On a terminal the screen is
drawn again; elsewhere every look is a block of text, and with -o json an object on a line.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli.command import Settings, command
from logcluster.cli.connection import open_client
from logcluster.cli.output import print_json
from logcluster.cli.values import duration_ms

if TYPE_CHECKING:
    from logcluster.cli.top_look import Looker
    from logcluster.runtime.clock import Clock

INTERVAL_MS_MIN: Final = 100
FIRST_INTERVAL_MS: Final = 1_000
"""Between the first two looks: before the second one there is nothing to show."""


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    command(app, "top", example="logcluster top --interval 5s\nlogcluster top --once -o json")(top_command)


async def top_command(
    settings: Settings,
    interval_text: Annotated[str, typer.Option("--interval", metavar="TIME", help="Between two looks.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Two looks, one second apart, printed once.")] = False,
    rows_max: Annotated[int, typer.Option("-n", "--max", min=1, help="So many topics, and so many groups.")] = 10,
) -> None:
    """Show the cluster live, until Ctrl-C: is all well, brokers, partitions, hottest topics, groups and their lag.

    Rates are of the time between two looks. LOOP-LAG is how late the event loop ran its timers on average, LOOP-MAX
    a bound for the worst case. What is not known is `-`. The exit code does not tell whether all is well:
    `logcluster cluster health` does.
    """
    interval_ms = duration_ms(interval_text)
    if interval_ms < INTERVAL_MS_MIN:
        raise typer.BadParameter(f"--interval: at least {INTERVAL_MS_MIN} ms")
    from logcluster.cli.top_look import Looker
    from logcluster.runtime.clock import SystemClock

    clock = SystemClock()
    async with open_client(settings) as client:
        looker = Looker(client, clock, timeout_ms=settings.timeout_ms)
        if once:
            await show_once(settings, looker, clock, rows_max=rows_max)
        else:
            await watch(settings, looker, clock, interval_ms=interval_ms, rows_max=rows_max)


async def show_once(settings: Settings, looker: Looker, clock: Clock, *, rows_max: int) -> None:
    """Two looks, compared and printed.

    Raises:
        LogClusterError: no broker tells about the cluster.
    """
    from logcluster.cli.top_text import print_view, view_json
    from logcluster.cli.top_view import compare_looks

    before = await looker.look()
    await clock.sleep_ms(FIRST_INTERVAL_MS)
    view = compare_looks(before, await looker.look())
    if settings.is_json:
        print_json(view_json(view, rows_max=rows_max))
    else:
        print_view(view, rows_max=rows_max)


async def watch(settings: Settings, looker: Looker, clock: Clock, *, interval_ms: int, rows_max: int) -> None:
    """Show every look, compared with the one before; a look that fails is shown as such, and the next one is made."""
    from logcluster.cli.group_watch import open_screen, print_json_line
    from logcluster.cli.top_text import failed_json, print_verdict, print_view, view_json
    from logcluster.cli.top_view import compare_looks
    from logcluster.model.errors import LogClusterError

    screen = open_screen(settings)
    before = await looker.look()
    pause_ms = min(interval_ms, FIRST_INTERVAL_MS)
    while True:
        await clock.sleep_ms(pause_ms)
        pause_ms = interval_ms
        try:
            after = await looker.look()
        except LogClusterError as error:
            now_ms, reason = clock.now_ms(), f"the cluster does not answer: {error.message}"
            document, write = failed_json(now_ms, reason), functools.partial(print_verdict, now_ms, [reason])
        else:
            view, before = compare_looks(before, after), after
            document = view_json(view, rows_max=rows_max) if settings.is_json else {"time_ms": view.time_ms}
            write = functools.partial(print_view, view, rows_max=rows_max)
        if settings.is_json:
            print_json_line(document)
        elif screen is not None:
            screen.draw(document["time_ms"], write)
        else:
            write()
            typer.echo()
            sys.stdout.flush()
