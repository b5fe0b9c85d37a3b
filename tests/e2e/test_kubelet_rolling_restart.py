"""The manifests are run, not only read: real processes from the rendered pods, with their probes and preStop hooks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kubelet_support import Machine
from pod_support import named, of_kind, overlay, pods_of

import logcluster
from logcluster.client.client import Client

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
PARTITIONS = 6
PAUSE_S = 0.01
GAP_S_MAX = 1.0


@dataclass
class Writer:
    """Writes to one partition, one record after the other, as long as it is let."""

    partition: int
    acked: list[bytes] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    gap_s_max: float = 0.0

    async def run(self, client: Client, ending: asyncio.Event) -> None:
        async with client.producer() as producer:
            last = time.monotonic()
            number = 0
            while not ending.is_set():
                value = b"%d-%d" % (self.partition, number)
                try:
                    await producer.send("orders", value, partition=self.partition)
                    self.acked.append(value)
                except logcluster.LogClusterError as error:
                    self.failed.append(repr(error))
                now = time.monotonic()
                self.gap_s_max = max(self.gap_s_max, now - last)
                last = now
                number += 1
                await asyncio.sleep(PAUSE_S)


async def read_all(client: Client) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    async with client.consumer("orders", start="earliest", until="end") as consumer:
        async for record in consumer:
            assert record.value is not None
            found[record.partition].append(record.value)
    return found


async def test_a_rolling_restart_under_load_loses_nothing_and_stops_no_writer_for_a_second(tmp_path: Path) -> None:
    objects = overlay("three-node")
    stateful_set = named(objects, "StatefulSet", "logcluster")
    pods = pods_of(objects, stateful_set)
    async with Machine(tmp_path, pods, min_ready_s=stateful_set["spec"]["minReadySeconds"]) as machine:
        await machine.until_available(40)
        async with logcluster.connect(machine.bootstrap()) as client:
            await client.admin.create_topic("orders", partitions=PARTITIONS, replication_factor=3)
            before = {found.partition: found.leader_id for found in await partitions(client)}
            writers = [Writer(partition) for partition in range(PARTITIONS)]
            ending = asyncio.Event()
            writing = [asyncio.ensure_future(writer.run(client, ending)) for writer in writers]
            await asyncio.sleep(1)
            took = await machine.rolling_restart(40)
            ending.set()
            await asyncio.gather(*writing)
            found = await read_all(client)
            await client.admin.elect_leaders()
            after = {found.partition: found.leader_id for found in await partitions(client)}

    gaps = [writer.gap_s_max for writer in writers]
    print(f"stops took {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    print(f"{sum(len(writer.acked) for writer in writers)} records acked")
    print(f"longest gap of each partition: {', '.join(f'{gap * 1000:.0f}' for gap in gaps)} ms")
    assert machine.complaints == []
    assert [writer.failed for writer in writers] == [[]] * PARTITIONS
    for writer in writers:
        assert len(writer.acked) > 100
        assert found[writer.partition] == writer.acked, "every acked record once, in order, and no other"
    assert max(gaps) <= GAP_S_MAX
    assert after == before, "no drain outlives the restart: preferred replicas lead again"


async def partitions(client: Client) -> tuple[logcluster.client.metadata_cache.PartitionFacts, ...]:
    return (await client.admin.describe_topic("orders")).partitions


@pytest.mark.parametrize(("name", "replicas"), [("dev", 1), ("separate-controllers", 3)])
async def test_the_other_overlays_come_up_and_take_records(tmp_path: Path, name: str, replicas: int) -> None:
    objects = overlay(name)
    pods = [pod for found in of_kind(objects, "StatefulSet") for pod in pods_of(objects, found)]
    async with Machine(tmp_path, pods, min_ready_s=0) as machine:
        await machine.until_available(40)
        async with logcluster.connect(machine.bootstrap()) as client:
            await client.admin.create_topic("orders", partitions=PARTITIONS, replication_factor=replicas)
            async with client.producer() as producer:
                for number in range(PARTITIONS):
                    await producer.send("orders", b"%d" % number, partition=number)
            assert await read_all(client) == {number: [b"%d" % number] for number in range(PARTITIONS)}
            brokers = await client.admin.list_brokers()
        assert [broker.broker_id for broker in brokers] == list(range(replicas)), "controllers are no brokers"
        # One of each set: when all go together, the last ones wait in vain for what is not there any more.
        for last in {found.pod.labels["app.kubernetes.io/component"]: found for found in machine.pods}.values():
            await last.stop()
    assert machine.complaints == []
