"""`logcluster top` on real processes: rates under load, and a broker that is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from e2e_support import run_cli

from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@asynccontextmanager
async def load(cluster: Cluster, topic: str) -> AsyncIterator[None]:
    """Records go in, and a group reads them, while the block runs."""

    async def write() -> None:
        async with cluster.client() as client, client.producer() as producer:
            while True:
                await producer.send(topic, b"x" * 200)
                await asyncio.sleep(0.005)

    async def read() -> None:
        async with cluster.client() as client, client.consumer(topic, group="readers") as consumer:
            async for _ in consumer:
                pass

    tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def top(cluster: Cluster, *arguments: str) -> str:
    finished = await asyncio.to_thread(run_cli, "top", "--once", *arguments, bootstrap=cluster.bootstrap)
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished.stdout


async def top_json(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await top(cluster, "-o", "json"))
    return found


async def test_top_shows_rates_under_load_and_a_broker_that_was_killed() -> None:
    async with Cluster(brokers=3) as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic("orders", partitions=3, replication_factor=3)
        async with load(cluster, "orders"):
            await asyncio.sleep(2)
            found = await top_json(cluster)
        assert [broker["broker_id"] for broker in found["brokers"]] == cluster.broker_ids
        assert all(broker["reachable"] and broker["memory_bytes"] for broker in found["brokers"])
        assert sum(broker["is_controller"] for broker in found["brokers"]) == 1
        for rate in ("in_bytes_per_second", "out_bytes_per_second", "produce_per_second", "fetch_per_second"):
            assert sum(broker[rate] for broker in found["brokers"]) > 0, rate
        (orders,) = [topic for topic in found["topics"] if topic["topic"] == "orders"]
        assert orders["records_per_second"] > 0
        assert orders["bytes_per_second"] > 0
        assert orders["unknown_partitions"] == 0
        assert found["partitions"]["offline"] == 0
        (readers,) = found["groups"]
        assert readers["group"] == "readers"
        assert readers["members"] == 1
        assert readers["lag_records"] is not None

        victim = await cluster.leader_of("orders", 0)
        await cluster.kill(victim)
        await asyncio.sleep(3)
        found = await top_json(cluster)
        rows = {broker["broker_id"]: broker for broker in found["brokers"]}
        assert sorted(rows) == cluster.broker_ids
        assert [broker_id for broker_id, row in rows.items() if not row["reachable"]] == [victim]
        assert not found["healthy"]
        assert any(f"broker {victim}" in problem and "does not answer" in problem for problem in found["problems"])
        assert found["partitions"]["under_replicated"] > 0
        text = await top(cluster)
        assert "unreachable" in text
        assert "orders" in text
