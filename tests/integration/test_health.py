"""What nodes say of themselves while they are killed, paused, cut off and stopped: a readiness that lies is a bug."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
SESSION_TIMEOUT_S = 1.5
PARTITIONS = 12
SERVICES = ("", "logcluster.v1.DataService", "logcluster.v1.GroupService", "logcluster.v1.MetadataService",
            "logcluster.v1.AdminService")  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(brokers=3) as running:
        async with running.client() as client:
            await client.admin.create_topic("orders", partitions=PARTITIONS, replication_factor=3)
        await until_all_ready(running)
        yield running


async def page(cluster: Cluster, broker_id: int, path: str, *, timeout_s: float = 1.0) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one page; status 0 when nobody answers."""
    plan = cluster.node(broker_id)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(plan.host, plan.ports.http)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, {}
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if body else (0, {})


async def serving(cluster: Cluster, broker_id: int) -> dict[str, bool]:
    """What the standard health service says of each service."""
    plan = cluster.node(broker_id)
    async with grpc.aio.insecure_channel(plan.grpc_endpoint) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return {
            name: (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)).status
            == health_pb2.HealthCheckResponse.SERVING
            for name in SERVICES
        }


async def until(holds: Any, seconds: float = 20) -> Any:
    """Wait until the coroutine function gives something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (found := await holds()):
            await asyncio.sleep(0.02)
        return found


async def until_all_ready(cluster: Cluster) -> None:
    for broker_id in cluster.broker_ids:
        await until(lambda broker_id=broker_id: is_ready(cluster, broker_id))


async def is_ready(cluster: Cluster, broker_id: int) -> bool:
    return (await page(cluster, broker_id, "/readyz"))[0] == 200


async def send(cluster: Cluster, count: int) -> None:
    async with cluster.client() as client, client.producer() as producer:
        for number in range(count):
            await producer.send("orders", b"x" * 1000, partition=number % PARTITIONS)


async def out_of_sync(cluster: Cluster, broker_id: int) -> list[int]:
    """Partitions whose in-sync replicas lack the broker, as committed."""
    async with cluster.client() as client:
        partitions = (await client.admin.describe_topic("orders")).partitions
    return [found.partition for found in partitions if broker_id not in found.in_sync_replicas]


async def first_ready(cluster: Cluster, broker_id: int) -> list[tuple[int, dict[str, Any]]]:
    """Ask without pause until the node says that it is ready; all answers before that."""
    before: list[tuple[int, dict[str, Any]]] = []

    async def ask() -> bool:
        status, facts = await page(cluster, broker_id, "/readyz")
        if status != 200:
            before.append((status, facts))
        return status == 200

    await until(ask)
    return before


async def test_a_ready_node_says_so_on_every_page_and_for_every_service(cluster: Cluster) -> None:
    for broker_id in cluster.broker_ids:
        assert await page(cluster, broker_id, "/livez") == (200, {"node_id": broker_id, "live": True, "reasons": []})
        status, facts = await page(cluster, broker_id, "/startupz")
        assert (status, facts["started"]) == (200, True)
        status, facts = await page(cluster, broker_id, "/readyz")
        assert (status, facts["reasons"], facts["state"], facts["draining"]) == (200, [], "active", False)

        assert all((await serving(cluster, broker_id)).values())


async def test_a_killed_node_is_ready_again_only_when_it_is_in_sync_everywhere(cluster: Cluster) -> None:
    await cluster.kill(1)
    assert (await page(cluster, 1, "/readyz"))[0] == 0
    await send(cluster, 300)
    assert len(await out_of_sync(cluster, 1)) == PARTITIONS
    assert await is_ready(cluster, 0), "a lost neighbour makes nobody else unready"
    await cluster.start(1, wait=False)

    await first_ready(cluster, 1)

    assert await out_of_sync(cluster, 1) == []


async def test_a_paused_node_does_not_speak_of_before_when_it_runs_again(cluster: Cluster) -> None:
    await until_all_ready(cluster)
    await cluster.pause(2)
    assert (await page(cluster, 2, "/readyz", timeout_s=0.3))[0] == 0

    async def is_replaced() -> bool:
        return len(await out_of_sync(cluster, 2)) == PARTITIONS

    await until(is_replaced)
    await send(cluster, 300)
    await cluster.resume(2)

    answers = await first_ready(cluster, 2)

    assert await out_of_sync(cluster, 2) == []
    reasons = {reason.split(" for ")[0] for _, facts in answers for reason in facts.get("reasons", [])}
    assert "the process stood still" in reasons, answers
    assert all(status == 503 for status, _ in answers)


async def test_a_node_that_hears_nobody_is_alive_and_not_ready_and_its_services_are_closed(cluster: Cluster) -> None:
    await until_all_ready(cluster)
    loop = asyncio.get_running_loop()
    for other in (0, 1):
        await cluster.pause(other)
    cut_at = loop.time()
    try:

        async def is_unready() -> bool:
            return not await is_ready(cluster, 2)

        await until(is_unready, 5)
        assert loop.time() - cut_at < SESSION_TIMEOUT_S + 0.5
        await asyncio.sleep(SESSION_TIMEOUT_S)
        status, facts = await page(cluster, 2, "/readyz")
        assert status == 503
        assert any("no heartbeat was answered for" in reason for reason in facts["reasons"]), facts
        assert any("the metadata quorum has no leader" in reason for reason in facts["reasons"]), facts
        assert (await page(cluster, 2, "/livez"))[0] == 200, "a restart would not bring the others back"
        assert (await page(cluster, 2, "/startupz"))[0] == 200
        assert not any((await serving(cluster, 2)).values())
    finally:
        for other in (0, 1):
            await cluster.resume(other)
    await until_all_ready(cluster)
    assert [await out_of_sync(cluster, broker_id) for broker_id in cluster.broker_ids] == [[], [], []]


async def test_a_stopped_node_never_says_that_it_is_ready_after_the_signal(cluster: Cluster) -> None:
    await until_all_ready(cluster)
    stopping = asyncio.ensure_future(cluster.stop(0))
    try:

        async def is_unready() -> bool:
            return not await is_ready(cluster, 0)

        await until(is_unready, 5)
        while not stopping.done():
            status, facts = await page(cluster, 0, "/readyz", timeout_s=0.5)
            assert status in {0, 503}, facts
    finally:
        await stopping
    await cluster.start(0, wait=False)

    await first_ready(cluster, 0)

    assert await out_of_sync(cluster, 0) == []
