"""The workloads: each makes a topic of its own, runs once, removes the topic and returns figures.

Values are random bytes that compress about as well as text (half of each is a repeated pattern). Rates count
acknowledged records; durations include the last acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from logcluster.cli.bench_report import Figures, Target, difference, latency_figures
from logcluster.cli.command import CommandFailed
from logcluster.runtime.clock import SystemClock, perf_counter_ns
from logcluster.runtime.entropy import SeededEntropy, SystemEntropy
from logcluster.runtime.scope import TaskScope

if TYPE_CHECKING:
    from logcluster.client.client import Client

TURN_RECORDS: Final = 2_000
VALUES: Final = 64
"""Different values that a workload cycles through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicShape:
    """The topic a workload writes to."""

    partitions: int = 6
    replication_factor: int = 3
    flush_mode: str = "sync"


def sample_values(size_bytes: int) -> list[bytes]:
    """Values of exactly this size, the same in every run."""
    stream = SeededEntropy(7).stream("values")
    half = size_bytes // 2
    return [stream.randbytes(half) + b"abcdefgh" * (half // 8 + 1) for _ in range(VALUES)]


def trimmed(values: list[bytes], size_bytes: int) -> list[bytes]:
    """The values cut to size."""
    return [value[:size_bytes] for value in values]


@asynccontextmanager
async def bench_topic(client: Client, shape: TopicShape) -> AsyncIterator[str]:
    """A fresh topic, with a leader for each partition, deleted afterwards."""
    name = f"bench-{SystemEntropy().random_id().hex()[:12]}"
    replicas = shape.replication_factor
    config = {"flush.mode": shape.flush_mode}
    if replicas < 2:
        config["min.insync.replicas"] = "1"
    await client.admin.create_topic(name, partitions=shape.partitions, replication_factor=replicas, config=config)
    try:
        yield name
    finally:
        await client.admin.delete_topic(name)


async def produce_once(
    target: Target, *, records: int, size_bytes: int, shape: TopicShape, producer_options: dict[str, Any]
) -> Figures:
    """Throughput of the producer: `send_nowait` as fast as the buffer allows."""
    values = trimmed(sample_values(size_bytes), size_bytes)
    async with target.client() as client, bench_topic(client, shape) as topic:
        async with client.producer(**producer_options) as producer:
            await producer.send(topic, b"warm-up")
            before, start_ns = target.server_usage(), perf_counter_ns()
            chunk = values * (TURN_RECORDS // VALUES + 1)
            left = records
            while left > 0:
                count = min(left, 100_000)
                await producer.send_many(topic, (chunk[number % TURN_RECORDS] for number in range(count)))
                left -= count
            seconds = (perf_counter_ns() - start_ns) / 1e9
        after = target.server_usage()
    return {
        "records": records,
        "size_bytes": size_bytes,
        "seconds": round(seconds, 3),
        "records_per_s": round(records / seconds),
        "mb_per_s": round(records * size_bytes / seconds / 1e6, 1),
        **difference(before, after),
    }


async def batches_once(
    target: Target, *, size_bytes: int, in_flight: int, seconds: float, shape: TopicShape
) -> Figures:
    """Raw Produce calls with a batch of one record each, built once: what the brokers do, without the producer."""
    from logcluster.record.builder import build_batch
    from logcluster.wire.gen.logcluster.v1 import data_pb2

    value = trimmed(sample_values(size_bytes), size_bytes)[0]
    batch = build_batch([(SystemClock().now_ms(), None, value, ())])
    latencies: list[int] = []
    async with target.client() as client, bench_topic(client, shape) as topic:
        calls = await leader_calls(client, topic)
        requests = [
            data_pb2.ProduceRequest(
                acks=data_pb2.ACKS_ALL,
                timeout_ms=30_000,
                partitions=[data_pb2.PartitionProduce(topic=topic, partition=partition, batch=batch)],
            )
            for partition in range(len(calls))
        ]
        end_ns = 0

        async def worker(number: int) -> None:
            call, request = calls[number % len(calls)], requests[number % len(calls)]
            while perf_counter_ns() < end_ns:
                began_ns = perf_counter_ns()
                response = await call(request, timeout=30)
                if response.partitions[0].error.code:
                    raise CommandFailed(response.partitions[0].error.message)
                latencies.append(perf_counter_ns() - began_ns)

        before, start_ns = target.server_usage(), perf_counter_ns()
        end_ns = start_ns + int(seconds * 1e9)
        await run_workers([worker(number) for number in range(in_flight)])
        elapsed_s = (perf_counter_ns() - start_ns) / 1e9
        after = target.server_usage()
    return {
        "size_bytes": size_bytes,
        "in_flight": in_flight,
        "batches": len(latencies),
        "batches_per_s": round(len(latencies) / elapsed_s),
        "mb_per_s": round(len(latencies) * size_bytes / elapsed_s / 1e6, 1),
        **latency_figures("ack", latencies),
        **difference(before, after),
    }


async def leader_calls(client: Client, topic: str) -> list[Any]:
    """The Produce call of each partition's leader, by partition number."""
    while True:
        facts = await client.admin.describe_topic(topic)
        leaders = [partition.leader_id for partition in facts.partitions]
        if all(leader is not None for leader in leaders):
            # The raw calls are no part of the public client.
            stubs = client._open().connections.stubs
            return [stubs(leader).data.Produce for leader in leaders if leader is not None]
        await SystemClock().sleep_ms(20)


async def run_workers(works: list[Any]) -> None:
    """Run coroutines side by side; the first failure ends all."""
    async with TaskScope("bench") as scope:
        tasks = [scope.spawn(work, name=f"worker-{number}") for number, work in enumerate(works)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()


async def send_once(target: Target, *, senders: int, records: int, size_bytes: int, shape: TopicShape) -> Figures:
    """Many tasks that each await one `send()` after another, as a web service would."""
    values = trimmed(sample_values(size_bytes), size_bytes)
    latencies: list[int] = []
    async with target.client() as client, bench_topic(client, shape) as topic, client.producer() as producer:
        await producer.send(topic, b"warm-up")

        async def sender(number: int) -> None:
            for _ in range(records // senders):
                began_ns = perf_counter_ns()
                await producer.send(topic, values[number % VALUES])
                latencies.append(perf_counter_ns() - began_ns)

        before, start_ns = target.server_usage(), perf_counter_ns()
        await run_workers([sender(number) for number in range(senders)])
        seconds = (perf_counter_ns() - start_ns) / 1e9
        after = target.server_usage()
    return {
        "senders": senders,
        "records": len(latencies),
        "seconds": round(seconds, 3),
        "records_per_s": round(len(latencies) / seconds),
        **latency_figures("ack", latencies),
        **difference(before, after),
    }


async def consume_once(target: Target, *, records: int, size_bytes: int, shape: TopicShape) -> Figures:
    """Read a topic from its beginning: by batches, and record by record."""
    values = trimmed(sample_values(size_bytes), size_bytes)
    async with target.client() as client, bench_topic(client, shape) as topic:
        async with client.producer() as producer:
            await producer.send_many(topic, (values[number % VALUES] for number in range(records)))
        before, start_ns = target.server_usage(), perf_counter_ns()
        count = 0
        async with client.consumer(topic, start="earliest", until="latest") as consumer:
            async for batch in consumer.batches():
                count += len(batch)
        batches_s = (perf_counter_ns() - start_ns) / 1e9
        after = target.server_usage()
        start_ns, single = perf_counter_ns(), 0
        async with client.consumer(topic, start="earliest", until="latest") as consumer:
            async for _record in consumer:
                single += 1
        single_s = (perf_counter_ns() - start_ns) / 1e9
    if count != records or single != records:
        raise CommandFailed(f"wrote {records} records and read {count} and {single}")
    return {
        "records": records,
        "size_bytes": size_bytes,
        "records_per_s": round(records / batches_s),
        "mb_per_s": round(records * size_bytes / batches_s / 1e6, 1),
        "single_records_per_s": round(records / single_s),
        **difference(before, after),
    }


async def latency_once(target: Target, *, records: int, rate: int, size_bytes: int, shape: TopicShape) -> Figures:
    """Acknowledgement with one record in flight; then from send to receipt at a fixed rate."""
    value = trimmed(sample_values(size_bytes), size_bytes)[0]
    async with target.client() as client, bench_topic(client, shape) as topic, client.producer() as producer:
        for _ in range(20):
            await producer.send(topic, value)
        acks: list[int] = []
        for _ in range(records):
            began_ns = perf_counter_ns()
            await producer.send(topic, value)
            acks.append(perf_counter_ns() - began_ns)
        end_to_end = await _end_to_end(client, producer, topic, records=records, rate=rate)
    return {
        "records": records,
        "rate_per_s": rate,
        **latency_figures("ack", acks),
        **latency_figures("end_to_end", end_to_end),
    }


async def _end_to_end(client: Client, producer: Any, topic: str, *, records: int, rate: int) -> list[int]:
    """Send the time itself, `rate` times a second; the reader subtracts."""
    clock = SystemClock()
    durations: list[int] = []
    async with client.consumer(topic, start="latest", max_records=records) as consumer, TaskScope("bench") as scope:

        async def receive() -> None:
            async for record in consumer:
                durations.append(perf_counter_ns() - int(record.value or b"0"))

        receiver = scope.spawn(receive(), name="receive")
        pending: deque[Any] = deque()
        start_ns = perf_counter_ns()
        for number in range(records):
            due_ns = start_ns + number * 1_000_000_000 // rate
            while perf_counter_ns() < due_ns:
                await clock.sleep_ms(max(0, (due_ns - perf_counter_ns()) // 1_000_000))
            pending.append(producer.send_nowait(topic, b"%d" % perf_counter_ns()))
        await producer.flush()
        await receiver
    return durations
