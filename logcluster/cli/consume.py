"""`logcluster consume`: records to standard output, by value, by format or as JSON lines.

Batches are written whole, so that a pipe gets few large writes; on a terminal every record appears at once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from logcluster.cli.command import Settings
from logcluster.cli.connection import open_client
from logcluster.cli.formats import Formatter
from logcluster.cli.values import Place, PlaceKind

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.client.records import Point

BATCH_RECORDS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """What the command line says about where to begin, where to stop, and how to print."""

    topic: str
    start: Place
    until: Place | None
    count_max: int | None
    partitions: list[int] | None
    format_record: Formatter
    group: str | None = None


async def consume(settings: Settings, options: ConsumeOptions) -> None:
    """Print records until the end that was asked for, or until Ctrl-C."""
    async with open_client(settings) as client:
        await client.admin.describe_topic(options.topic)
        await _print_records(client, options)


async def _print_records(client: Client, options: ConsumeOptions) -> None:
    write = sys.stdout.buffer.write
    format_record = options.format_record
    group: dict[str, Any] = {} if options.group is None else {"group": options.group}
    async with client.consumer(
        options.topic,
        start=_point(options.start),
        until=None if options.until is None else _point(options.until),
        partitions=options.partitions,
        max_records=options.count_max,
        **group,
    ) as consumer:
        async for batch in consumer.batches(max_records=BATCH_RECORDS_MAX):
            write(b"".join([format_record(record) for record in batch]))
            sys.stdout.buffer.flush()


def _point(place: Place) -> Point:
    from logcluster.client.records import Timestamp

    if place.kind is PlaceKind.BEGINNING:
        return "earliest"
    if place.kind is PlaceKind.END:
        return "latest"
    return place.value if place.kind is PlaceKind.OFFSET else Timestamp(place.value)
