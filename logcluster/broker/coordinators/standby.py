"""Keeping the state store in step with one shard's committed records; the same on the leader and on followers.

The store's position is believed only if the log agrees with it: within the log, and written in the leader epoch that
the log's history knows for it. Otherwise the shard is emptied and read anew from the log's start, from where on its
state is always complete (see `rewriting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from logcluster.broker.partition import Partition
from logcluster.model.errors import OffsetOutOfRange
from logcluster.model.probes import probe
from logcluster.record.batch import decode_records, iterate_headers
from logcluster.runtime.disk import DiskExecutor
from logcluster.storage.batch_scan import LogRead
from logcluster.storage.shard_store import Change, ShardPosition, ShardStore

READ_SIZE_BYTES = 1 << 20
Result = TypeVar("Result")
BARRIER_KEY = b"\x00"
"""Key of a record that says nothing: that it was committed proves who leads."""


class Standby:
    """One shard's part of the store.

    Args:
        writes: held while anybody writes to the store, which takes one writer at a time.
    """

    def __init__(self, partition: Partition, store: ShardStore, disk: DiskExecutor, writes: asyncio.Lock) -> None:
        self.partition = partition
        self.position = ShardPosition(0, None, 0)
        self._store = store
        self._disk = disk
        self._writes = writes

    @property
    def is_behind(self) -> bool:
        """Is there something committed that the store does not have?"""
        return self.position.next_offset < self.partition.high_watermark

    async def open(self) -> None:
        """Find out how far the store is.

        Raises:
            StorageFailure: the store cannot be used.
        """
        shard = self.partition.topic_id_partition
        # Alone, so that nobody forgets the shard after its position was read.
        position = await write_alone(self._writes, self._disk, lambda: self._store.position(shard))
        if position is None or not self._agrees(position):
            if position is not None:
                probe("coordinator.store.position_not_believed")
            await self._begin_anew()
            return
        self.position = position

    def _agrees(self, position: ShardPosition) -> bool:
        log = self.partition.log
        if not log.log_start_offset <= position.next_offset <= log.log_end_offset:
            return False
        if position.leader_epoch is None or position.next_offset == log.log_start_offset:
            return True
        return log.leader_epochs.epoch_at(position.next_offset - 1) == position.leader_epoch

    async def _begin_anew(self) -> None:
        shard, start = self.partition.topic_id_partition, self.partition.log.log_start_offset
        self.position = await write_alone(self._writes, self._disk, lambda: self._store.reset(shard, next_offset=start))

    async def catch_up(self) -> bool:
        """Take over one piece of what is committed; returns whether there was one. Cancellation: it may be taken over.

        Raises:
            StorageFailure: the store, or the log directory, cannot be used.
            LogClusterError: the log cannot be read at the moment.
        """
        if not self.is_behind:
            return False
        partition, start = self.partition, self.position.next_offset
        log, end = partition.log, partition.high_watermark
        if start < log.log_start_offset:
            probe("coordinator.store.behind_log_start")
            await self._begin_anew()
            return True
        try:
            read = log.read_tail(start, size_bytes_max=READ_SIZE_BYTES, end_offset=end)
            if read is None:
                read = await self._disk.run(lambda: log.read(start, size_bytes_max=READ_SIZE_BYTES, end_offset=end))
        except OffsetOutOfRange:
            # The log has begun later meanwhile, or was made anew: look again.
            await self.open()
            return True
        if not read.data:
            return False
        self.position = await write_alone(self._writes, self._disk, lambda: self._take_over(read))
        return True

    def _take_over(self, read: LogRead) -> ShardPosition:
        changes, leader_epoch = committed_changes(read.data, self.position.next_offset)
        return self._store.apply(
            self.partition.topic_id_partition, changes, next_offset=read.next_offset, leader_epoch=leader_epoch
        )


async def write_alone(writes: asyncio.Lock, disk: DiskExecutor, work: Callable[[], Result]) -> Result:
    """Do something with the store while nobody else writes to it.

    Cancellation: what was begun is carried out, and holds the lock until then; it may be older than the next write.
    """
    async with writes:
        is_done = asyncio.Event()

        async def carry_out() -> Result:
            try:
                return await disk.run(work)
            finally:
                is_done.set()

        try:
            return await asyncio.shield(carry_out())
        except asyncio.CancelledError:
            while not is_done.is_set():
                with suppress(asyncio.CancelledError):
                    await is_done.wait()
            raise


def committed_changes(data: bytes, start_offset: int) -> tuple[list[Change], int | None]:
    """The changes in whole batches from `start_offset` on, and the leader epoch of the last batch."""
    changes: list[Change] = []
    leader_epoch: int | None = None
    for position, header in iterate_headers(data):
        leader_epoch = header.leader_epoch
        if header.is_control:
            continue
        for record in decode_records(data[position : position + header.size_bytes]):
            key = record.key
            if record.offset >= start_offset and key is not None and not key.startswith(BARRIER_KEY):
                changes.append((key, record.value))
    return changes, leader_epoch
