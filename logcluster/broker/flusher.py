"""Group commit of one log directory: whatever is dirty is synced off the event loop, as soon as a worker is free.

No delay is added when idle: the first append starts a flush at once, and what arrives meanwhile forms the next group.
Several logs are synced at the same time by up to `workers_max` workers; a log has at most one flush under way.
Partitions with `flush.mode=async` are flushed lazily, by `flush_lazily`, only so that a restart scans little.

A failed sync is never repeated: the data counts as lost and `on_failure` stops the directory (P8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from logcluster.broker.partition import Partition
from logcluster.model.errors import LogClusterError, StorageFailure
from logcluster.runtime.clock import perf_counter_ns
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import TaskScope
from logcluster.storage.log_flush import PendingFlush

Group = Sequence[tuple[Partition, PendingFlush]]


class Flusher:
    """Flushes the partitions of one log directory; `start` it in a scope.

    Args:
        on_failure: told once per failed group; must make sure that nothing of the directory is acknowledged any more.
    """

    def __init__(
        self, disk: DiskExecutor, *, on_failure: Callable[[LogClusterError], None], workers_max: int = 4
    ) -> None:
        self._disk = disk
        self._on_failure = on_failure
        self.on_flush: Callable[[float], None] | None = None
        """Told the seconds that each group took, waiting for a thread included."""
        self._workers_max = workers_max
        self._dirty: dict[Partition, None] = {}
        self._lazy: dict[Partition, None] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._has_stopped = False
        self._busy_count = 0
        self._drained: asyncio.Future[None] | None = None

    @property
    def dirty_count(self) -> int:
        """Partitions waiting for a flush, those of `flush.mode=async` included."""
        return len(self._dirty) + len(self._lazy)

    def start(self, scope: TaskScope) -> None:
        """Begin to work, in tasks of `scope`."""
        for number in range(self._workers_max):
            scope.spawn(self._work(), name=f"flusher-{number}")

    def mark_dirty(self, partition: Partition) -> None:
        """There is something to sync in `partition`; its `is_dirty` stays set until nothing is left to sync."""
        if not partition.is_synced_before_report:
            self._lazy[partition] = None
            return
        self._lazy.pop(partition, None)
        self._dirty[partition] = None
        self._wake_one()

    def flush_lazily(self) -> None:
        """Flush now what `flush.mode=async` left; called once in a while."""
        if self._lazy:
            lazy, self._lazy = self._lazy, {}
            self._dirty.update(lazy)
            self._wake_one()

    def stop_failed(self) -> None:
        """The directory failed: take up nothing any more."""
        self._has_stopped = True
        self._dirty.clear()
        self._lazy.clear()

    def forget(self, partition: Partition) -> None:
        """The partition is gone."""
        self._dirty.pop(partition, None)
        self._lazy.pop(partition, None)

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            future = idle.pop()
            if not future.done():
                future.set_result(None)
                return

    async def _work(self) -> None:
        while not self._has_stopped:
            if not self._dirty:
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle.append(waiting)
                await waiting
                continue
            group = self._take_group()
            if self._dirty:
                self._wake_one()
            if group:
                await self._flush(group)

    def _take_group(self) -> Group:
        """Take a fair share of what is dirty; a log whose flush is under way is not among it until it completes."""
        share = -(-len(self._dirty) // max(1, self._workers_max - self._busy_count))
        group: list[tuple[Partition, PendingFlush]] = []
        for partition in list(self._dirty)[:share]:
            del self._dirty[partition]
            pending = None if partition.log.failure is not None else partition.log.prepare_flush()
            if pending is None:
                partition.is_dirty = False
            else:
                group.append((partition, pending))
        return group

    async def stop(self) -> None:
        """Take up nothing more and wait for what is under way. Cancellation: flushes go on."""
        self._has_stopped = True
        while self._idle:
            self._wake_one()
        while self._busy_count:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def _flush(self, group: Group) -> None:
        failures: list[LogClusterError] = []

        def run() -> None:
            for _, pending in group:
                try:
                    pending.run()
                except StorageFailure as error:
                    failures.append(error)
                    return

        self._busy_count += 1
        try:
            failpoint("replication.flusher.before_sync")
            began_ns = perf_counter_ns()
            await self._disk.run(run)
            if self.on_flush is not None:
                self.on_flush((perf_counter_ns() - began_ns) / 1e9)
        finally:
            self._busy_count -= 1
            if not self._busy_count and self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
        failpoint("replication.flusher.before_complete")
        for partition, pending in group:
            partition.log.complete_flush(pending)
        if failures:
            failpoint("replication.flusher.before_stop")
            self._has_stopped = True
            self._on_failure(failures[0])
            return
        failpoint("replication.flusher.before_report")
        for partition, _ in group:
            partition.on_flushed()
            if partition.log.failure is None and partition.log.is_dirty:
                self.mark_dirty(partition)
            else:
                partition.is_dirty = False
