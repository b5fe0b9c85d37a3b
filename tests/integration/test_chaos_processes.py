"""Faults of the process target on a real cluster, three voters and one more broker: each must show in its effect."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

import logcluster
from chaos.interfaces import CLIENTS, ClusterOptions, FaultFailed
from chaos.targets.base import why_no_mounts
from chaos.targets.processes import ProcessTarget
from logcluster.client.client import Client
from logcluster.model.errors import LogClusterError
from logcluster.wire.gen.logcluster.v1 import metadata_pb2, metadata_pb2_grpc

Partition = metadata_pb2.Partition

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
HOUR_MS = 3_600_000


class Cluster:
    """The target, and questions to the cluster on it."""

    def __init__(self, target: ProcessTarget, client: Client) -> None:
        self.target = target
        self.client = client
        self.silent: set[int] = set()
        self._topics = 0

    async def topic(self, leader: int = 0, brokers: Sequence[int] = (0, 1, 2), **config: object) -> str:
        """A topic with one partition on these brokers, led by this one."""
        self._topics += 1
        name = f"topic-{self._topics}"
        replicas = [leader, *(broker for broker in brokers if broker != leader)]
        settings = {"min.insync.replicas": 2, **{key.replace("_", "."): value for key, value in config.items()}}
        await self.client.admin.create_topic(name, assignments=[replicas], config=settings)
        await self.until(topic=name, holds=lambda facts: len(facts.in_sync_replicas) == 3)
        return name

    async def send(self, topic: str, *values: bytes, acks: str = "all") -> list[logcluster.RecordAck]:
        async with self.client.producer(acks=acks) as producer:  # type: ignore[arg-type]
            return [await producer.send(topic, value) for value in values]

    async def read(self, topic: str) -> list[bytes | None]:
        async with self.client.consumer(topic, start="earliest", until="end") as consumer:
            return [record.value async for record in consumer]

    async def until(self, *, topic: str, holds: Callable[[Partition], bool], seconds: float = 20) -> None:
        """Wait until the topic's partition is so, by the newest that any broker knows."""
        async with asyncio.timeout(seconds):
            while True:
                answers = [
                    await metadata_of(address, topic)
                    for broker, address in self.target.observer_endpoints().items()
                    if self.target.is_running(broker) and broker not in self.silent
                ]
                newest = max(filter(None, answers), key=lambda answer: answer.metadata_offset, default=None)
                if newest is not None and newest.topics and holds(newest.topics[0].partitions[0]):
                    return
                await asyncio.sleep(0.05)

    async def whole(self, topic: str, *, leader: int | None = None) -> None:
        """Wait until everybody is in sync again."""
        await self.until(
            topic=topic,
            holds=lambda facts: len(facts.in_sync_replicas) == 3 and leader in {None, facts.leader_id},
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    target = ProcessTarget()
    settings = {"data": {"checkpoint_interval_ms": 300}, "broker": {"replica_lag_time_max_ms": 2_000}}
    await target.start(
        ClusterOptions(brokers=4, is_disk_lazy=True, settings=settings), tmp_path_factory.mktemp("chaos")
    )
    try:
        async with logcluster.connect(target.bootstrap()) as client:
            yield Cluster(target, client)
    finally:
        pids = [target.pid(broker) for broker in target.broker_ids]
        await target.stop()
        assert not [pid for pid in pids if pid is not None and Path(f"/proc/{pid}").exists()]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def healed(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A test that fails leaves the cluster as it was for the next one."""
    yield
    if "cluster" not in request.fixturenames:
        return
    target: ProcessTarget = request.getfixturevalue("cluster").target
    for broker in target.broker_ids:
        await target.resume(broker)
        if not target.is_running(broker):
            await target.start_broker(broker, wait=False)
        await target.slow_disk(broker, delay_ms=0)
    await target.heal_links()
    try:
        await target.wait_ready(timeout_ms=10_000)
    except FaultFailed:
        for broker in target.broker_ids:
            await target.kill(broker)
            await target.start_broker(broker, wait=False)
        await target.wait_ready()


async def took_ms(work: Awaitable[object]) -> int:
    began = time.monotonic()
    await work
    return round((time.monotonic() - began) * 1000)


async def metadata_of(address: str, topic: str) -> metadata_pb2.GetMetadataResponse | None:
    """What one broker knows, which asks nobody else; None when it does not answer within a second."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = metadata_pb2_grpc.MetadataServiceStub(channel)
        try:
            return await stub.GetMetadata(metadata_pb2.GetMetadataRequest(topics=[topic]), timeout=1)
        except grpc.aio.AioRpcError:
            return None


async def leader_as_told_by(address: str, topic: str) -> int | None:
    answer = await metadata_of(address, topic)
    return None if answer is None else answer.topics[0].partitions[0].leader_id


async def link_count(cluster: Cluster, broker: int, peer: int | str, name: str) -> int:
    links = (await cluster.target.status(broker))["links"]
    return int(links.get(str(peer), {}).get(name, 0))


async def test_a_leader_cut_off_from_its_followers_gives_way_and_clients_still_reach_it(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=0)
    await cluster.send(topic, b"before")
    for other in (1, 2):
        await target.cut(0, other)
        await target.cut(other, 0)
    await cluster.send(topic, b"only on the old leader", acks="leader")
    assert await link_count(cluster, 0, 1, "held_up_bytes_total") > 0
    await cluster.until(topic=topic, holds=lambda facts: facts.leader_id in {1, 2}, seconds=10)
    for address in (target.bootstrap().split(",")[0], target.observer_endpoints()[0]):
        assert await leader_as_told_by(address, topic) == 0
    await cluster.send(topic, b"during")
    await target.heal_links()
    assert await link_count(cluster, 0, 1, "held_out_bytes") == 0
    await cluster.whole(topic)
    assert await cluster.read(topic) == [b"before", b"during"]


async def test_clients_cut_off_from_a_leader_wait_and_no_other_one_is_elected(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=1)
    await target.cut(CLIENTS, 1)
    sending = asyncio.create_task(cluster.send(topic, b"late"))
    await asyncio.sleep(2)
    assert not sending.done()
    assert await leader_as_told_by(target.bootstrap().split(",")[2], topic) == 1
    assert await leader_as_told_by(target.bootstrap().split(",")[1], topic) is None
    assert await leader_as_told_by(target.observer_endpoints()[1], topic) == 1
    await target.heal_link(CLIENTS, 1)
    assert (await asyncio.wait_for(sending, 15))[0].offset == 0


async def test_a_power_loss_of_all_takes_what_is_not_synced_and_nothing_else(cluster: Cluster) -> None:
    target = cluster.target
    synced, unsynced = await cluster.topic(), await cluster.topic(flush_mode="async")
    values = [b"%d" % number for number in range(200)]
    # Lazily flushed topics are flushed once in a while too; so far they are, and then the power goes.
    for _ in range(5):
        await cluster.send(synced, *values[:40])
        del values[:40]
    acknowledged = await cluster.send(unsynced, b"x" * 100_000)
    assert (await target.status(0))["pending_bytes"] > 0
    await target.power_loss(target.broker_ids)
    assert not any(target.is_running(broker) for broker in target.broker_ids)
    for broker in target.broker_ids:
        await target.start_broker(broker, wait=False)
    await cluster.whole(synced)
    assert await cluster.read(synced) == [b"%d" % number for number in range(200)]
    await cluster.whole(unsynced)
    assert acknowledged[0].offset == 0
    assert await cluster.read(unsynced) == []


async def test_a_paused_leader_gives_way_and_takes_no_faults_in(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=2)
    await target.pause(2)
    cluster.silent.add(2)
    try:
        assert target.is_running(2)
        with pytest.raises(FaultFailed, match="paused"):
            await target.cut(2, 0)
        await cluster.until(topic=topic, holds=lambda facts: facts.leader_id in {0, 1}, seconds=10)
        await cluster.send(topic, b"during")
    finally:
        cluster.silent.clear()
        await target.resume(2)
    await cluster.whole(topic)


async def test_a_slow_disk_delays_acknowledgements(cluster: Cluster) -> None:
    topic = await cluster.topic(leader=0)
    await cluster.target.slow_disk(0, delay_ms=150)
    assert await took_ms(cluster.send(topic, b"slow")) >= 300  # a write and a sync
    await cluster.target.slow_disk(0, delay_ms=0)
    await cluster.send(topic, b"first")
    assert await took_ms(cluster.send(topic, b"fast")) < 300
    assert (await cluster.target.status(0))["disk"]["delayed-sync"] >= 1


async def test_a_failed_sync_stops_one_broker_only(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=0)
    await target.fail_disk(1, operation="sync", error="EIO", count=1)
    await cluster.send(topic, b"one", b"two")
    await cluster.until(topic=topic, holds=lambda facts: sorted(facts.in_sync_replicas) == [0, 2], seconds=10)
    assert "EIO" in target.log_path(1).read_text() or "Input/output error" in target.log_path(1).read_text()
    assert target.is_running(1)
    await target.kill(1)
    await target.start_broker(1)
    await cluster.whole(topic)
    assert await cluster.read(topic) == [b"one", b"two"]


async def test_a_node_ends_when_its_quorum_store_fails(cluster: Cluster) -> None:
    target = cluster.target
    await target.fail_disk(2, operation="write", error="ENOSPC", count=1, area="stores")
    await cluster.whole(await cluster.topic(brokers=(0, 1, 3)))  # which the quorum writes down
    async with asyncio.timeout(10):
        while target.is_running(2):
            await asyncio.sleep(0.05)
    with pytest.raises(FaultFailed, match="does not run"):
        await target.pause(2)
    await target.start_broker(2)


async def test_a_wall_clock_jumps_also_for_the_next_process(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=1, message_timestamp_type="LogAppendTime")
    now_ms = round(time.time() * 1000)
    await target.jump_clock(1, by_ms=HOUR_MS)
    (ack,) = await cluster.send(topic, b"from the future")
    assert ack.timestamp_ms - now_ms == pytest.approx(HOUR_MS, abs=60_000)
    await target.kill(1)
    await target.start_broker(1)
    assert (await target.status(1))["now_ms"] - now_ms == pytest.approx(HOUR_MS, abs=60_000)
    await target.jump_clock(1, by_ms=-HOUR_MS)
    assert (await target.status(1))["now_ms"] - now_ms == pytest.approx(0, abs=60_000)
    await cluster.whole(topic)


async def test_links_are_slow_narrow_and_reset(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=0)
    for other in (1, 2):
        await target.delay(0, other, delay_ms=150, jitter_ms=20)
    assert await took_ms(cluster.send(topic, b"x")) >= 150
    await target.heal_links()
    await target.limit(CLIENTS, 0, bytes_per_s=200_000)
    async with cluster.client.producer(compression="none") as producer:
        assert await took_ms(producer.send(topic, os.urandom(100_000))) >= 400
    await target.heal_links()
    assert await took_ms(cluster.send(topic, b"x")) < 150
    log_before = target.log_path(1).read_text()
    await target.reset(0, 1)
    await cluster.send(topic, b"over a new connection")
    await cluster.whole(topic)
    assert (await target.status(0))["links"]["1"]["connections"] >= 1
    assert len(target.log_path(1).read_text()) > len(log_before)


async def test_a_cut_outlives_the_process_and_an_empty_disk_is_filled_again(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=0, brokers=(0, 1, 3))
    await cluster.send(topic, b"kept")
    await target.kill(3)
    for other in (0, 1, 2):
        await target.cut(3, other)
    await target.wipe(3)
    await target.start_broker(3, wait=False)
    with pytest.raises(FaultFailed, match="runs"):
        await target.wipe(3)
    await asyncio.sleep(1.5)
    answer = await metadata_of(target.observer_endpoints()[0], topic)
    assert answer is not None
    assert sorted(answer.topics[0].partitions[0].in_sync_replicas) == [0, 1]
    await target.heal_links()
    await cluster.whole(topic)


async def test_a_flipped_bit_is_found_and_repaired(cluster: Cluster) -> None:
    target = cluster.target
    topic = await cluster.topic(leader=0)
    await cluster.send(topic, *[b"%d" % number for number in range(20)])
    done = await target.damage(2, seed=5)
    assert "flipped bit" in done
    await target.terminate(2)
    await target.start_broker(2)
    await cluster.whole(topic)
    assert len(await cluster.read(topic)) == 20


@pytest.mark.skipif(bool(why_no_mounts()), reason="needs root to mount a filesystem")
async def test_a_small_filesystem_fills_up(tmp_path: Path) -> None:
    target = ProcessTarget()
    await target.start(ClusterOptions(brokers=1, disk_bytes_max=24 * 1024 * 1024), tmp_path)
    try:
        async with logcluster.connect(target.bootstrap()) as client:
            await client.admin.create_topic("full", partitions=1, replication_factor=1)
            async with client.producer(compression="none", delivery_timeout_ms=3_000) as producer:
                with pytest.raises(LogClusterError):
                    for _ in range(60):
                        await producer.send("full", bytes(500_000))
        assert "No space left" in target.log_path(0).read_text()
    finally:
        await target.stop()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


async def test_options_that_cannot_be_had_leave_nothing_behind(tmp_path: Path) -> None:
    target = ProcessTarget()
    with pytest.raises(FaultFailed, match="no ablation"):
        await target.start(ClusterOptions(brokers=1, ablations=("gravity",)), tmp_path)
    assert not target.is_running(0)
