"""Measures what metrics cost: the same Produce calls with and without them, in one run.

    python bench/metrics.py [--pairs 600] [--clusters] [--rounds 15]

Two clusters of three nodes, one with metrics and one without, run in this very process, client included. Short slices
of calls alternate between them; each pair of slices gives a difference in processor time per call, and the median of
the differences is what metrics add. Neighbours on the machine disturb both halves of a pair alike, so this is exact
to a fraction of a microsecond. `ratio` is of all processor time, the client's too.

`--clusters` adds loads on two clusters of processes, turn by turn: medians of the rounds' ratios, with quartiles; on a
busy machine these spread by ten percent and more. With it comes `ratio_of_brokers`: what the pairs have found to be
added, against what the brokers alone spend on a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import logcluster
from logcluster import config
from logcluster.cli.bench_report import Target
from logcluster.cli.bench_work import TopicShape, batches_once, leader_calls, produce_once, sample_values
from logcluster.cli.command import CommandFailed
from logcluster.devcluster.layout import free_ports, plan_nodes, write_configs
from logcluster.node import Node
from logcluster.observability import logs
from logcluster.record.builder import build_batch
from logcluster.runtime import process
from logcluster.runtime.entropy import SystemEntropy
from logcluster.testing import Cluster
from logcluster.wire.gen.logcluster.v1 import data_pb2

Figures = dict[str, Any]
Work = Callable[[Target], Awaitable[Figures]]
Slice = Callable[[], Awaitable[float]]
SHAPE = TopicShape(partitions=6, replication_factor=3, flush_mode="async")
ON = {"metrics": {"per_partition": "always"}}
OFF = {"metrics": {"enabled": False, "per_partition": "never"}}
# Six nodes share one event loop here: nobody shall be fenced for being slow.
PATIENT = {"broker": {"session_timeout_ms": 60_000}, "quorum": {"election_timeout_ms": 20_000}}
CALLS_PER_SLICE = 320
IN_FLIGHT = 32


@asynccontextmanager
async def nodes_in_process(settings: dict[str, dict[str, object]]) -> AsyncIterator[tuple[str, list[Node]]]:
    """Three nodes on the running loop; gives the bootstrap address and the nodes."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logcluster-bench-")))
        plans = plan_nodes(folder, free_ports(3, SystemEntropy().stream("ports")))
        write_configs(plans, cluster_id=folder.name, settings={**settings, **PATIENT})
        nodes = [Node(config.load(plan.config_path), lane_only=True) for plan in plans]
        for node in nodes:
            await stack.enter_async_context(node)
        while not all(node.lifecycle.broker_epoch is not None and not node.lifecycle.is_fenced for node in nodes):
            await asyncio.sleep(0.05)
        yield ",".join(plan.grpc_endpoint for plan in plans), nodes


