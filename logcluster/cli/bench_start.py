"""Figures that need no load: time to start, memory and processor time at rest, a large topic, import time."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from logcluster.cli.bench_report import Figures, Target
from logcluster.runtime.clock import SystemClock, perf_counter_ns

IDLE_PARTITIONS: Final = 200
LARGE_TOPIC_PARTITIONS: Final = 1_000


async def startup_once(*, brokers: int) -> Figures:
    """From the first spawn until every broker is ready, with empty directories."""
    from logcluster.testing import Cluster

    start_ns = perf_counter_ns()
    async with Cluster(brokers=brokers) as cluster:
        ready_ms = (perf_counter_ns() - start_ns) / 1e6
        usage = Target(cluster.bootstrap, {}, cluster).server_usage()
    return {
        "brokers": brokers,
        "ready_ms": round(ready_ms),
        "broker_rss_mb_max": round(usage["broker_rss_mb_max"], 1),
        "import_logcluster_ms": _process_ms("import logcluster"),
        "help_ms": _process_ms("import sys; sys.argv[1:] = ['--help']; from logcluster.cli.app import main; main()"),
        "python_ms": _process_ms("pass"),
    }


def _process_ms(source: str) -> float:
    """Best of five runs of a Python process."""
    best = float("inf")
    for _ in range(5):
        start_ns = perf_counter_ns()
        subprocess.run([sys.executable, "-c", source], stdout=subprocess.DEVNULL, check=True)
        best = min(best, (perf_counter_ns() - start_ns) / 1e6)
    return round(best, 1)


async def idle_once(target: Target, *, seconds: float, large: int = LARGE_TOPIC_PARTITIONS) -> Figures:
    """Memory without topics, processor time with 200 idle partitions, time to create a topic of 1,000."""
    clock = SystemClock()
    figures: Figures = {}
    usage = target.server_usage()
    if usage:
        figures["broker_rss_idle_mb_max"] = round(usage["broker_rss_mb_max"], 1)
    async with target.client() as client:
        await client.admin.create_topic("bench-idle", partitions=IDLE_PARTITIONS, replication_factor=3)
        await clock.sleep_ms(2_000)
        before, start_ns = target.server_usage(), perf_counter_ns()
        await clock.sleep_ms(int(seconds * 1000))
        elapsed_s = (perf_counter_ns() - start_ns) / 1e9
        after = target.server_usage()
        if before:
            used_s = after["broker_cpu_s"] - before["broker_cpu_s"]
            figures["idle_partitions"] = IDLE_PARTITIONS
            figures["idle_cpu_percent_all_brokers"] = round(100 * used_s / elapsed_s, 2)
        start_ns = perf_counter_ns()
        await client.admin.create_topic("bench-large", partitions=large, replication_factor=3, timeout_ms=120_000)
        figures["large_topic_partitions"] = large
        figures["large_topic_create_ms"] = round((perf_counter_ns() - start_ns) / 1e6)
        for name in ("bench-large", "bench-idle"):
            await client.admin.delete_topic(name)
    return figures
