"""Group commit without added delay, its failure, and the hand-out of producer ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from test_partition_rim import SETTINGS, FakeHost, append, make_log, registration, report

from logcluster.broker.flusher import Flusher
from logcluster.broker.partition import Partition
from logcluster.broker.producer_ids import ProducerIds
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import LogClusterError, NotController
from logcluster.runtime.disk import Result
from logcluster.runtime.scope import TaskScope
from logcluster.sim.disk import SimulatedDisk


class HeldDisk:
    """An executor whose work ends when the test says so."""

    def __init__(self) -> None:
        self.held: list[asyncio.Future[None]] = []

    async def run(self, work: Callable[[], Result]) -> Result:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held.append(future)
        await future
        return work()

    def close(self) -> None:
        pass

    def release(self) -> None:
        held, self.held = self.held, []
        for future in held:
            future.set_result(None)


class FlushingHost(FakeHost):
    def __init__(self, flusher: Flusher) -> None:
        super().__init__()
        self.flusher = flusher

    def mark_dirty(self, partition: Partition) -> None:
        super().mark_dirty(partition)
        self.flusher.mark_dirty(partition)


def make(flusher: Flusher, disk: SimulatedDisk | None = None, **config: str) -> tuple[Partition, FlushingHost]:
    host = FlushingHost(flusher)
    overrides = {key.replace("_", "."): value for key, value in config.items()}
    partition = Partition(make_log(disk), TopicConfig.from_overrides(overrides), ProducerStates(), host)
    partition.lead(registration(), SETTINGS)
    report(partition, 0)
    return partition, host


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_first_append_is_flushed_at_once_and_what_follows_is_one_group() -> None:
    disk = HeldDisk()
    flusher = Flusher(disk, on_failure=pytest.fail)
    async with TaskScope("test") as scope:
        flusher.start(scope)
        partition, host = make(flusher)
        await turns()
        append(partition, b"a")
        await turns()
        assert len(disk.held) == 1, "no added delay when idle"
        for value in (b"b", b"c", b"d"):
            append(partition, value)
        await turns()
        assert len(disk.held) == 1, "one flush of a log at a time"
        assert len(host.dirty) == 1, "no wake-up per append while a flush is under way"
        disk.release()
        await turns()
        assert partition.log.flushed_offset == 1
        assert len(disk.held) == 1
        disk.release()
        await turns()
        assert partition.log.flushed_offset == 4
        assert not partition.is_dirty and not disk.held


async def test_several_logs_are_flushed_side_by_side() -> None:
    disk = HeldDisk()
    flusher = Flusher(disk, on_failure=pytest.fail, workers_max=2)
    async with TaskScope("test") as scope:
        flusher.start(scope)
        partitions = [make(flusher)[0] for _ in range(4)]
        await turns()
        for partition in partitions:
            append(partition, b"a")
        await turns()
        assert len(disk.held) == 2
        while disk.held:
            disk.release()
            await turns()
        assert [partition.log.flushed_offset for partition in partitions] == [1] * 4


async def test_async_partitions_wait_for_the_lazy_flush() -> None:
    disk = HeldDisk()
    flusher = Flusher(disk, on_failure=pytest.fail)
    async with TaskScope("test") as scope:
        flusher.start(scope)
        partition, _ = make(flusher, flush_mode="async")
        await turns()
        append(partition, b"a")
        await turns()
        assert not disk.held and flusher.dirty_count == 1
        flusher.flush_lazily()
        await turns()
        disk.release()
        await turns()
        assert partition.log.flushed_offset == 1


async def test_failed_sync_is_told_and_never_repeated() -> None:
    failures: list[LogClusterError] = []
    executor = HeldDisk()
    flusher = Flusher(executor, on_failure=failures.append)
    async with TaskScope("test") as scope:
        flusher.start(scope)
        disk = SimulatedDisk()
        partition, _ = make(flusher, disk)
        await turns()
        disk.fail_next("sync", 5)
        append(partition, b"a")
        await turns()
        executor.release()
        await turns()
        assert len(failures) == 1
        assert partition.log.flushed_offset == 0
        other, _ = make(flusher)
        append(other, b"a")
        await turns()
        assert not executor.held, "nothing of the directory is synced, and so acknowledged, after that"


async def test_stop_waits_for_what_is_under_way() -> None:
    disk = HeldDisk()
    flusher = Flusher(disk, on_failure=pytest.fail)
    async with TaskScope("test") as scope:
        flusher.start(scope)
        partition, _ = make(flusher)
        await turns()
        append(partition, b"a")
        await turns()
        stopping = asyncio.ensure_future(flusher.stop())
        await turns()
        assert not stopping.done()
        disk.release()
        await stopping
        await turns()
        assert partition.log.flushed_offset == 1


class Blocks:
    def __init__(self) -> None:
        self.calls = 0
        self.fails = 0

    async def allocate_producer_ids(self) -> tuple[int, int]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise NotController
        return self.calls * 100, 3


async def test_ids_come_once_each_and_blocks_are_asked_for_one_at_a_time() -> None:
    blocks = Blocks()
    ids = ProducerIds(blocks)
    taken = await asyncio.gather(*(ids.take() for _ in range(7)))
    assert len(set(taken)) == 7
    assert blocks.calls == 3


async def test_a_failed_block_is_told_to_one_and_asked_again_by_the_next() -> None:
    blocks = Blocks()
    blocks.fails = 1
    ids = ProducerIds(blocks)
    outcomes = await asyncio.gather(ids.take(), ids.take(), return_exceptions=True)
    assert isinstance(outcomes[0], NotController)
    assert outcomes[1] == 200
