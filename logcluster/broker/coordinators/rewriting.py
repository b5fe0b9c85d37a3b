"""Keeping a shard's log near the size of its live state, until there is key compaction.

The leader notes the log's end S, and from then on every key that is appended. When the store has come to S, it appends
each key that it holds and that was not appended since again. When all that stands in the log then is committed, also
the newer values for which a key was left out, everything below S is deleted. Whoever reads from S on has the complete
state. A leadership that ends in the middle leaves some records twice, and a deletion that does not reach a follower
leaves some superseded ones: neither means anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from logcluster.broker.coordinators.standby import Standby
from logcluster.broker.coordinators.turn import append_records
from logcluster.broker.partition import Partition
from logcluster.model.errors import LogClusterError
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import TaskScope
from logcluster.storage.shard_store import ShardStore

log = get_logger("coordinators")

KEYS_PER_PIECE: Final = 200
PAUSE_MS: Final = 10
RETRY_PAUSE_MS: Final = 5_000


class RewritingHost(Protocol):
    """What is needed of the runtime."""

    store: ShardStore
    clock: Clock
    disk: DiskExecutor
    rewrite_size_bytes_min: int

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        """As `ReplicaManager.delete_records`."""


class RewrittenShard(Protocol):
    """What is needed of the shard."""

    partition: Partition
    standby: Standby
    scope: TaskScope

    @property
    def epoch(self) -> int | None: ...

    def leads(self, epoch: int | None) -> bool: ...


class Rewriter:
    """Of one shard; at work only while the shard leads."""

    def __init__(self, shard: RewrittenShard, host: RewritingHost) -> None:
        self._shard = shard
        self._host = host
        self._appended: set[bytes] | None = None
        """Keys with a newer value behind S; None while nothing is rewritten."""
        self._not_before_ms = 0

    def note_appended(self, keys: list[bytes]) -> None:
        """These keys have just been appended."""
        if self._appended is not None:
            self._appended.update(keys)

    def look(self) -> None:
        """Begin, if more than half of the log is superseded and it is worth it."""
        shard = self._shard
        if self._appended is not None or not shard.leads(shard.epoch) or not self._is_due():
            return
        self._appended = set()
        shard.scope.spawn(
            self._rewrite(shard.epoch, shard.partition.log.log_end_offset), name=f"rewrite-{shard.partition.index}"
        )

    def _is_due(self) -> bool:
        log = self._shard.partition.log
        if log.size_bytes < self._host.rewrite_size_bytes_min:
            return False
        if self._host.clock.monotonic_ms() < self._not_before_ms:
            return False
        record_count = log.log_end_offset - log.log_start_offset
        return record_count > 2 * self._shard.standby.position.key_count + KEYS_PER_PIECE

    async def _rewrite(self, epoch: int | None, start_offset: int) -> None:
        """Rewrite for one leadership; an error leaves it for later. Cancellation: some records stand twice."""
        partition = self._shard.partition
        try:
            if await self._copy(epoch, start_offset):
                failpoint("coordinator.rewrite.before_delete")
                self._host.delete_records(partition.topic, partition.index, start_offset)
                probe("coordinator.log.rewritten")
                log.info("shard_rewritten", partition=str(partition.topic_partition), log_start_offset=start_offset)
        except LogClusterError as error:
            probe("coordinator.log.rewriting_given_up")
            log.warning("shard_not_rewritten", partition=str(partition.topic_partition), error=error.message)
        finally:
            self._appended = None
            self._not_before_ms = self._host.clock.monotonic_ms() + RETRY_PAUSE_MS

    async def _copy(self, epoch: int | None, start_offset: int) -> bool:
        """Append what is live again; returns whether all of it is committed."""
        shard, host = self._shard, self._host
        partition = shard.partition
        while shard.standby.position.next_offset < start_offset:
            if not shard.leads(epoch):
                return False
            await host.clock.sleep_ms(PAUSE_MS)
        start = b""
        while page := await host.disk.run(
            lambda: host.store.page(partition.topic_id_partition, start, count_max=KEYS_PER_PIECE)  # noqa: B023 - run at once
        ):
            appended = self._appended
            if appended is None or not shard.leads(epoch):
                return False
            records: list[tuple[bytes, bytes | None]] = [(key, value) for key, value in page if key not in appended]
            if records:
                append_records(partition, records, host.clock.now_ms())
            start = page[-1][0] + b"\x00"
            await host.clock.sleep_ms(PAUSE_MS)
        end_offset = partition.log.log_end_offset
        while partition.high_watermark < end_offset:
            if not shard.leads(epoch):
                return False
            await host.clock.sleep_ms(PAUSE_MS)
        return shard.leads(epoch)
