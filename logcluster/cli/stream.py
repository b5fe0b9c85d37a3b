"""`logcluster produce` and `logcluster consume`: their options; the work is in `produce.py` and `consume.py`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from logcluster.cli.command import Settings, command
from logcluster.cli.formats import compile_format, json_line, value_per_line
from logcluster.cli.values import place, separator_bytes


class CompressionChoice(StrEnum):
    """Codecs of a record batch."""

    NONE = "none"
    ZSTD = "zstd"
    LZ4 = "lz4"
    SNAPPY = "snappy"
    GZIP = "gzip"


TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")]


def register(app: typer.Typer) -> None:
    """Add the two commands to the root."""
    command(
        app,
        "produce",
        example="seq 1000 | logcluster produce orders\nlogcluster produce orders lines.txt --key-separator :",
    )(produce_command)
    command(
        app,
        "consume",
        example="logcluster consume orders --from beginning -n 3 -f '%p/%o %k %v\\n'\n"
        "logcluster consume orders --from -15m --until now -o json",
    )(consume_command)


async def produce_command(
    settings: Settings,
    topic: TopicArgument,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: standard input.")] = None,
    key_separator: Annotated[
        str | None,
        typer.Option("--key-separator", metavar="S", help=r"What precedes the first S in a line is the key; \t works."),
    ] = None,
    acks: Annotated[
        str, typer.Option("--acks", metavar="all|1|0", help="Wait for all in-sync replicas, the leader, or nobody.")
    ] = "all",
    compression: Annotated[
        CompressionChoice | None, typer.Option("--compression", help="Codec of the batches.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("-p", "--partition", min=0, help="Default: by key, or spread.")
    ] = None,
) -> None:
    """Write records: each line of the input is one.

    Stops at the first record that fails. The summary goes to standard error (standard output with -o json).
    """
    from logcluster.cli.produce import ProduceOptions, acks_option, produce

    producer: dict[str, Any] = {"acks": acks_option(acks)}
    if compression is not None:
        producer["compression"] = compression.value
    separator = separator_bytes(key_separator) if key_separator is not None else None
    await produce(settings, ProduceOptions(topic, file, separator, partition, producer))


async def consume_command(
    settings: Settings,
    topic: TopicArgument,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="beginning, end, an offset, or a time: -15m, now, 2026-11-22T08:00, @1700000000000 (ms).",
        ),
    ] = "beginning",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="PLACE", help="Stop before this place; without it, wait for more records."),
    ] = None,
    count_max: Annotated[int | None, typer.Option("-n", "--max", min=1, help="Stop after so many records.")] = None,
    record_format: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            metavar="FORMAT",
            help=r"%t topic %p partition %o offset %k key %v %s value %h headers %T time %K %S lengths, \n \t, "
            "%v{hex}, %v{base64}. [default: %v\\n]",
        ),
    ] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("-p", "--partition", min=0, help="Only this one; may be repeated.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "-g", "--group", help="Share the partitions with the group's other members, and go on where it stopped."
        ),
    ] = None,
) -> None:
    """Read records: the value of each on a line, or by format, or as JSON lines with -o json.

    Reads all partitions, each in its order, and waits for more until Ctrl-C; --until and -n give it an end. In a group,
    --from says where to begin what the group has not read yet.
    """
    from logcluster.cli.consume import ConsumeOptions, consume
    from logcluster.runtime.clock import SystemClock

    now_ms = SystemClock().now_ms()
    if record_format is not None:
        format_record = compile_format(record_format)
    else:
        format_record = json_line if settings.is_json else value_per_line
    options = ConsumeOptions(
        topic=topic,
        start=place(start, now_ms=now_ms),
        until=None if until is None else place(until, now_ms=now_ms),
        count_max=count_max,
        partitions=partitions or None,
        format_record=format_record,
        group=group,
    )
    await consume(settings, options)
