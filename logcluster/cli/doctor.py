"""`logcluster doctor`: what keeps this machine from using the cluster, or the cluster from being well.

The command and its output; the course of the checks is in `doctor_examination.py`, what they conclude in
`doctor_checks.py`, and a node's own machine in `doctor_node.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from logcluster.cli.command import CommandFailed, Settings, command
from logcluster.cli.doctor_checks import Check, Status, count, failed, names
from logcluster.cli.doctor_examination import Examination
from logcluster.cli.doctor_network import Network, RealNetwork
from logcluster.cli.doctor_node import node_checks, read_config
from logcluster.cli.output import print_json, print_table
from logcluster.cli.server_extra import require_server_extra
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import ThreadedDisk

if TYPE_CHECKING:
    from logcluster.model.tls import Tls

CHECK_TIMEOUT_MS: Final = 3_000
COLOURS: Final = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    command(
        app,
        "doctor",
        example="logcluster doctor --bootstrap broker-0.example.net:7070\nlogcluster doctor --config node.toml -o json",
    )(doctor)


def open_network(timeout_ms: int, tls: Tls | None) -> Network:
    """The real one; tests put another in its place."""
    return RealNetwork(timeout_ms=timeout_ms, tls=tls)


async def doctor(
    settings: Settings,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Look at this node, too: its node.toml, data directory, disk, limits."),
    ] = None,
) -> None:
    """Check the way to a cluster, and the cluster: names, ports, advertised addresses, quorum, brokers, partitions.

    Each check says what it found and what to do next; all of them run, whatever fails. With --config and without
    --bootstrap, the node of that file is asked. --timeout is for each check (default 3s). Exit code 1 when one failed.
    """
    timeout_ms = settings.timeout_ms if settings.has_timeout else CHECK_TIMEOUT_MS
    results: list[Check] = []
    if config is not None:
        require_server_extra("logcluster doctor --config")
        settings, results = await _own_node(settings, config, timeout_ms)
    network = open_network(timeout_ms, settings.tls)
    try:
        results += await Examination(network, SystemClock(), timeout_ms=timeout_ms).run(settings.bootstrap)
    finally:
        await network.close()
    report(settings, results)


async def _own_node(settings: Settings, path: Path, timeout_ms: int) -> tuple[Settings, list[Check]]:
    """Checks of this machine, and settings that ask its node unless a bootstrap was named."""
    from logcluster.cli.drain import own_settings

    node, check = read_config(path, os.environ)
    if node is not None:
        settings = own_settings(settings, node)
    disk = ThreadedDisk(threads_max=1, name="doctor")
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            found = await disk.run(lambda: node_checks(node))
    except TimeoutError:
        problem = f"no answer within {timeout_ms / 1000:g} s: the disk hangs"
        step = "look at the kernel's messages (dmesg) and at the mount; restart the machine if need be"
        return settings, [check, failed("data-directory", node.data.dir if node else "", problem, step)]
    disk.close()
    return settings, [check, *found]


def report(settings: Settings, results: Sequence[Check]) -> None:
    """Print what was found.

    Raises:
        CommandFailed: a check failed; names them.
    """
    bad = [check for check in results if check.status is Status.FAILED]
    warnings = sum(check.status is Status.WARNING for check in results)
    if settings.is_json:
        rows = [check.row() for check in results]
        print_json({"healthy": not bad, "failed": len(bad), "warnings": warnings, "checks": rows})
    else:
        print_table(["status", "check", "subject", "found"], [check.row() for check in results])
        for check in results:
            if check.next_step:
                typer.echo()
                typer.secho(f"{check.status.value}: ", fg=COLOURS[check.status], nl=False)
                typer.echo(f"{f'{check.name} {check.subject}'.rstrip()}: {check.found}\n  next: {check.next_step}")
        typer.echo(f"\n{count(len(results), 'check')}: {len(bad)} failed, {count(warnings, 'warning')}")
    if bad:
        which = [f"{check.name} {check.subject}".rstrip() for check in bad]
        raise CommandFailed(f"{len(bad)} of {count(len(results), 'check')} failed: {names(which)}")
