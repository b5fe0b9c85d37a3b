"""`logcluster topic`: create, list, describe, alter and delete topics."""

from __future__ import annotations

from typing import Annotated

import typer

from logcluster.cli.command import CommandFailed, ExitCode, Settings, command, new_group
from logcluster.cli.connection import open_client, partition_row, topic_row
from logcluster.cli.output import done, print_json, print_rows, print_table
from logcluster.cli.values import settings_map

topics = new_group("Topics: create, list, describe, change, delete.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the topic.")]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option("-c", "--config", metavar="KEY=VALUE", help="A setting, e.g. retention.ms=86400000; may be repeated."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check only; change nothing.")]


@command(topics, "create", example="logcluster topic create orders -p 6 -r 3 -c retention.ms=86400000")
async def create(
    settings: Settings,
    name: NameArgument,
    partitions: Annotated[int, typer.Option("-p", "--partitions", help="How many partitions.")] = 3,
    replicas: Annotated[int, typer.Option("-r", "--replicas", help="Copies of each partition.")] = 3,
    config: ConfigOption = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="An existing topic is no error.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Create a topic and wait until each of its partitions has a leader."""
    values = settings_map(config)
    async with open_client(settings) as client:
        facts = await client.admin.create_topic(
            name,
            partitions=partitions,
            replication_factor=replicas,
            config=values,
            exist_ok=if_not_exists,
            validate_only=dry_run,
        )
    row = topic_row(facts)
    if dry_run:
        row |= {"partitions": partitions, "replication_factor": replicas}
    verb = "would create" if dry_run else "created"
    text = f"{verb} {name}   {row['partitions']} partitions x {row['replication_factor']} replicas"
    done(settings, {**row, "dry_run": dry_run}, text if dry_run else f"{text}   (try: logcluster produce {name})")


@command(topics, "ls", example="logcluster topic ls --internal -o json")
async def ls(
    settings: Settings,
    internal: Annotated[bool, typer.Option("--internal", help="Internal topics, too.")] = False,
) -> None:
    """List the topics."""
    async with open_client(settings) as client:
        found = await client.admin.list_topics(include_internal=internal)
    rows = [topic_row(facts) for facts in found.values()]
    print_rows(settings, rows, ["name", "partitions", "replication_factor", "under_replicated", "offline"])


@command(topics, "describe", example="logcluster topic describe orders -o json")
async def describe(settings: Settings, name: NameArgument) -> None:
    """Show a topic: partitions with leaders, replicas and offsets, and its settings."""
    async with open_client(settings) as client:
        facts = await client.admin.describe_topic(name)
        config = await client.admin.describe_config(name)
        is_led = all(partition.leader_id is not None for partition in facts.partitions)
        starts = await client.admin.list_offsets(name, "earliest") if is_led else None
        ends = await client.admin.list_offsets(name, "latest") if is_led else None
    rows = []
    for index, partition in enumerate(facts.partitions):
        row = partition_row(name, partition)
        row["log_start_offset"] = starts[index] if starts else None
        row["high_watermark"] = ends[index] if ends else None
        rows.append(row)
    entries = [
        {
            "key": entry.key,
            "value": entry.value,
            "is_default": entry.is_default,
            "default_value": entry.default_value,
            "description": entry.description,
        }
        for entry in config.values()
    ]
    if settings.is_json:
        print_json({**topic_row(facts), "partitions": rows, "config": entries})
        return
    summary = topic_row(facts)
    typer.echo(
        f"{name}   {summary['partitions']} partitions x {summary['replication_factor']} replicas   "
        f"id {summary['topic_id']}\n"
    )
    columns = ["partition", "leader", "leader_epoch", "replicas", "in_sync_replicas", "log_start_offset"]
    print_table([*columns, "high_watermark", "state"], rows)
    typer.echo()
    print_table(["key", "value", "is_default"], entries)


@command(
    topics,
    "alter",
    example="logcluster topic alter orders -c retention.ms=3600000 -p 12\n"
    "logcluster topic alter orders --unset retention.ms",
)
async def alter(
    settings: Settings,
    name: NameArgument,
    config: ConfigOption = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Back to the default; may be repeated.")
    ] = None,
    partitions: Annotated[
        int | None, typer.Option("-p", "--partitions", help="The new total; it can only grow.")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Change settings of a topic, or give it more partitions (keys then go to other partitions than before)."""
    changes = settings_map(config)
    if not changes and not unset and partitions is None:
        raise typer.BadParameter("nothing to change; give -c KEY=VALUE, --unset KEY or -p N")
    async with open_client(settings) as client:
        if changes or unset:
            await client.admin.alter_topic(name, changes, unset=unset or (), validate_only=dry_run)
        if partitions is not None:
            await client.admin.create_partitions(name, partitions, validate_only=dry_run)
        facts = await client.admin.describe_topic(name)
    verb = "would change" if dry_run else "changed"
    parts = [f"{key}={value}" for key, value in changes.items()] + [f"{key} to its default" for key in unset or ()]
    if partitions is not None:
        parts.append(f"{partitions} partitions")
    done(
        settings,
        {**topic_row(facts), "set": changes, "unset": unset or [], "dry_run": dry_run},
        f"{verb} {name}: {', '.join(parts)}",
    )


@command(topics, "delete", example="logcluster topic delete orders --yes")
async def delete(
    settings: Settings,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="A missing topic is no error.")] = False,
) -> None:
    """Delete a topic with all its records. Asks for the name on a terminal, unless --yes is given."""
    _confirm(settings, name, yes=yes)
    async with open_client(settings) as client:
        await client.admin.delete_topic(name, missing_ok=if_exists)
    done(settings, {"name": name, "deleted": True}, f"deleted {name}")


def _confirm(settings: Settings, name: str, *, yes: bool) -> None:
    import sys

    if yes or settings.is_json or not sys.stdin.isatty():
        return
    typed = typer.prompt(f"This deletes all records of {name}. Type its name to go on", err=True)
    if typed != name:
        raise CommandFailed("not deleted: the name does not match", exit_code=ExitCode.FAILED)
