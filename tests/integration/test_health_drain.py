"""`broker drain --self --wait` on real brokers: what it waits for, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from logcluster.client.client import Client
from logcluster.client.metadata_cache import PartitionFacts
from logcluster.devcluster.probe import readiness
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(brokers=3) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with cluster.client() as connected:
        await connected.admin.create_topic("orders", partitions=12, replication_factor=3)
        yield connected


async def drain(cluster: Cluster, broker_id: int, *options: str, timeout: str = "20s") -> tuple[int, str, str]:
    """The command as a pod's preStop hook runs it: with the node's own configuration, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGCLUSTER_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "logcluster", "broker", "drain", "--self", "--wait", "--timeout", timeout,
        "--config", str(cluster.node(broker_id).config_path), *options,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def partitions(client: Client, topic: str = "orders") -> tuple[PartitionFacts, ...]:
    return (await client.admin.describe_topic(topic)).partitions


async def until_in_sync(client: Client, topic: str = "orders") -> None:
    async with asyncio.timeout(20):
        while any(len(found.in_sync_replicas) < len(found.replicas) for found in await partitions(client, topic)):
            await asyncio.sleep(0.05)


async def until_leads(client: Client, broker_id: int) -> None:
    """Wait until a broker that is asked knows it; the one asked may be a moment behind the controller."""
    async with asyncio.timeout(20):
        while all(found.leader_id != broker_id for found in await partitions(client)):
            await asyncio.sleep(0.05)


async def test_leaderships_are_handed_over_and_the_drain_ends_with_the_command(
    cluster: Cluster, client: Client
) -> None:
    await until_in_sync(client)
    await client.admin.elect_leaders()  # whatever other tests have done to the cluster
    await until_leads(client, 1)

    code, output, errors = await drain(cluster, 1, "-o", "json")

    assert code == 0, errors
    assert json.loads(output) == {"broker_id": 1, "draining": False, "leaders_remaining": 0}
    assert (await readiness(cluster.node(1))).facts["draining"] is False
    await client.admin.elect_leaders()
    await until_leads(client, 1)


async def test_the_command_waits_for_others_to_be_in_sync_and_says_which_partitions_lack_them(
    cluster: Cluster, client: Client
) -> None:
    await until_in_sync(client)
    await cluster.kill(2)
    async with asyncio.timeout(10):
        while any(2 in found.in_sync_replicas for found in await partitions(client)):
            await asyncio.sleep(0.05)

    code, _, errors = await drain(cluster, 1, timeout="1s")
    assert code == 7
    assert "too few replicas would be in sync without it: orders-0" in errors

    waiting = asyncio.ensure_future(drain(cluster, 1))
    await asyncio.sleep(1)
    assert not waiting.done()
    assert (await readiness(cluster.node(1))).facts["draining"] is False, "killed now, it would leave nothing behind"
    await cluster.start(2, wait=False)
    code, _, errors = await waiting
    assert code == 0, errors
    assert all({0, 2} <= set(found.in_sync_replicas) for found in await partitions(client))


async def test_a_drain_until_the_restart_leaves_nothing_behind(cluster: Cluster, client: Client) -> None:
    await until_in_sync(client)
    await client.admin.drain_broker(1, until_restart=True)
    async with asyncio.timeout(10):
        while not (await readiness(cluster.node(1))).facts["draining"]:
            await asyncio.sleep(0.05)

    await cluster.kill(1)
    await cluster.start(1)

    assert (await readiness(cluster.node(1))).facts["draining"] is False


async def test_what_no_other_replica_can_hold_is_said_and_not_waited_for(cluster: Cluster, client: Client) -> None:
    await client.admin.create_topic("alone", assignments=[[1]])
    await until_in_sync(client)

    code, output, errors = await drain(cluster, 1, "-o", "json")

    assert code == 0, errors
    assert json.loads(output)["leaders_remaining"] == 1
    assert "alone-0: too few other replicas" in errors
    await client.admin.delete_topic("alone")
