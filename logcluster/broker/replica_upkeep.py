"""What time asks of the hosted replicas: late waiters, laggards, checkpoints, retention, expiry. One task for all.

The short turn looks only at partitions somebody waits for; the second one at led partitions with other replicas; the
rest runs seldom and leaves the event loop for the disk. An idle broker writes no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from logcluster.broker.partition import Partition
from logcluster.model.errors import LogClusterError
from logcluster.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from logcluster.broker.replica_manager import ReplicaManager

TURN_MS: Final = 100
TRASH_DELAY_MS: Final = 60_000
"""Renamed files stay this long, so that readers that opened them can finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepSettings:
    """How often what happens, in milliseconds."""

    in_sync_check_interval_ms: int = 500
    checkpoint_interval_ms: int = 5_000
    retention_check_interval_ms: int = 300_000
    producer_expiration_ms: int = 24 * 60 * 60 * 1000


class ReplicaUpkeep:
    """The periodic work of one replica manager; `run` it in a scope."""

    def __init__(self, manager: ReplicaManager, settings: UpkeepSettings) -> None:
        self._manager = manager
        self._settings = settings
        self._waiting: dict[Partition, None] = {}
        self._checkpoints_due = 0
        self._trash: list[tuple[int, list[str]]] = []

    def watch_waiters(self, partition: Partition) -> None:
        """Somebody waits for a commit in `partition`."""
        self._waiting[partition] = None

    def note_activity(self) -> None:
        """Something was appended: the next two checkpoints are worth writing (the second one sees it committed)."""
        self._checkpoints_due = 2

    async def run(self) -> None:
        """Work until cancelled."""
        clock = self._manager.clock
        settings = self._settings
        start_ms = clock.monotonic_ms()
        next_in_sync_ms = start_ms + settings.in_sync_check_interval_ms
        next_checkpoint_ms = start_ms + settings.checkpoint_interval_ms
        next_retention_ms = start_ms + settings.retention_check_interval_ms
        while True:
            await clock.sleep_ms(TURN_MS)
            now_ms = clock.monotonic_ms()
            self.expire_waiters(now_ms)
            if now_ms >= next_in_sync_ms:
                next_in_sync_ms = now_ms + settings.in_sync_check_interval_ms
                self.check_in_sync(now_ms)
            if now_ms >= next_checkpoint_ms:
                next_checkpoint_ms = now_ms + settings.checkpoint_interval_ms
                await self.checkpoint()
                await self._empty_trash(now_ms)
            if now_ms >= next_retention_ms:
                next_retention_ms = now_ms + settings.retention_check_interval_ms
                self.apply_retention(now_ms)

    def expire_waiters(self, now_ms: int) -> None:
        """Fail produce requests whose time is over."""
        if self._waiting:
            self._waiting = {partition: None for partition in self._waiting if partition.expire_waiters(now_ms)}

    def check_in_sync(self, now_ms: int) -> None:
        """Find laggards, and newcomers that could not be proposed before."""
        manager = self._manager
        for partition in manager.partitions:
            leader = partition.leader
            if leader is None or not leader.remotes:
                if leader is not None and leader.is_recovering:
                    manager.request_isr_change(partition)
                continue
            if leader.has_outsiders:
                partition.recheck(now_ms)
            if leader.pending is None and leader.wants_change(now_ms):
                manager.request_isr_change(partition)

    async def checkpoint(self) -> None:
        """Write recovery points and high watermarks, and flush what `flush.mode=async` left."""
        manager = self._manager
        if self._checkpoints_due == 0 or manager.failure is not None:
            return
        self._checkpoints_due -= 1
        manager.flusher.flush_lazily()
        write = manager.log_manager.prepare_checkpoint()
        failpoint("replication.upkeep.before_checkpoint")
        try:
            await manager.disk.run(write.run)
        except LogClusterError:
            return  # the directory has stopped, and says so itself

    def apply_retention(self, now_ms: int) -> None:
        """Delete old segments, by the wall clock, and forget idle producers, by the monotonic `now_ms`."""
        manager = self._manager
        wall_ms = manager.clock.now_ms()
        for partition in list(manager.partitions):
            log = partition.log
            if log.failure is not None:
                continue
            failpoint("replication.upkeep.before_retention")
            partition.producers.expire(now_ms, expiration_ms=self._settings.producer_expiration_ms)
            try:
                log.apply_retention(
                    wall_ms,
                    high_watermark=partition.high_watermark,
                    retention_ms=log.config.retention_ms,
                    retention_bytes=log.config.retention_bytes,
                )
            except LogClusterError:
                continue  # the directory has stopped, and says so itself
        self._collect_trash(now_ms)

    def _collect_trash(self, now_ms: int) -> None:
        paths = self._manager.log_manager.collect_trash()
        if paths:
            self._trash.append((now_ms + TRASH_DELAY_MS, paths))

    async def _empty_trash(self, now_ms: int) -> None:
        self._collect_trash(now_ms)
        due = [paths for due_ms, paths in self._trash if due_ms <= now_ms]
        if due:
            failpoint("replication.upkeep.before_trash")
            self._trash = [entry for entry in self._trash if entry[0] > now_ms]
            manager = self._manager
            for paths in due:
                await manager.disk.run(_remover(manager, paths))


def _remover(manager: ReplicaManager, paths: Iterable[str]) -> Callable[[], None]:
    def remove() -> None:
        try:
            manager.log_manager.remove_paths(paths)
        except LogClusterError:
            return  # the directory has stopped, and says so itself

    return remove
