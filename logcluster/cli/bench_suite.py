"""`logcluster bench all`: every benchmark into one document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from logcluster.cli.bench_failover import failover_once
from logcluster.cli.bench_report import Figures, Target, machine_facts, repeated, target
from logcluster.cli.bench_start import idle_once, startup_once
from logcluster.cli.bench_work import (
    TopicShape,
    batches_once,
    consume_once,
    latency_once,
    produce_once,
    send_once,
)
from logcluster.cli.command import Settings
from logcluster.cli.output import note, print_json, print_table

Work = Callable[[Target], Awaitable[Figures]]


def _workloads(*, is_quick: bool) -> dict[str, Work]:
    records = 100_000 if is_quick else 1_000_000
    seconds = 2.0 if is_quick else 5.0
    shape, one = TopicShape(), TopicShape(partitions=1)
    relaxed = TopicShape(flush_mode="async")
    return {
        "produce": lambda target: produce_once(
            target, records=records, size_bytes=100, shape=shape, producer_options={}
        ),
        "produce_async": lambda target: produce_once(
            target, records=records, size_bytes=100, shape=relaxed, producer_options={}
        ),
        "produce_zstd": lambda target: produce_once(
            target, records=records, size_bytes=100, shape=shape, producer_options={"compression": "zstd"}
        ),
        "batches_1k": lambda target: batches_once(target, size_bytes=1024, in_flight=100, seconds=seconds, shape=shape),
        "batches_64k": lambda target: batches_once(
            target, size_bytes=64 * 1024, in_flight=32, seconds=seconds, shape=shape
        ),
        "send": lambda target: send_once(target, senders=200, records=records // 5, size_bytes=100, shape=shape),
        "consume": lambda target: consume_once(target, records=records, size_bytes=100, shape=shape),
        "latency": lambda target: latency_once(
            target, records=500 if is_quick else 2_000, rate=500, size_bytes=100, shape=one
        ),
        "idle": lambda target: idle_once(target, seconds=3 if is_quick else 10, large=300 if is_quick else 1_000),
    }


async def run_all(settings: Settings, *, is_quick: bool) -> None:
    """Run everything on one temporary cluster (or the one named), then what needs clusters of its own."""
    runs = 1 if is_quick else 3
    results: dict[str, Figures] = {}
    async with target(settings) as cluster:
        for name, work in _workloads(is_quick=is_quick).items():
            note(f"bench {name}")
            results[name] = await repeated(runs, lambda _, work=work: work(cluster), title=name)  # type: ignore[misc]
    if not settings.has_bootstrap:
        note("bench failover")
        async with target(settings) as cluster:
            results["failover"] = await failover_once(cluster, kills=2 if is_quick else 10, rate=200)
        note("bench startup")
        results["startup"] = await repeated(runs, lambda _: startup_once(brokers=3), title="startup")
    if settings.is_json:
        print_json({"bench": "all", "quick": is_quick, "machine": machine_facts(), "results": results})
        return
    rows: list[dict[str, object]] = [
        {"bench": name, "figure": key, "median": value}
        for name, figures in results.items()
        for key, value in figures.items()
        if not isinstance(value, list | dict)
    ]
    print_table(["bench", "figure", "median"], rows)