async def slices(bootstrap: str, stack: AsyncExitStack) -> Slice:
    """A coroutine that makes `CALLS_PER_SLICE` calls and gives the processor time of each, in microseconds."""
    client = await stack.enter_async_context(logcluster.connect(bootstrap))
    await client.admin.create_topic(
        "bench", partitions=SHAPE.partitions, replication_factor=3, config={"flush.mode": SHAPE.flush_mode}
    )
    calls = await leader_calls(client, "bench")
    batch = build_batch([(1, None, sample_values(1024)[0][:1024], ())])
    requests = [
        data_pb2.ProduceRequest(
            acks=data_pb2.ACKS_ALL,
            timeout_ms=30_000,
            partitions=[data_pb2.PartitionProduce(topic="bench", partition=partition, batch=batch)],
        )
        for partition in range(len(calls))
    ]

    async def worker(number: int) -> None:
        for turn in range(CALLS_PER_SLICE // IN_FLIGHT):
            place = (number + turn) % len(calls)
            await calls[place](requests[place], timeout=30)

    async def run() -> float:
        began = time.process_time_ns()
        await asyncio.gather(*[worker(number) for number in range(IN_FLIGHT)])
        return (time.process_time_ns() - began) / CALLS_PER_SLICE / 1000

    await asyncio.sleep(1)  # every broker has heard of the topic
    return run


async def in_one_process(pairs: int) -> Figures:
    """The paired comparison."""
    async with (
        nodes_in_process(ON) as (with_bootstrap, nodes),
        nodes_in_process(OFF) as (without_bootstrap, _),
        AsyncExitStack() as stack,
    ):
        with_metrics = await slices(with_bootstrap, stack)
        without = await slices(without_bootstrap, stack)
        process.tune_garbage_collector()
        found: list[tuple[float, float]] = []
        for number in range(pairs + 20):
            if number % 2:
                first, second = await with_metrics(), await without()
            else:
                second, first = await without(), await with_metrics()
            if number >= 20:
                found.append((first, second))
        scrapes = []
        for _ in range(20):
            began = time.perf_counter()
            nodes[0].metrics.render()
            scrapes.append((time.perf_counter() - began) * 1000)
    differences = [first - second for first, second in found]
    base = statistics.median(second for _, second in found)
    added = statistics.median(differences)
    # The median's standard error, from the quartiles as for a normal distribution.
    low, _, high = statistics.quantiles(differences, n=4)
    error = 1.253 * (high - low) / 1.349 / len(differences) ** 0.5
    return {
        "pairs": pairs,
        "cpu_us_per_call_without": round(base, 1),
        "cpu_us_added": round(added, 2),
        "cpu_us_added_error": round(error, 2),
        "ratio": round(1 + added / base, 4),
        "scrape_ms": round(statistics.median(scrapes), 1),
    }


async def repeated(work: Work, target: Target) -> Figures:
    """Run it; once more when the new topic was not known everywhere at once, as happens on a busy machine."""
    try:
        return await work(target)
    except CommandFailed:
        return await work(target)


async def compare(targets: dict[str, Target], work: Work, *, rounds: int, unit: str) -> Figures:
    """Run `work` on both, `rounds` times, after one round that does not count."""
    runs: dict[str, list[Figures]] = {name: [] for name in targets}
    for number in range(rounds + 1):
        for name in sorted(targets, reverse=number % 2 == 0):
            figures = await repeated(work, targets[name])
            if number:
                cpu_us = figures["broker_cpu_s"] / figures[unit] * 1e6
                runs[name].append({"broker_cpu_us": cpu_us, "per_s": figures[f"{unit}_per_s"]})
    result: Figures = {"unit": unit}
    for name, found in runs.items():
        result[name] = {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}
    for key in ("broker_cpu_us", "per_s"):
        ratios = [with_[key] / without[key] for with_, without in zip(runs["with"], runs["without"], strict=True)]
        result[f"{key}_ratio_quartiles"] = [round(one, 3) for one in statistics.quantiles(ratios, n=4)]
    return result


async def on_clusters(rounds: int) -> Figures:
    """The comparison between clusters of processes."""

    def batches(target: Target) -> Awaitable[Figures]:
        return batches_once(target, size_bytes=1024, in_flight=100, seconds=2, shape=SHAPE)

    def produce(target: Target) -> Awaitable[Figures]:
        return produce_once(target, records=1_000_000, size_bytes=100, shape=SHAPE, producer_options={})

    async with Cluster(brokers=3, settings=ON) as with_metrics, Cluster(brokers=3, settings=OFF) as without:
        targets = {
            "with": Target(with_metrics.bootstrap, {}, with_metrics),
            "without": Target(without.bootstrap, {}, without),
        }
        return {
            "calls_of_one_1k_batch": await compare(targets, batches, rounds=rounds, unit="batches"),
            "producer_of_100_byte_records": await compare(targets, produce, rounds=rounds, unit="records"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--clusters", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    logs.configure(level="error", format_name="console", node_id=0)
    result: Figures = {"python": platform.python_version(), "paired": asyncio.run(in_one_process(options.pairs))}
    if options.clusters:
        result["clusters"] = clusters = asyncio.run(on_clusters(options.rounds))
        spent_us = clusters["calls_of_one_1k_batch"]["without"]["broker_cpu_us"]
        result["ratio_of_brokers"] = round(1 + result["paired"]["cpu_us_added"] / spent_us, 4)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
