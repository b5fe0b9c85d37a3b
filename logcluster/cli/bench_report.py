"""What every benchmark shares: the cluster under test, repeated runs, percentiles, the report.

A benchmark is a coroutine that runs once and returns figures by name. It is repeated `runs` times; the report gives
the median of each figure and keeps the single runs. Without --bootstrap the cluster is a temporary one of its own.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from logcluster.cli.command import Settings
from logcluster.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from logcluster.client.client import Client
    from logcluster.testing import Cluster

Figures = dict[str, Any]
BROKERS_DEFAULT: Final = 3


@dataclass(slots=True)
class Target:
    """The cluster under test; `cluster` is None when it is somebody else's."""

    bootstrap: str
    client_options: dict[str, Any] = field(default_factory=dict)
    cluster: Cluster | None = None

    def client(self) -> Client:
        """A client, not yet connected."""
        import logcluster

        return logcluster.connect(self.bootstrap, **self.client_options)

    def server_usage(self) -> Figures:
        """Processor seconds and memory of the brokers so far; empty for somebody else's cluster."""
        from logcluster.devcluster.processes import usage_of

        if self.cluster is None:
            return {}
        processes = self.cluster.processes
        usages = [usage_of(processes.identities.get(node_id)) for node_id in processes.plans]
        known = [usage for usage in usages if usage is not None]
        return {
            "broker_cpu_s": sum(usage.cpu_ms for usage in known) / 1000,
            "broker_rss_mb_max": max((usage.resident_size_bytes for usage in known), default=0) / 1e6,
        }


@asynccontextmanager
async def target(
    settings: Settings, *, brokers: int = BROKERS_DEFAULT, transport: str = "lane"
) -> AsyncIterator[Target]:
    """The cluster that --bootstrap names, or a temporary one."""
    from logcluster.testing import Cluster

    options: dict[str, Any] = {"transport": transport}
    if settings.has_bootstrap:
        yield Target(settings.bootstrap, {**options, "tls": settings.tls or False})
        return
    async with Cluster(brokers=brokers) as cluster:
        yield Target(cluster.bootstrap, options, cluster)


async def repeated(runs: int, work: Callable[[int], Awaitable[Figures]], *, title: str) -> Figures:
    """Run `work` with 0, 1, … and give the median of each figure, with the single runs under `runs`."""
    results: list[Figures] = []
    for number in range(runs):
        if runs > 1:
            note(f"{title}: run {number + 1} of {runs}")
        results.append(await work(number))
    return {**medians(results), "runs": results}


def medians(results: Sequence[Figures]) -> Figures:
    """The median of each number; texts and lists are taken from the first run."""
    summary: Figures = {}
    for name, value in results[0].items():
        numbers = [result[name] for result in results if isinstance(result.get(name), int | float)]
        summary[name] = statistics.median(numbers) if numbers and not isinstance(value, bool) else value
    return summary


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the (sorted, non-empty) values do not exceed."""
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def latency_figures(name: str, nanoseconds: list[int]) -> Figures:
    """p50, p99 and worst of the durations, in milliseconds; empty without any."""
    if not nanoseconds:
        return {}
    ordered = sorted(duration / 1e6 for duration in nanoseconds)
    return {
        f"{name}_p50_ms": round(percentile(ordered, 50), 3),
        f"{name}_p99_ms": round(percentile(ordered, 99), 3),
        f"{name}_max_ms": round(ordered[-1], 3),
    }


def difference(before: Figures, after: Figures) -> Figures:
    """What the brokers used between two readings; memory is the later one."""
    if not before or not after:
        return {}
    return {
        "broker_cpu_s": round(after["broker_cpu_s"] - before["broker_cpu_s"], 2),
        "broker_rss_mb_max": round(after["broker_rss_mb_max"], 1),
    }


def machine_facts() -> Figures:
    """What the figures were measured on."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def report(settings: Settings, name: str, figures: Figures) -> None:
    """Print one benchmark's figures."""
    if settings.is_json:
        print_json({"bench": name, "machine": machine_facts(), **figures})
        return
    rows: list[dict[str, object]] = [
        {"figure": key, "median": value} for key, value in figures.items() if not isinstance(value, list | dict)
    ]
    print_table([name, "median"], [{name: row["figure"], "median": row["median"]} for row in rows])
