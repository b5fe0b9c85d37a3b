"""`logcluster bench`: the options of each benchmark; the work is in `bench_work`, `bench_failover`, `bench_start`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logcluster.cli.command import Settings, command, new_group
from logcluster.cli.values import size_bytes

if TYPE_CHECKING:
    from logcluster.cli.bench_report import Figures, Target

app = new_group("Measure a cluster: a temporary one of three brokers, or the one that --bootstrap names.")


class FlushMode(StrEnum):
    """When a replica counts a record as its own."""

    SYNC = "sync"
    ASYNC = "async"


class Transport(StrEnum):
    """Which carrier the client uses."""

    LANE = "lane"
    GRPC = "grpc"


RunsOption = Annotated[int, typer.Option("--runs", min=1, help="Repeat; the medians are printed.")]
SizeOption = Annotated[str, typer.Option("--size", metavar="BYTES", help="Size of a value: 100, 64KiB.")]
RecordsOption = Annotated[int, typer.Option("--records", min=1, help="How many records.")]
PartitionsOption = Annotated[int, typer.Option("--partitions", min=1, help="Partitions of the topic.")]
ReplicasOption = Annotated[int, typer.Option("--replicas", min=1, help="Replicas of each partition.")]
FlushOption = Annotated[FlushMode, typer.Option("--flush-mode", help="sync: on disk before the acknowledgement.")]
TransportOption = Annotated[Transport, typer.Option("--transport", help="The client's carrier.")]


async def _measure(
    settings: Settings, name: str, runs: int, work: Callable[[Target], Awaitable[Figures]], *, transport: str = "lane"
) -> None:
    from logcluster.cli.bench_report import repeated, report, target

    async with target(settings, transport=transport) as cluster:
        report(settings, name, await repeated(runs, lambda _: work(cluster), title=name))


@command(app, "produce", example="logcluster bench produce --size 100 --records 1000000 --flush-mode async")
async def produce(
    settings: Settings,
    size: SizeOption = "100",
    records: RecordsOption = 1_000_000,
    batch_size: Annotated[str | None, typer.Option("--batch-size", metavar="BYTES", help="Of the producer.")] = None,
    compression: Annotated[str, typer.Option("--compression", help="none, zstd, lz4, snappy or gzip.")] = "none",
    flush_mode: FlushOption = FlushMode.SYNC,
    transport: TransportOption = Transport.LANE,
    partitions: PartitionsOption = 6,
    replicas: ReplicasOption = 3,
    runs: RunsOption = 3,
) -> None:
    """Throughput of one producer, acks=all."""
    from logcluster.cli.bench_work import TopicShape, produce_once

    options: dict[str, Any] = {"compression": compression}
    if batch_size is not None:
        options["batch_size_bytes"] = size_bytes(batch_size)
    shape = TopicShape(partitions=partitions, replication_factor=replicas, flush_mode=flush_mode.value)
    value_size = size_bytes(size)
    await _measure(
        settings,
        "produce",
        runs,
        lambda target: produce_once(
            target, records=records, size_bytes=value_size, shape=shape, producer_options=options
        ),
        transport=transport.value,
    )


@command(
    app,
    "batches",
    example="logcluster bench batches --size 1024 --in-flight 100\nlogcluster bench batches --size 64KiB",
)
async def batches(
    settings: Settings,
    size: SizeOption = "1024",
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="Calls open at once.")] = 100,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long.")] = 5.0,
    flush_mode: FlushOption = FlushMode.SYNC,
    transport: TransportOption = Transport.LANE,
    partitions: PartitionsOption = 6,
    replicas: ReplicasOption = 3,
    runs: RunsOption = 3,
) -> None:
    """Raw Produce calls with prebuilt batches: what the brokers can do."""
    from logcluster.cli.bench_work import TopicShape, batches_once

    shape = TopicShape(partitions=partitions, replication_factor=replicas, flush_mode=flush_mode.value)
    value_size = size_bytes(size)
    await _measure(
        settings,
        "batches",
        runs,
        lambda target: batches_once(target, size_bytes=value_size, in_flight=in_flight, seconds=seconds, shape=shape),
        transport=transport.value,
    )


@command(app, "send", example="logcluster bench send --senders 200")
async def send(
    settings: Settings,
    senders: Annotated[int, typer.Option("--senders", min=1, help="Tasks that each await one send at a time.")] = 200,
    size: SizeOption = "100",
    records: RecordsOption = 50_000,
    flush_mode: FlushOption = FlushMode.SYNC,
    transport: TransportOption = Transport.LANE,
    partitions: PartitionsOption = 6,
    replicas: ReplicasOption = 3,
    runs: RunsOption = 3,
) -> None:
    """Many concurrent `await producer.send()`."""
    from logcluster.cli.bench_work import TopicShape, send_once

    shape = TopicShape(partitions=partitions, replication_factor=replicas, flush_mode=flush_mode.value)
    value_size = size_bytes(size)
    await _measure(
        settings,
        "send",
        runs,
        lambda target: send_once(target, senders=senders, records=records, size_bytes=value_size, shape=shape),
        transport=transport.value,
    )


@command(app, "consume", example="logcluster bench consume --records 1000000")
async def consume(
    settings: Settings,
    size: SizeOption = "100",
    records: RecordsOption = 1_000_000,
    transport: TransportOption = Transport.LANE,
    partitions: PartitionsOption = 6,
    replicas: ReplicasOption = 3,
    runs: RunsOption = 3,
) -> None:
    """Throughput of one consumer that reads a topic from its beginning."""
    from logcluster.cli.bench_work import TopicShape, consume_once

    shape = TopicShape(partitions=partitions, replication_factor=replicas)
    value_size = size_bytes(size)
    await _measure(
        settings,
        "consume",
        runs,
        lambda target: consume_once(target, records=records, size_bytes=value_size, shape=shape),
        transport=transport.value,
    )


@command(app, "latency", example="logcluster bench latency --rate 500 -o json")
async def latency(
    settings: Settings,
    size: SizeOption = "100",
    records: RecordsOption = 2_000,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Records per second, end to end.")] = 500,
    flush_mode: FlushOption = FlushMode.SYNC,
    transport: TransportOption = Transport.LANE,
    replicas: ReplicasOption = 3,
    runs: RunsOption = 3,
) -> None:
    """Acknowledgement with one record in flight, and from send to receipt at a fixed rate: p50, p99, worst."""
    from logcluster.cli.bench_work import TopicShape, latency_once

    shape = TopicShape(partitions=1, replication_factor=replicas, flush_mode=flush_mode.value)
    value_size = size_bytes(size)
    await _measure(
        settings,
        "latency",
        runs,
        lambda target: latency_once(target, records=records, rate=rate, size_bytes=value_size, shape=shape),
        transport=transport.value,
    )


@command(app, "failover", example="logcluster bench failover --kills 10 --rate 200")
async def failover(
    settings: Settings,
    kills: Annotated[int, typer.Option("--kills", min=1, help="How often the leader is killed.")] = 10,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Acknowledged writes per second.")] = 200,
    runs: RunsOption = 1,
) -> None:
    """Kill the leader with -9 under load: how long writes stop, and proof that nothing is lost."""
    from logcluster.cli.bench_failover import failover_once

    await _measure(settings, "failover", runs, lambda target: failover_once(target, kills=kills, rate=rate))


@command(app, "idle", example="logcluster bench idle --seconds 10")
async def idle(
    settings: Settings,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="How long to watch.")] = 10.0,
    runs: RunsOption = 1,
) -> None:
    """Memory and processor time at rest, and the time to create a topic of 1,000 partitions."""
    from logcluster.cli.bench_start import idle_once

    await _measure(settings, "idle", runs, lambda target: idle_once(target, seconds=seconds))


@command(app, "startup", example="logcluster bench startup --runs 5")
async def startup(
    settings: Settings,
    brokers: Annotated[int, typer.Option("-n", "--nodes", min=1, help="How many brokers.")] = 3,
    runs: RunsOption = 3,
) -> None:
    """Time until a fresh cluster is ready, memory of a fresh broker, import time."""
    from logcluster.cli.bench_report import repeated, report
    from logcluster.cli.bench_start import startup_once

    report(settings, "startup", await repeated(runs, lambda _: startup_once(brokers=brokers), title="startup"))


@command(app, "all", example="logcluster bench all --quick -o json > bench.json")
async def every(
    settings: Settings,
    quick: Annotated[bool, typer.Option("--quick", help="Small counts, one run: seconds instead of minutes.")] = False,
) -> None:
    """Every benchmark, one after another, into one document."""
    from logcluster.cli.bench_suite import run_all

    await run_all(settings, is_quick=quick)
