"""Promise P8: a damaged log is noticed, serves nothing, and is fetched again, while its partition goes on.

First one data plane after the other over the loopback carrier, with a controller played by the test; then real broker
processes, where a byte on disk is changed behind their backs.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from data_plane_world import TOPIC_ID, Broker, World, eventually, raise_for

from logcluster.client.client import Client
from logcluster.model.errors import CorruptLog, Disconnected, NotLeaderOrFollower
from logcluster.model.ids import TopicIdPartition
from logcluster.record.batch import decode_records, iterate_headers, validate_batch
from logcluster.record.builder import build_batch
from logcluster.storage.checkpoints import read_partition_checkpoints
from logcluster.storage.log import PartitionLog
from logcluster.storage.posix_filesystem import PosixFilesystem
from logcluster.testing import Cluster

KEY = TopicIdPartition(TOPIC_ID, 0)


# -- one broker at a time ----------------------------------------------------------------------------------------


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        world.controller.create_topic()
        for number in range(10):
            raise_for(await world.produce(1, b"value-%d" % number))
        yield world


def values(log: PartitionLog) -> list[bytes]:
    data = log.read(log.log_start_offset, size_bytes_max=1 << 30, end_offset=log.log_end_offset).data
    return [
        record.value or b""
        for position, header in iterate_headers(data)
        for record in decode_records(data[position : position + header.size_bytes])
    ]


def damage(broker: Broker, text: bytes) -> None:
    """Change one stored bit in the middle of the log, and make sure that it is read from there."""
    log = broker.partition().log
    log._tail.clear()
    path = log._segments[0].path
    position = log._segments[0].open_for_read().read_at(0, 1 << 20).index(text)
    broker.disk.flip_bit(path, position * 8)  # type: ignore[attr-defined]


def set_aside(broker: Broker) -> list[str]:
    return [name for name in broker.disk.list("/node/data") if ".quarantined-" in name]


async def test_a_leader_that_reads_damaged_bytes_serves_nothing_and_says_so(world: World) -> None:
    damage(world[1], b"value-5")
    answer = await world.fetch(1, 0)
    with pytest.raises(CorruptLog):
        raise_for(answer)
    assert answer.batches == b""
    manager = world[1].manager
    await eventually(lambda: not list(manager.partitions))
    assert dict(manager.failed_replicas) == {KEY: 0}
    for refused in (await world.fetch(1, 0), await world.produce(1, b"lost")):
        with pytest.raises(NotLeaderOrFollower):
            raise_for(refused)


async def test_the_damaged_leader_fetches_everything_from_its_successor_into_a_new_log(world: World) -> None:
    damage(world[1], b"value-5")
    await world.fetch(1, 0)
    await eventually(lambda: bool(world[1].manager.failed_replicas))
    world.controller.change(leader_id=2, in_sync_replicas=(2, 3))
    assert not world[1].manager.failed_replicas
    raise_for(await world.produce(2, b"after"))
    await eventually(lambda: 1 in world.controller.registration().in_sync_replicas)
    assert values(world[1].partition().log) == [*(b"value-%d" % number for number in range(10)), b"after"]
    assert len(set_aside(world[1])) == 1


async def test_a_producer_that_waits_while_its_leader_steps_aside_gets_an_indefinite_answer(world: World) -> None:
    assert world.network is not None
    for follower in ("broker-2", "broker-3"):
        world.network.cut("broker-1", follower)
    waiting = asyncio.ensure_future(world.produce(1, b"in doubt"))
    await eventually(lambda: len(world[1].partition().waiters) == 1)
    world[1].partition().log.fail(CorruptLog("found by a scrub"))
    with pytest.raises(Disconnected) as failed:
        raise_for(await waiting)
    assert not failed.value.definite


async def test_an_append_between_the_damage_and_the_step_aside_is_refused_definitely(world: World) -> None:
    partition = world[1].partition()
    partition.log.fail(CorruptLog("found by a scrub"))
    batch = build_batch([(1, None, b"x", [])])
    header = validate_batch(batch, size_bytes_max=1 << 20)
    with pytest.raises(NotLeaderOrFollower) as refused:
        partition.append_as_leader(batch, header, acks_all=True)
    assert refused.value.definite


async def test_the_damaged_log_is_kept_within_the_leader_epoch_in_which_it_took_part(world: World) -> None:
    world[3].partition().log.fail(CorruptLog("found by a scrub"))
    await eventually(lambda: not list(world[3].manager.partitions))
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    assert dict(world[3].manager.failed_replicas) == {KEY: 0}
    assert not set_aside(world[3])
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2))
    assert not world[3].manager.failed_replicas
    await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)
    assert len(set_aside(world[3])) == 1
    assert len(values(world[3].partition().log)) == 10


async def test_the_last_copy_is_kept_and_reported_as_long_as_there_is_no_leader(world: World) -> None:
    world.controller.change(leader_id=1, in_sync_replicas=(1,), new_epoch=False)
    world[1].partition().log.fail(CorruptLog("found by a scrub"))
    await eventually(lambda: bool(world[1].manager.failed_replicas))
    world.controller.change(leader_id=None, in_sync_replicas=(), eligible=(1,))
    assert dict(world[1].manager.failed_replicas) == {KEY: 1}
    assert not set_aside(world[1])
    await world[1].stop()
    await world[1].start()
    assert dict(world[1].manager.failed_replicas) == {KEY: 1}
    assert not set_aside(world[1])


async def test_the_last_copy_takes_part_again_once_it_can_be_read(world: World) -> None:
    world.controller.change(leader_id=1, in_sync_replicas=(1,), new_epoch=False)
    log = world[1].partition().log
    log._tail.clear()
    world[1].disk.fail_next("read", errno.EIO, path_contains=".log", count=3)  # type: ignore[attr-defined]
    assert (await world.fetch(1, 0)).batches == b""
    await eventually(lambda: bool(world[1].manager.failed_replicas))
    world.controller.change(leader_id=None, in_sync_replicas=(), eligible=(1,))
    await eventually(lambda: not world[1].manager.failed_replicas)
    assert not set_aside(world[1])
    world.controller.change(leader_id=1, in_sync_replicas=(1,))
    assert values(world[1].partition().log) == [b"value-%d" % number for number in range(10)]
    await eventually(lambda: len(world.controller.registration().in_sync_replicas) > 1)
    raise_for(await world.produce(1, b"after"))


async def test_news_of_the_damage_that_comes_after_the_metadata_harms_no_new_log(world: World) -> None:
    partition = world[3].partition()
    partition.log.fail(CorruptLog("found by a scrub"))
    # The word from the reader's thread is still under way when the new leader epoch arrives.
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2))
    fresh = world[3].partition()
    assert fresh is not partition
    await eventually(lambda: 3 in world.controller.registration().in_sync_replicas)
    assert world[3].partition() is fresh
    assert not world[3].manager.failed_replicas


async def test_metadata_that_comes_before_the_news_of_the_damage_replaces_no_log_used_in_its_epoch(
    world: World,
) -> None:
    waiting = world[3].partition()
    waiting.log.fail(CorruptLog("found by a scrub"))
    world.controller.change(leader_id=1, in_sync_replicas=(1, 2), new_epoch=False)
    assert not set_aside(world[3])
    assert dict(world[3].manager.failed_replicas) == {KEY: 0}
    assert waiting.follower is None


async def test_a_deleted_topic_is_reported_no_more(world: World) -> None:
    world[3].partition().log.fail(CorruptLog("found by a scrub"))
    await eventually(lambda: bool(world[3].manager.failed_replicas))
    world.controller.remove_topic()
    assert not world[3].manager.failed_replicas


# -- broker processes --------------------------------------------------------------------------------------------

TOPIC = "orders"
RECORDS = 200
FAST_CHECKPOINTS = {"data": {"checkpoint_interval_ms": 100}}


def value(number: int) -> bytes:
    return b"value-%06d-" % number + b"x" * 500


async def produce(client: Client, first: int, count: int) -> None:
    """Send one record per batch; returns when all are acknowledged."""
    async with client.producer() as producer:
        for number in range(first, first + count):
            await producer.send(TOPIC, value(number))


async def read_all(client: Client) -> list[bytes]:
    """Everything, as readers get it; whoever meets the damage is told so, and reads again."""
    for _ in range(2):
        try:
            async with client.consumer(TOPIC, start="earliest", until="end") as consumer:
                return [record.value or b"" async for record in consumer]
        except CorruptLog:
            continue
    raise AssertionError("the damage is still in the way")


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def wait_in_sync(client: Client, members: set[int]) -> None:
    async with asyncio.timeout(20):
        while set((await client.admin.describe_topic(TOPIC)).partitions[0].in_sync_replicas) != members:
            await asyncio.sleep(0.02)


def log_files(cluster: Cluster, broker_id: int, pattern: str = f"{TOPIC}-0.*") -> list[Path]:
    found = cluster.node(broker_id).data_directory.glob(f"{pattern}/*.log")
    return [path for path in found if (".quarantined-" in path.parent.name) == (".quarantined-" in pattern)]


def flip_byte(path: Path, text: bytes) -> None:
    """Damage the batch that holds `text`."""
    with path.open("r+b") as file:
        position = file.read().index(text)
        file.seek(position)
        file.write(b"V")


def recovery_point(cluster: Cluster, broker_id: int) -> int:
    stored = read_partition_checkpoints(PosixFilesystem(), str(cluster.node(broker_id).data_directory)) or {}
    return max((found.recovery_point for name, found in stored.items() if name.startswith(f"{TOPIC}-0.")), default=0)


async def check_repaired(cluster: Cluster, client: Client, broker_id: int, *, count: int) -> None:
    """All records are there, the replica is back with sound bytes, and the damaged ones are kept aside."""
    await wait_in_sync(client, {0, 1, 2})
    assert await read_all(client) == [value(number) for number in range(count)]
    (new,) = log_files(cluster, broker_id)
    assert all(value(number) in new.read_bytes() for number in range(count))
    (old,) = log_files(cluster, broker_id, f"{TOPIC}-0.*.quarantined-*")
    assert b"Value-" in old.read_bytes()
    assert b"Value-" not in new.read_bytes()


@pytest.mark.cluster
@pytest.mark.timeout(120)
async def test_a_leader_restarted_on_a_damaged_log_fetches_it_again_and_nothing_acked_is_lost() -> None:
    async with Cluster(brokers=3, settings=FAST_CHECKPOINTS) as cluster, cluster.client() as client:
        await client.admin.create_topic(TOPIC, partitions=1, replication_factor=3)
        await produce(client, 0, RECORDS)
        leader_id = await cluster.leader_of(TOPIC, 0)
        await wait_for(lambda: recovery_point(cluster, leader_id) == RECORDS)
        await cluster.kill(leader_id)
        (path,) = log_files(cluster, leader_id)
        flip_byte(path, value(RECORDS // 2))
        await produce(client, RECORDS, 20)
        await cluster.start(leader_id)
        await produce(client, RECORDS + 20, 20)
        await check_repaired(cluster, client, leader_id, count=RECORDS + 40)
        assert "damaged" in cluster.logs(leader_id)


@pytest.mark.cluster
@pytest.mark.timeout(120)
async def test_a_leader_that_meets_damage_while_it_serves_gives_way_and_nothing_acked_is_lost() -> None:
    settings = {**FAST_CHECKPOINTS, "broker": {"leader_rebalance_interval_ms": 600_000}}
    async with Cluster(brokers=3, settings=settings) as cluster, cluster.client() as client:
        await client.admin.create_topic(TOPIC, partitions=1, replication_factor=3)
        await produce(client, 0, RECORDS)
        leader_id = await cluster.leader_of(TOPIC, 0)
        # After a clean stop the files are taken as they are, and nothing of them is in memory.
        await cluster.stop(leader_id)
        await cluster.start(leader_id)
        await wait_in_sync(client, {0, 1, 2})
        await client.admin.elect_leaders([(TOPIC, 0)])
        assert await cluster.leader_of(TOPIC, 0) == leader_id
        (path,) = log_files(cluster, leader_id)
        flip_byte(path, value(RECORDS // 2))
        assert await read_all(client) == [value(number) for number in range(RECORDS)]
        assert await cluster.leader_of(TOPIC, 0) != leader_id
        await produce(client, RECORDS, 20)
        await check_repaired(cluster, client, leader_id, count=RECORDS + 20)


@pytest.mark.cluster
@pytest.mark.timeout(120)
async def test_the_last_copy_is_taken_out_of_service_and_kept() -> None:
    async with Cluster(brokers=3, settings=FAST_CHECKPOINTS) as cluster, cluster.client() as client:
        await client.admin.create_topic(TOPIC, partitions=1, replication_factor=1)
        await produce(client, 0, 20)
        leader_id = await cluster.leader_of(TOPIC, 0)
        await cluster.stop(leader_id)
        (path,) = log_files(cluster, leader_id)
        sound = path.read_bytes()
        flip_byte(path, value(10))
        await cluster.start(leader_id)
        await cluster.leader_of(TOPIC, 0)
        # Offsets by number need no leader to be looked up: the first fetch may already have taken it out of service.
        async with client.consumer(TOPIC, start={0: 0}, until={0: 20}) as consumer:
            with suppress(CorruptLog):
                assert await consumer.read(20, timeout_ms=1_000) == []
        async with asyncio.timeout(20):
            while (facts := (await client.admin.describe_topic(TOPIC)).partitions[0]).leader_id is not None:
                await asyncio.sleep(0.02)
        assert (list(facts.in_sync_replicas), list(facts.eligible_leader_replicas)) == ([], [leader_id])
        await cluster.stop(leader_id)
        await cluster.start(leader_id)
        assert (await client.admin.describe_topic(TOPIC)).partitions[0].leader_id is None
        (path,) = log_files(cluster, leader_id)
        assert path.read_bytes() == sound.replace(value(10), b"V" + value(10)[1:])
