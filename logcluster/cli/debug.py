"""`logcluster debug`: help for whoever has to find out what is wrong; so far, bundles for bug reports."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from logcluster.cli.command import CommandFailed, Settings, command, new_group
from logcluster.cli.connection import open_client
from logcluster.cli.debug_bundle import Part, archive, cluster_parts, log_part, machine_part, unreachable_parts
from logcluster.cli.output import note, print_json, print_table
from logcluster.model.errors import LogClusterError
from logcluster.runtime.clock import SystemClock

ANSWER_TIMEOUT_MS: Final = 5_000
"""For one answer, unless --timeout says otherwise: a cluster without quorum is no reason to wait for long."""
app = new_group("Finding out what is wrong: bundles for bug reports.")


@command(
    app,
    "bundle",
    example="logcluster debug bundle --log /var/log/logcluster/node.log\n"
    "logcluster debug bundle --groups --out report.tar.gz",
)
async def bundle(
    settings: Settings,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.tar.gz", help="Default: logcluster-debug-TIME.tar.gz, here.")
    ] = None,
    logs: Annotated[
        list[Path] | None, typer.Option("--log", metavar="FILE", help="A node's log; may be repeated.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Of each log, the last so many.")] = 2_000,
    groups: Annotated[bool, typer.Option("--groups", help="Consumer groups, too: members and offsets.")] = False,
) -> None:
    """Collect facts for a bug report in one file: versions, metadata, quorum, brokers, replicas, ends of logs.

    Passwords, tokens and keys are taken out, and no record is ever read. Names of hosts, topics and groups stay: look
    at the file before you give it away. When nobody answers, it holds why. --timeout is for each answer (default 5s).
    """
    now_ms = SystemClock().now_ms()
    name = f"logcluster-debug-{datetime.fromtimestamp(now_ms / 1000, tz=UTC):%Y%m%dT%H%M%SZ}"
    path = out if out is not None else Path(f"{name}.tar.gz")
    if path.exists():
        raise CommandFailed(f"{path} exists already", hint="choose another name with --out, or delete it")
    if not settings.has_timeout:
        settings = replace(settings, timeout_ms=ANSWER_TIMEOUT_MS)
    parts = [machine_part()]
    try:
        async with open_client(settings) as client:
            parts += await cluster_parts(client, has_groups=groups)
    except LogClusterError as error:
        parts += unreachable_parts(error, has_groups=groups)
    parts += [log_part(log, number, lines) for number, log in enumerate(logs or (), start=1)]
    write(path, archive(parts, directory=name, now_ms=now_ms))
    report(settings, path, parts)


def write(path: Path, content: bytes) -> None:
    """Write the file for this user's eyes only.

    Raises:
        CommandFailed: it cannot be written.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}", hint="choose another place with --out") from error


def report(settings: Settings, path: Path, parts: list[Part]) -> None:
    """Say what the bundle holds, and what it lacks."""
    rows = [part.row() for part in parts]
    if settings.is_json:
        print_json({"path": str(path), "size_bytes": path.stat().st_size, "files": rows})
        return
    print_table(["name", "size_bytes", "what"], rows)
    typer.echo(f"\nwrote {path} ({path.stat().st_size:,} bytes)")
    for part in parts:
        if part.problem:
            note(f"not in it: {part.name}: {part.problem}")
    note("secrets are taken out; names of hosts, topics and groups are not: look at it before you give it away")
