"""A real broker that dies at a failpoint of its choice, and what is there when it is started again."""

from __future__ import annotations

import asyncio

import pytest

from logcluster.devcluster.processes import ProcessState
from logcluster.runtime.failpoints import ENVIRONMENT_VARIABLE
from logcluster.storage.checkpoints import CLEAN_SHUTDOWN_FILE
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

TOPIC = "payments"


async def has_ended(cluster: Cluster, broker_id: int) -> None:
    async with asyncio.timeout(60):
        while cluster.state(broker_id) is not ProcessState.STOPPED:
            await asyncio.sleep(0.02)


async def read_values(cluster: Cluster) -> list[bytes]:
    async with cluster.client() as client, client.consumer(TOPIC, start="earliest", until="end") as consumer:
        return [record.value async for record in consumer if record.value is not None]


async def test_what_died_between_append_and_answer_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [b"%d" % number for number in range(40)]
    async with Cluster(brokers=1) as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic(TOPIC, partitions=1, replication_factor=1)
        await cluster.stop(0)
        with monkeypatch.context() as armed:
            armed.setenv(ENVIRONMENT_VARIABLE, "produce.before_answer=crash@20")
            await cluster.start(0)

        async def write() -> list[int]:
            async with cluster.client() as client, client.producer() as producer:
                return [(await producer.send(TOPIC, value)).offset for value in values]

        writing = asyncio.create_task(write())
        await has_ended(cluster, 0)
        assert '"failpoint": "produce.before_answer", "action": "crash", "hit": 20' in cluster.logs(0)
        assert not writing.done()

        await cluster.start(0)  # not armed
        assert await writing == list(range(40))
        assert await read_values(cluster) == values


async def test_a_shutdown_that_died_before_its_marker_is_an_unclean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(brokers=1) as cluster:
        with monkeypatch.context() as armed:
            armed.setenv(ENVIRONMENT_VARIABLE, "storage.log_manager.close.before_clean_marker=crash")
            await cluster.processes.stop([0])
            await cluster.start(0)
        async with cluster.client() as client:
            await client.admin.create_topic(TOPIC, partitions=1, replication_factor=1)
            async with client.producer() as producer:
                await producer.send(TOPIC, b"1")

        directory = cluster.node(0).data_directory
        await cluster.stop(0)
        assert '"failpoint": "storage.log_manager.close.before_clean_marker"' in cluster.logs(0)
        assert not list(directory.rglob(CLEAN_SHUTDOWN_FILE))

        await cluster.start(0)
        assert await read_values(cluster) == [b"1"]
        await cluster.stop(0)
        assert list(directory.rglob(CLEAN_SHUTDOWN_FILE))
